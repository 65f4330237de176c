"""One writer per output format; all the same to their caller: an answered row in, bytes to append out."""

from typing import Protocol

from rerankq.bulk.rows import Entry
from rerankq.contract.messages import Ranking


class Writer(Protocol):
    """What the run asks of any output format."""

    def header(self) -> bytes:
        """What stands before the first row."""
        ...

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        """What is appended for one row: whole lines."""
        ...
