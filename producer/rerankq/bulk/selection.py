"""Which rows of an input are asked: those that all conditions hold for, of these a stretch, of that every n-th.

In this order, so that hosts with a shard each share one stretch among them.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, islice
from typing import Any, TypeVar

from rerankq.bulk.formats import Reader
from rerankq.bulk.formats.fields import value_at
from rerankq.bulk.formats.inputs import READ_ERRORS, unreadable
from rerankq.bulk.formats.trec import COLUMNS
from rerankq.bulk.rows import InputRow, seen
from rerankq.contract.errors import InvalidRequest, RerankError

ROWS_LOOKED_INTO = 100
"""A field that none of the first ones has is none of this input."""

Item = TypeVar("Item")

_NOWHERE = object()
_CONDITION = re.compile(r"(?P<path>.+?)(?P<negation>!?)==?(?P<value>.*)", re.DOTALL)
_SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and where it was read."""

    position: int
    """Records before it in the input."""
    place: Mapping[str, Any]
    """File and line, where there are several files."""
    record: Any
    row: InputRow | None = None
    """What the record says, where that has been looked at."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`field=value` or `field!=value`: as text, or as the value that the text is in JSON; of a list any element."""

    path: str
    value: str
    is_negated: bool

    @classmethod
    def of(cls, text: str) -> "Condition":
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise InvalidRequest(f"expected field=value or field!=value, got {text}", {"field": "where"})
        return cls(found["path"].strip(), found["value"].strip(), bool(found["negation"]))

    def holds(self, fields: Mapping[str, Any]) -> bool:
        """Whether it holds; a field that is not there is null."""
        return self._is_value(value_at(fields, self.path)) != self.is_negated

    def _is_value(self, value: Any) -> bool:
        if isinstance(value, list) and any(map(self._is_value, value)):
            return True
        try:
            meant = json.loads(self.value)
        except ValueError:
            meant = self.value
        is_meant = value == meant and isinstance(value, bool) == isinstance(meant, bool)
        return is_meant or value == self.value


@dataclass(frozen=True, slots=True)
class Selection:
    """What is chosen; all by default."""

    conditions: Sequence[Condition] = ()
    skip: int = 0
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)
    """Of so many, from 1: the rows that are chosen so far go round."""

    @classmethod
    def of(cls, where: Sequence[str], skip: int, limit: int | None, shard: str | None) -> "Selection":
        number, count = _shard(shard)
        if skip < 0 or (limit is not None and limit < 1):
            raise InvalidRequest(
                f"expected to skip 0 rows or more and to take 1 or more, got {skip} and {limit}",
                {"field": "limit"},
            )
        return cls(tuple(Condition.of(text) for text in where), skip, limit, (number, count))

    def rows(self, reader: Reader, start: int = 0) -> Iterator[InputRow]:
        """The chosen rows from the start-th of them on, each with its place in the input."""
        for placed in islice(self.chosen(reader), start, None):
            row = placed.row or reader.row(placed.record)
            is_line = not isinstance(placed.record, list)  # several may be of several files
            place = placed.place if is_line else {}
            if place or self != ALL:
                row = replace(row, place=place, first_position=placed.position)
            yield row

    def chosen(self, reader: Reader) -> Iterator[Placed]:
        """What is chosen, in order."""
        matching = self._matching(reader, _placed(reader)) if self.conditions else _placed(reader)
        stop = None if self.limit is None else self.skip + self.limit
        number, count = self.shard
        return islice(islice(matching, self.skip, stop), number - 1, None, count)

    def total(self, rows: int | None) -> int | None:
        """How many rows are chosen of so many; at most, where that is not known."""
        if self.conditions:
            return None
        left = self.limit if rows is None else max(rows - self.skip, 0)
        if left is None:
            return None
        number, count = self.shard
        return len(range(number - 1, left if self.limit is None else min(left, self.limit), count))

    def _matching(self, reader: Reader, records: Iterator[Placed]) -> Iterator[Placed]:
        """Records that all conditions hold for; of lines that make a request together, those lines."""
        sought = [one.path for one in self.conditions]
        for placed in once_seen(records, sought, lambda placed: _fields(reader, placed.record)):
            record = placed.record
            if isinstance(record, list):
                held = map(self._hold, _fields(reader, record))
                if kept := list(compress(record, held)):
                    yield replace(placed, record=kept)
            else:
                row = reader.row(record)
                if not row.source or self._hold(row.source):  # what cannot be read is not dropped: it fails
                    yield replace(placed, row=row)

    def _hold(self, fields: Mapping[str, Any]) -> bool:
        return all(one.holds(fields) for one in self.conditions)


ALL = Selection()


def once_seen(
    items: Iterator[Item], sought: Iterable[str], fields_of: Callable[[Item], Iterable[Mapping[str, Any]]]
) -> Iterator[Item]:
    """The items, once each of the fields that are sought has been seen; refused where none of the first has one."""
    missing = set(sought)
    held: list[Item] = []
    fields_seen: dict[str, Any] = {}
    for item in islice(items, ROWS_LOOKED_INTO if missing else 0):
        held.append(item)
        for fields in fields_of(item):
            fields_seen.update(fields)
            missing -= {path for path in missing if _is_there(value_at(fields, path, _NOWHERE))}
        if not missing:
            break
    if missing and fields_seen:
        raise InvalidRequest(
            f"none of the first {len(held)} rows has a field {min(missing)}{seen(fields_seen)}",
            {"field": min(missing)},
        )
    yield from chain(held, items)


def _placed(reader: Reader) -> Iterator[Placed]:
    """The records with their places; what ends them before their time is told as one of our errors."""
    position = 0
    first = reader.inputs()[0]
    try:
        for record in reader.records():
            yield Placed(position, first.place, record)
            position += 1
    except RerankError:
        raise
    except (*READ_ERRORS, csv.Error) as error:
        raise unreadable(first.at.path, error, position) from error


def _fields(reader: Reader, record: Any) -> list[Mapping[str, Any]]:
    """What conditions look into: the row, or each of the lines that make one."""
    if not isinstance(record, list):
        return [reader.row(record).source]
    return [line if isinstance(line, Mapping) else dict(zip(COLUMNS, line, strict=True)) for line in record]


def _is_there(value: Any) -> bool:
    return any(map(_is_there, value)) if isinstance(value, list) and value else value is not _NOWHERE


def _shard(text: str | None) -> tuple[int, int]:
    found = _SHARD.fullmatch(text or "1/1")
    number, count = (0, 0) if found is None else (int(found[1]), int(found[2]))
    if not 1 <= number <= count:
        raise InvalidRequest(f"expected a shard as 3/8, from 1/8 to 8/8, got {text}", {"field": "shard"})
    return number, count
