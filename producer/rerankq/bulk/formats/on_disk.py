"""What would not stay flat in memory, kept on disk: a corpus, the ids seen so far.

SQLite's own temporary database (an empty name) lies in TMPDIR and is gone with its connection.
"""

import sqlite3
from collections.abc import Iterable
from typing import Self

from rerankq.contract.errors import InvalidRequest


class _Scratch:
    def __init__(self, schema: str) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {schema}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()


class TextsById(_Scratch):
    """Texts by their id: written once, read at random. An id that comes with another text once more has none."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        super().__init__("CREATE TABLE texts (id TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID")
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO texts VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET text = NULL WHERE text IS NOT excluded.text",
            texts,
        )
        self._database.execute("COMMIT")

    def get(self, name: str) -> str | None:
        """The text of that id, if there is one."""
        found = self._found(name)
        return None if found is None else found[0]

    def has_several(self, name: str) -> bool:
        """Whether that id came with texts that differ."""
        return self._found(name) == (None,)

    def _found(self, name: str) -> tuple[str | None] | None:
        return self._database.execute("SELECT text FROM texts WHERE id = ?", (name,)).fetchone()


class SeenIds(_Scratch):
    """Tells an id that comes a second time."""

    def __init__(self) -> None:
        super().__init__("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")

    def refuse_repeated(self, name: str, way_out: str) -> None:
        """Note an id."""
        try:
            self._database.execute("INSERT INTO seen VALUES (?)", (name,))
        except sqlite3.IntegrityError as error:
            raise InvalidRequest(
                f"expected the lines of query {name} to be neighbours, got them in two places; {way_out}",
                {"field": "query_id"},
            ) from error
