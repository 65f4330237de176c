"""A TREC run: `qid Q0 docid rank score tag`."""

from rerankq.bulk.rows import Entry, document_key
from rerankq.bulk.writers.json_lines import place_of
from rerankq.contract.messages import Ranking

RUN_TAG = "rerankq"


class TrecRun:
    """One line per document. The score is the logit: TREC tools sort by it, and sigmoids of good matches tie."""

    def header(self) -> bytes:
        """Nothing."""
        return b""

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        """The row's documents, best first."""
        query_id = place_of(entry) if entry.row.id is None else entry.row.id
        scored = [result for result in ranking.results if result.logit is not None]
        return b"".join(
            f"{query_id} Q0 {document_key(result.id, result.index)} {rank} {result.logit} {RUN_TAG}\n".encode()
            for rank, result in enumerate(scored, start=1)
        )
