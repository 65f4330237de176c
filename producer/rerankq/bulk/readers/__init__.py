"""One reader per input format; all the same to their caller.

A reader gives records (cheap, so that a resumed run can pass over what is done) and turns a record into a row.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from rerankq.bulk.rows import Row
from rerankq.bulk.source import Identity


class Reader(Protocol):
    """What the run asks of any input format."""

    def records(self) -> Iterator[Any]:
        """The input's records in order, the same every time."""
        ...

    def row(self, record: Any) -> Row:
        """What a record says; a broken one gives a row with an error, never an exception."""
        ...

    def identities(self) -> list[Identity]:
        """What tells every file that was read from a changed one."""
        ...

    def fraction_read(self) -> float | None:
        """How much of the input has been read, 0..1; None when that cannot be told."""
        ...
