"""What a run asks of any format: of a reader to come to rows, of a writer to have bytes to append."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from rerankq.bulk.formats.inputs import Given, Input
from rerankq.bulk.formats.names import Layout
from rerankq.bulk.rows import Entry, InputRow
from rerankq.contract.messages import Ranking


class Reader(ABC):
    """Gives records (cheap, so that a resumed run can pass over what is done), and turns a record into a row."""

    def __init__(self, given: Given) -> None:
        self._input, self._names = given.input, given.names

    @abstractmethod
    def records(self) -> Iterator[Any]:
        """The input's records in order, the same every time; what makes one request is one of them.

        Raises:
            InvalidRequest: the input is broken.
        """

    @abstractmethod
    def row(self, record: Any) -> InputRow:
        """What a record says; a broken one gives a row with an error, never an exception."""

    def inputs(self) -> list[Input]:
        """Every file that is read."""
        return [self._input]

    def fraction_read(self) -> float | None:
        """How much of the input has been read, 0..1; None when that cannot be told."""
        return self._input.fraction_read()

    def further_columns(self) -> Sequence[str] | None:
        """What a table's lines carry beside their request; None where that is not known beforehand."""
        return None


class Writer(ABC):
    """Turns an answered row into bytes to append."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def header(self) -> bytes:
        """What stands before the first row."""
        return b""

    @abstractmethod
    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        """What is appended for one row: whole lines.

        Raises:
            InvalidRequest: the format has no form for it.
        """
