"""Finds query, documents and judgements in an object, whatever it calls them.

A name is a path: `node.text` is the text of the node, and through a list it gives a list. Names joined by commas are
several fields. A key of that very name goes before either. What is null is not there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, chain
from typing import Any

from rerankq.bulk.formats.names import FieldNames, Names
from rerankq.bulk.rows import document_key, seen
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest

PLAIN_GRADES = range(5)
"""Grades by place look like these; TREC's judgements go to 3 or 4."""

HIGHEST_GRADE = 1_000_000  # trec_eval's code keeps a place for each grade up to the highest

_NOWHERE = object()


def chosen(fields: Mapping[str, Any], names: Names) -> str | None:
    """The first of these names under which there is something."""
    for name in names:  # most are plain keys, and there is one to be found for every document
        if fields.get(name) is not None:
            return name
        if ("." in name or "," in name) and _is_reached(fields, name, is_whole=len(names) > 1):
            return name
    return None


def paths(fields: Mapping[str, Any], name: str) -> list[str]:
    """The fields that a name means, one or several."""
    if "," not in name or name in fields:
        return [name]
    return [path.strip() for path in name.split(",")]


def value_at(value: Any, path: str, default: Any = None) -> Any:
    """What lies at a path; of a list what lies there in each of its elements."""
    if isinstance(value, list):
        return [value_at(element, path, default) for element in value]
    head, rest = _step(value, path)
    if head is None:
        return default
    return value_at(value[head], rest, default) if rest else value[head]


def without(value: Any, path: str) -> Any:
    """What is left when that is taken out which lies at a path; None when nothing is."""
    if isinstance(value, list):
        left: list[Any] = [without(element, path) for element in value]
        return None if all(element is None for element in left) else left
    head, rest = _step(value, path)
    if head is None:
        return value
    inner = without(value[head], rest) if rest else None
    kept = {**value, head: inner}
    if inner is None:
        del kept[head]
    return kept or None


def text_at(fields: Mapping[str, Any], names: Names) -> Any:
    """The text under the first of the names that is there: several fields are joined by blanks, empty ones left out."""
    name = chosen(fields, names)
    if name is not None and isinstance(text := fields.get(name), str):
        return text
    parts = [] if name is None else list(_flat(value_at(fields, path) for path in paths(fields, name)))
    if not all(isinstance(part, str) for part in parts):
        return parts[0] if len(parts) == 1 else parts  # whoever validates says what is wrong with it
    return " ".join(part for part in parts if part) if parts else None


def titled_text_at(fields: Mapping[str, Any], names: Names) -> Any:
    """The text with its title before it, as Anserini and BEIR have them, unless the caller named the fields of it."""
    text, title = text_at(fields, names), fields.get("title")
    return f"{title} {text}" if title and isinstance(text, str) and len(names) > 1 else text


def query_at(fields: Mapping[str, Any], names: Names) -> Any:
    """The query: a text, or a list of one."""
    name = chosen(fields, names)
    value = None if name is None else value_at(fields, name)
    if isinstance(value, list) and len(value) != 1:
        return value  # several queries are no text
    return text_at(fields, names)


