"""What would not stay flat in memory, kept in a temporary SQLite file: a corpus, ids seen so far."""

import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rerankq.contract.errors import InvalidRequest


class TextsById:
    """Texts by their id: written once, read at random; gone with the process."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self._directory, self._database = _scratch(
            "CREATE TABLE texts (id TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID"
        )
        self._database.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?)", texts)

    def get(self, name: str) -> str | None:
        """The text of that id, if there is one."""
        found = self._database.execute("SELECT text FROM texts WHERE id = ?", (name,)).fetchone()
        return None if found is None else found[0]


class SeenIds:
    """Tells an id that comes a second time."""

    def __init__(self) -> None:
        self._directory, self._database = _scratch("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")

    def refuse_repeated(self, name: str, way_out: str) -> None:
        """Note an id.

        Raises:
            InvalidRequest: it was there before.
        """
        try:
            self._database.execute("INSERT INTO seen VALUES (?)", (name,))
        except sqlite3.IntegrityError as error:
            raise InvalidRequest(
                f"expected the lines of query {name} to be neighbours, got them in two places; {way_out}",
                {"field": "query_id"},
            ) from error


def _scratch(schema: str) -> tuple[tempfile.TemporaryDirectory[str], sqlite3.Connection]:
    directory = tempfile.TemporaryDirectory(prefix="rerankq-bulk-")
    database = sqlite3.connect(Path(directory.name) / "scratch.sqlite", isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
        database.execute(f"PRAGMA {pragma}")
    database.execute(schema)
    return directory, database
