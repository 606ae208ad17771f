# SPDX-License-Identifier: Apache-2.0
"""A value against a structural schema, strictly: what the API server would drop is an error."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import k8s_cel

Schema = Mapping[str, Any]

QUANTITY = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)(([KMGTPE]i)|[numkMGTPE]|[eE][+-]?(\d+(\.\d*)?|\.\d+))?"
)
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}
_BITS = {"int32": 31, "int64": 63}
# Core types that take any value.
_ANY = (".RawExtension", ".FieldsV1", ".v1.JSON")


@cache
def _regex(pattern: str) -> "re.Pattern[str]":
    # Go allows flags after an anchor, Python only at the beginning.
    return re.compile(re.sub(r"^\^\(\?i\)", "(?i)^", pattern))


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


class Structure:
    """Schemas that may point at each other.

    Args:
        definitions: schemas by the last component of ``$ref``.

    """

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def errors(self, value: Any, schema: Schema, path: str) -> Iterator[str]:
        """Yield what is wrong with a value, each with its path."""
        if "$ref" in schema:
            name = str(schema["$ref"]).rpartition("/")[2]
            wrong = _special(name, value, path)
            if not wrong and not name.endswith(_ANY):
                wrong = list(self.errors(value, self._definitions[name], path))
            yield from wrong
            return
        if value is None:
            if not schema.get("nullable"):
                yield f"{path}: null, which the API server drops or refuses"
            return
        wrong = list(_scalar_errors(value, schema, path))
        yield from wrong
        if not wrong:
            yield from self._inner(value, schema, path)
            for said in k8s_cel.broken(schema.get("x-kubernetes-validations", []), value):
                yield f"{path}: {said}"

    def _inner(self, value: Any, schema: Schema, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            yield from self._object(value, schema, path)
        elif isinstance(value, list):
            yield from _list_errors(value, schema, path)
            for number, each in enumerate(value):
                yield from self.errors(each, schema.get("items", {}), f"{path}[{number}]")

    def _object(self, value: dict[str, Any], schema: Schema, path: str) -> Iterator[str]:
        properties = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield f"{path}.{name}: required"
        more = schema.get("additionalProperties")
        for name, each in value.items():
            place = f"{path}.{name}"
            if not isinstance(name, str):
                yield f"{place}: its name is no string"
            elif name in properties:
                yield from self.errors(each, properties[name], place)
            elif isinstance(more, Mapping):
                yield from self.errors(each, more, place)
            elif not (more or schema.get("x-kubernetes-preserve-unknown-fields")):
                yield f"{place}: unknown field"


def _special(name: str, value: Any, path: str) -> list[str]:
    """Errors of the core types that are several types of JSON; empty: as the schema says."""
    if name.endswith(".Quantity") and value is not None:
        whole = isinstance(value, int | float) and not isinstance(value, bool)
        if not whole and not (isinstance(value, str) and QUANTITY.fullmatch(value)):
            return [f"{path}: {value!r} is no quantity"]
    if name.endswith(".IntOrString") and (isinstance(value, bool | float)):
        return [f"{path}: {value!r} is neither an integer nor a string"]
    return []


def _scalar_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    yield from _type_errors(value, schema, path)
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        yield f"{path}: {value!r} is none of {', '.join(map(str, allowed))}"
    for one in ("oneOf", "anyOf"):
        if one in schema and not any(_fits(value, each) for each in schema[one]):
            yield f"{path}: {value!r} has none of the types that are allowed"
    yield from _bound_errors(value, schema, path)
    yield from _text_errors(value, schema, path)


def _fits(value: Any, schema: Schema) -> bool:
    return not list(_type_errors(value, schema, ""))


def _type_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds if kind != "null"):
        yield f"{path}: {value!r} is no {' or '.join(kind for kind in kinds if kind != 'null')}"


def _bound_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        bits = _BITS.get(schema.get("format", ""))
        if bits and not -(1 << bits) <= value < 1 << bits:
            yield f"{path}: {value} does not fit {schema['format']}"
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            yield f"{path}: {value} is out of bounds"
        return
    kind = {dict: "Properties", list: "Items", str: "Length"}.get(type(value))
    if kind:
        size = len(value)
        if size < schema.get(f"min{kind}", size) or size > schema.get(f"max{kind}", size):
            yield f"{path}: {size} is out of the bounds of its size"


def _text_errors(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, str):
        pattern = schema.get("pattern")
        if pattern and not _regex(pattern).search(value):
            yield f"{path}: {value!r} does not match {pattern}"
        if schema.get("format") == "date-time" and not DATE.fullmatch(value):
            yield f"{path}: {value!r} is no date"


def _list_errors(value: list[Any], schema: Schema, path: str) -> Iterator[str]:
    """Yield members that are there twice, where the schema takes them for a set or a map."""
    kind = schema.get("x-kubernetes-list-type")
    if kind not in {"set", "map"}:
        return
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen = set()
    for each in value:
        is_map = kind == "map" and isinstance(each, dict)
        key = json.dumps([each.get(key) for key in keys] if is_map else each, sort_keys=True)
        if key in seen:
            yield f"{path}: {key} is there twice"
        seen.add(key)
