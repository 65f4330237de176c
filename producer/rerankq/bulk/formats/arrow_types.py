"""What an Arrow value is in a line of JSON, and back again in its own type; what type a column of JSON has.

Lines lie between an input and an output of columns, and in the errors file, where they are mended by hand: a date is
`"2026-11-26"`, a decimal text, bytes are their text or `{"base64"}`, a duration is a number of its unit.
"""

import base64
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any
from uuid import UUID

from rerankq.contract.errors import InvalidSettings

MOST_FIELDS = 100  # of an object with more the keys are no names but values, say ids
_INT64 = range(-(2**63), 2**63)


def pyarrow(part: str | None = None) -> Any:
    """pyarrow, or a part of it.

    Raises:
        InvalidSettings: it is not installed.
    """
    try:
        return import_module("pyarrow" if part is None else f"pyarrow.{part}")
    except ImportError as error:
        raise InvalidSettings(
            "Parquet, Arrow and tables need pyarrow, which is not installed; `pip install 'rerankq[bulk]'` brings it"
        ) from error


def as_json(array: Any) -> list[Any]:
    """An array's values as JSON has them."""
    arrow = pyarrow()
    kind = _in_json(array.type)
    try:
        values = (array if kind == array.type else array.cast(kind)).to_pylist()
    except arrow.ArrowException:  # an interval, a dictionary of dates
        values = array.to_pylist()
    return values if _is_same_in_json(kind) else [_value_as_json(value) for value in values]


def as_arrow(values: Iterable[Any], kind: Any) -> Any:
    """Values of JSON as an array of that type.

    Raises:
        ValueError, TypeError, OverflowError: one does not fit; the message may hold it.
    """
    arrow, values = pyarrow(), list(values)
    if arrow.types.is_dictionary(kind):
        encoded = as_arrow(values, kind.value_type).dictionary_encode()
        places = encoded.indices.cast(kind.index_type)
        return arrow.DictionaryArray.from_arrays(places, encoded.dictionary, ordered=kind.ordered)
    if _is_text_in_json(kind) and not arrow.types.is_time(kind):
        return arrow.array(values, type=arrow.string()).cast(kind)
    if not _has_fields(kind):  # of which pyarrow would leave out what the type lacks
        with suppress(arrow.ArrowException, OverflowError):
            return arrow.array(values, type=kind)
    return arrow.array(list(map(_fitting(kind), values)), type=kind)


def type_of(values: Iterable[Any]) -> Any:
    """The type that values of JSON have in common, `null` where there are none.

    Raises:
        ValueError: they have none that a column can have.
    """
    arrow = pyarrow()
    given = [value for value in values if value is not None]
    kinds = {type(value) for value in given}
    if kinds == {dict}:
        names = dict.fromkeys(name for value in given for name in value)
        if not 0 < len(names) <= MOST_FIELDS:
            raise ValueError("too many fields, or none")
        return arrow.struct({name: type_of(value.get(name) for value in given) for name in names})
    if kinds == {list}:
        return arrow.list_(type_of(part for value in given for part in value))
    if kinds == {int} and all(value in _INT64 for value in given):
        return arrow.int64()
    of_kinds = {bool: arrow.bool_(), float: arrow.float64(), str: arrow.string()}
    if not kinds:
        return arrow.null()
    if len(kinds) == 1 and (kind := kinds.pop()) in of_kinds:
        return of_kinds[kind]
    if kinds == {int, float}:
        return arrow.float64()
    raise ValueError("mixed")


def joined(one: Any, other: Any) -> Any:
    """The type that values of both types have in common.

    Raises:
        ValueError, TypeError: there is none.
    """
    arrow = pyarrow()
    schemas = [arrow.schema({"": one}), arrow.schema({"": other})]
    return arrow.unify_schemas(schemas, promote_options="permissive").field(0).type


def without_nulls(kind: Any) -> Any:
    """The type with text where nothing is known: not every reader of Parquet knows a type of nulls."""
    arrow = pyarrow()
    return _rebuilt(kind, without_nulls) or (arrow.string() if arrow.types.is_null(kind) else kind)


def without_dictionaries(kind: Any) -> Any:
    """The type with the values themselves."""
    is_dictionary = pyarrow().types.is_dictionary(kind)
    return _rebuilt(kind, without_dictionaries) or (kind.value_type if is_dictionary else kind)