def documents_at(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The documents of each field that is strung together, by its path: a list, or what is there instead of one."""
    found = {path: value_at(fields, path) for path in paths(fields, name)}
    return {path: _listed(path, value) for path, value in found.items() if value is not None}


def document(given: Any, names: FieldNames) -> Any:
    """A document as we call its parts."""
    if not isinstance(given, dict):
        return given
    text, name = text_at(given, names.text), id_at(given, names.document_id)
    return {"text": text} if name is None else {"text": text, "id": str(name)}


def id_at(fields: Mapping[str, Any], names: Names) -> Any:
    """The id under the first of the names that is there."""
    name = chosen(fields, names)
    return None if name is None else value_at(fields, name)


def missing_field(fields: Mapping[str, Any], names: FieldNames) -> InvalidRequest | None:
    """What is to be said where an object lacks a field that the caller has named."""
    for part in ("query", "documents", "id"):
        if _lacks(fields, getattr(names, part)):
            return _missing(part, getattr(names, part), fields)
    return None


def missing_in_documents(parts: Mapping[str, Any], names: FieldNames) -> InvalidRequest | None:
    """The same where a document lacks its text, or all of them the id that the caller has named."""
    listed = chain(*(part for part in parts.values() if isinstance(part, list)))
    objects = [one for one in listed if isinstance(one, dict)]
    without_text = next((one for one in objects if chosen(one, names.text) is None), None)
    if without_text is not None and _lacks(without_text, names.text):
        return _missing("a document's text", names.text, without_text)
    if without_text is not None:
        return InvalidRequest(f"a document's text: is missing{seen(without_text)}", {"field": "documents"})
    if objects and all(_lacks(one, names.document_id) for one in objects):
        return _missing("a document's id", names.document_id, objects[0])
    return None


def judgements_at(
    fields: Mapping[str, Any], names: Names, parts: Mapping[str, Sequence[Any]]
) -> dict[str, float] | None:
    """Grades by document key, from the first of the names that is there.

    Args:
        parts: the documents by the path they were found at, as `document` gives them.

    Raises:
        InvalidRequest: they could be read in two ways, or not at all where the caller has named them.
    """
    name = chosen(fields, [name for name in names if name == names[0] or name in parts])
    if name is None or not all(isinstance(documents, list) for documents in parts.values()):
        return None
    judged: dict[str, float] = {}
    for path in paths(fields, name):
        found = _judged(fields, path, parts)
        if found is None and len(names) > 1:
            return None  # a key of our own name that means something else
        if found is None:
            raise _unfit(path, "expected grades by id, a list of ids, or a grade for each document")
        judged.update(found)
    return judged


def judgements_left(
    fields: Mapping[str, Any], names: FieldNames, documents: Sequence[Any] | None = None
) -> tuple[dict[str, float] | None, bool]:
    """The judgements that an output carries, and whether it carries some that cannot be read.

    Args:
        documents: as `document` gives them; None where not all are left, so that grades by place belong to nobody.
    """
    value = value_at(fields, names.relevant[0])
    if (
        documents is None
        and isinstance(value, list)
        and not all(isinstance(one, str | list) for one in value)
    ):
        return None, True
    parts = {} if documents is None else {"documents": documents}
    judged = judgements_at(fields, names.relevant, parts)
    return judged, judged is None and bool(value)


def grades(relevant: Any) -> dict[str, float] | None:
    """Grades by document id, from `{id: grade}` or a list of the right ones' ids, or either as JSON text; None for
    anything else. An id without a grade, as columns have it where another row has one, is not judged."""
    if isinstance(relevant, str):
        try:
            relevant = wire.decode(relevant)
        except ValueError:
            return None
    if isinstance(relevant, list) and all(isinstance(pair, list) for pair in relevant):
        with suppress(TypeError, ValueError):
            relevant = dict(relevant)  # pairs, as Arrow has a map
    if isinstance(relevant, dict):
        try:
            judged = {str(name): float(grade) for name, grade in relevant.items() if grade is not None}
        except (TypeError, ValueError):
            return None
        return judged if all(abs(grade) <= HIGHEST_GRADE for grade in judged.values()) else None
    if isinstance(relevant, list) and all(isinstance(name, str | int) for name in relevant):
        return {str(name): 1.0 for name in relevant}
    return None


def _judged(
    fields: Mapping[str, Any], path: str, parts: Mapping[str, Sequence[Any]]
) -> dict[str, float] | None:
    """The grades at one path: of all documents that lie there, of those beside it by place, else by id."""
    keys = _keys(parts)
    if path in parts:
        return dict.fromkeys(keys[path], 1.0)
    value, parent = value_at(fields, path), path.rpartition(".")[0]
    is_through_list = bool(parent) and isinstance(value_at(fields, parent), list)
    if value is None:
        return {}
    if is_through_list and any(isinstance(one, list) for one in value):
        value = list(_flat(value))
    if not isinstance(value, list) or not all(isinstance(grade, int | float | None) for grade in value):
        return grades(value)
    beside = next((part for part in parts if parent and parent in (part, part.rpartition(".")[0])), None)
    judged = list(chain(*keys.values())) if beside is None else keys[beside]
    if (beside is not None and is_through_list) or _are_by_place(
        path, value, judged, has_ids=_have_numbers(parts)
    ):
        return _by_place(path, value, judged)
    return grades(value)


def _are_by_place(path: str, value: list[Any], keys: list[str], *, has_ids: bool) -> bool:
    """Whether a list of numbers grades the documents one by one, rather than names the relevant ones.

    As many places as there are documents would call all of them relevant: such a list is none of places.
    """
    are_grades = all(grade in PLAIN_GRADES for grade in value if grade)
    is_repeated = len(set(value)) < len(value)  # as no list of ids is
    if (are_grades and is_repeated) or any(isinstance(grade, float | bool) for grade in value):
        return True
    if len(value) != len(keys) or (has_ids and not are_grades):
        return False
    if has_ids:
        raise _unfit(path, "may be ids or grades by place; write true and false, or grades by id")
    return True


def _by_place(path: str, value: list[Any], keys: list[str]) -> dict[str, float]:
    if len(value) != len(keys):
        raise _unfit(path, f"expected a grade for each of {len(keys)} documents, got {len(value)}")
    judged: dict[str, float] = {}
    for key, grade in zip(keys, value, strict=True):
        if grade is not None:
            judged[key] = max(float(grade), judged.get(key, 0.0))
    return judged


def _keys(parts: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """What judgements call the documents of each part."""
    keys: dict[str, list[str]] = {}
    place = 0
    for path, documents in parts.items():
        names = [one.get("id") if isinstance(one, dict) else None for one in documents]
        keys[path] = [document_key(name, place + index) for index, name in enumerate(names)]
        place += len(names)
    return keys


def _have_numbers(parts: Mapping[str, Sequence[Any]]) -> bool:
    """Whether there are documents whose ids are numbers."""
    named = (one.get("id") for one in chain(*parts.values()) if isinstance(one, dict))
    return any(name is not None and str(name).removeprefix("-").isdigit() for name in named)


def _lacks(fields: Mapping[str, Any], names: Names) -> bool:
    """Whether nothing lies at the paths that the caller has named."""
    return len(names) == 1 and all(
        value_at(fields, path, _NOWHERE) is _NOWHERE for path in paths(fields, names[0])
    )


def _missing(part: str, names: Names, fields: Mapping[str, Any]) -> InvalidRequest:
    return InvalidRequest(f"{part}: there is no field {names[0]}{seen(fields)}", {"field": part})


def _unfit(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: {what}", {"field": "relevant"})


def _is_reached(fields: Mapping[str, Any], name: str, *, is_whole: bool) -> bool:
    """Whether there is something under a name, and where it is a guess of ours all of its keys."""
    found = [value_at(fields, path, _NOWHERE) for path in paths(fields, name)]
    there = [value for value in found if value is not _NOWHERE]
    return any(value is not None for value in there) and (not is_whole or len(there) == len(found))


def _step(value: Any, path: str) -> tuple[str | None, str]:
    """The first key on the path, and what of the path comes after it."""
    if not isinstance(value, dict):
        return None, path
    if path in value or "." not in path:
        return (path if path in value else None), ""
    heads = accumulate(path.split("."), "{}.{}".format)
    head = next((head for head in heads if head in value), None)
    return head, "" if head is None else path[len(head) + 1 :]


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        elif value is not None:
            yield value


def _listed(path: str, value: Any) -> Any:
    """A list: of a struct of lists, as columns have it, one of structs; of a list of lists all that they hold; of one
    alone itself, save under the name that says there are several."""
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        columns: Any = value.values()
        if len({len(column) for column in columns}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(value, list) and any(isinstance(one, list) for one in value):
        return list(_flat(value))
    is_lone = isinstance(value, str | dict) and path != "documents"
    return [value] if is_lone else value
