"""What a run is asked to do. Opens nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """What the command line or a program asks for."""

    input: str
    output: str
    format: str | None = None
    output_format: str | None = None
    names: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """What the input calls the fields of `FieldNames`, where it is not the usual."""
    queries: str | None = None
    corpus: str | None = None
    qrels: str | None = None
    depth: int | None = None
    """Candidates per query of a TREC run; all when absent."""
    relevant_from: int = 1
    """The lowest grade that counts as relevant for MRR."""
    skips_missing: bool = False
    """Go on without documents of a TREC run that the corpus lacks."""
    delimiter: str | None = None
    """Between the columns of a table, in and out; by format when absent, as is whether quotes enclose fields."""
    is_quoted: bool | None = None
    columns: Sequence[str] | None = None
    """Of a table without a header."""
    encoding: str = "utf-8"
    is_ordered: bool = True
    with_documents: bool = False
    output_columns: Sequence[str] = ()
    """Keys or columns of the output, in order; `-name` leaves one out."""
    where: Sequence[str] = ()
    """`field=value` or `field!=value`, all of which a row must meet."""
    skip: int = 0
    """Of the rows that do, how many are passed over first."""
    limit: int | None = None
    """Of the rest, how many are taken."""
    shard: str | None = None
    """`3/8`: of these the third and each eighth after it."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of `RerankRequest` for every row that does not set them itself."""
    pack_pairs: int | None = None
    also_written: Sequence[str] = ()
    """Files that whoever asks will write himself."""

    @property
    def read_paths(self) -> list[str]:
        """Every file that is read."""
        return [path for path in (self.input, self.queries, self.corpus, self.qrels) if path is not None]
