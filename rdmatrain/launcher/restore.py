"""Dataclasses back from JSON, by the types of their fields: exactly those, or not at all."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints


def restore(kind: Any, value: Any, where: str) -> Any:
    """Return a value of JSON as what it was.

    Args:
        kind: a dataclass, or the type of a field.
        value: as ``json`` gives it.
        where: names it in errors.

    Raises:
        ValueError: it cannot have been that.

    """
    if get_origin(kind) is UnionType:  # no field has another one than "or None"
        return None if value is None else restore(get_args(kind)[0], value, where)
    if dataclasses.is_dataclass(kind):
        return _restore_fields(cast(type, kind), value, where)
    restore_as = _RESTORE.get(get_origin(kind) or kind)
    if restore_as is None:
        raise TypeError(f"{where}: a field of a message cannot be {kind}")
    return restore_as(kind, value, where)


def _restore_fields(kind: type, value: Any, where: str) -> Any:
    types = _field_types(kind)
    _require(type(value) is dict, where)
    if value.keys() != types.keys():
        raise ValueError(
            f"{where} has other fields than here: does the other side run another version?"
        )
    return kind(
        **{name: restore(each, value[name], f"{where}.{name}") for name, each in types.items()}
    )


def _restore_tuple(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    _require(type(value) is list, where)
    return tuple(restore(get_args(kind)[0], item, where) for item in value)


def _restore_mapping(kind: Any, value: Any, where: str) -> dict[Any, Any]:
    _require(type(value) is dict, where)
    of_key, of_value = get_args(kind)
    return {
        restore(of_key, key, where): restore(of_value, item, where) for key, item in value.items()
    }


def _restore_text(_: Any, value: Any, where: str) -> str:
    _require(type(value) is str, where)
    # Half a surrogate pair can be escaped in JSON, but cannot be printed.
    _require(value.isascii() or value.encode(errors="ignore").decode() == value, where)
    return cast(str, value)


def _restore_bool(_: Any, value: Any, where: str) -> bool:
    _require(type(value) is bool, where)
    return cast(bool, value)


def _restore_int(_: Any, value: Any, where: str) -> int:
    _require(type(value) is int and abs(value) < 1 << 63, where)
    return cast(int, value)


def _restore_float(_: Any, value: Any, where: str) -> float:
    _require(type(value) in {int, float} and math.isfinite(value), where)
    return float(value)


_RESTORE: dict[Any, Callable[[Any, Any, str], Any]] = {
    tuple: _restore_tuple,
    Mapping: _restore_mapping,
    str: _restore_text,
    bool: _restore_bool,
    int: _restore_int,
    float: _restore_float,
}


def _require(holds: bool, where: str) -> None:
    if not holds:
        raise ValueError(f"{where} has a value that it cannot have")


@cache
def _field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