def _in_json(kind: Any) -> Any:
    """The type that is cast to before values leave Arrow."""
    arrow = pyarrow()
    if _is_text_in_json(kind):
        return arrow.string()
    if arrow.types.is_duration(kind):
        return arrow.int64()
    if arrow.types.is_float16(kind):
        return arrow.float32()
    if arrow.types.is_dictionary(kind):
        return _in_json(kind.value_type)
    if isinstance(kind, arrow.BaseExtensionType) and not _is_uuid(kind):
        return _in_json(kind.storage_type)
    return _rebuilt(kind, _in_json) or kind


def _rebuilt(kind: Any, changed: Callable[[Any], Any]) -> Any | None:
    """A nested type with its parts changed; the very type where they stay, None where it is not nested."""
    arrow = pyarrow()
    if arrow.types.is_struct(kind):
        fields = [field.with_type(changed(field.type)) for field in kind]
        return (
            kind
            if all(new.equals(old) for new, old in zip(fields, kind, strict=True))
            else arrow.struct(fields)
        )
    if arrow.types.is_map(kind):
        key, item = changed(kind.key_type), changed(kind.item_type)
        return kind if (key, item) == (kind.key_type, kind.item_type) else arrow.map_(key, item)
    if _is_list(kind):
        value = changed(kind.value_type)
        return kind if value == kind.value_type else arrow.list_(value)
    return None


def _is_list(kind: Any) -> bool:
    return _is_any(kind, "list", "large_list", "fixed_size_list", "list_view", "large_list_view")


def _is_any(kind: Any, *names: str) -> bool:
    """Whether it is one of these, as pyarrow calls them."""
    return any(getattr(pyarrow().types, f"is_{name}")(kind) for name in names)


def _has_fields(kind: Any) -> bool:
    return pyarrow().types.is_struct(kind) or (_is_list(kind) and _has_fields(kind.value_type))


def _is_text_in_json(kind: Any) -> bool:
    return _is_any(kind, "timestamp", "date", "time", "decimal")


def _is_uuid(kind: Any) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.uuid"


def _is_same_in_json(kind: Any) -> bool:
    """Whether all values of that type go to JSON and back as they are."""
    types = pyarrow().types
    if types.is_struct(kind):
        return all(_is_same_in_json(field.type) for field in kind)
    if _is_list(kind):
        return _is_same_in_json(kind.value_type)
    return _is_any(kind, "string", "large_string", "string_view", "integer", "boolean", "null")


def _value_as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _value_as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_value_as_json(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no form for it
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _fitting(kind: Any) -> Callable[[Any], Any]:
    """What makes of a value of JSON one that pyarrow takes for that type."""
    fit = _fitting_one(kind)
    return lambda value: None if value is None else fit(value)


def _fitting_one(kind: Any) -> Callable[[Any], Any]:
    arrow = pyarrow()
    types = arrow.types
    if isinstance(kind, arrow.BaseExtensionType):
        return (lambda value: UUID(value).bytes) if _is_uuid(kind) else _fitting_one(kind.storage_type)
    if types.is_struct(kind):
        return _fitting_fields({field.name: _fitting(field.type) for field in kind})
    if types.is_map(kind):
        key, item = _fitting(kind.key_type), _fitting(kind.item_type)
        return lambda pairs: [(key(name), item(value)) for name, value in pairs]
    if _is_list(kind):
        part = _fitting(kind.value_type)
        return lambda values: [part(value) for value in values]
    if _is_any(kind, "binary", "large_binary", "fixed_size_binary", "binary_view"):
        return lambda value: value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])
    if types.is_time(kind):
        moment = arrow.timestamp(kind.unit)
        return lambda value: arrow.scalar(f"1970-01-01 {value}").cast(moment).cast(kind)
    if _is_text_in_json(kind):
        return lambda value: arrow.scalar(value).cast(kind)
    number = int if types.is_integer(kind) else float if types.is_floating(kind) else None
    return lambda value: number(value) if number is not None and isinstance(value, str) else value


def _fitting_fields(fits: dict[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def fit(value: Any) -> dict[str, Any]:
        if value.keys() - fits.keys():
            raise ValueError("a field that the type has not")
        return {name: fits[name](part) for name, part in value.items()}

    return fit
