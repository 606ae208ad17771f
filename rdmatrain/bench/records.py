"""Results as files: JSON lines, as ``schemas/bench.schema.json`` describes them, and CSV.

Both are appended to, so that one file may have many runs. Each line of JSON is written by one call,
so that a reader sees it whole or not at all; what a contestant could not do has a line too.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from rdmatrain.bench.model import SCHEMA, Case, Context, Failure, Nic, Sweep, record_of
from rdmatrain.errors import SettingError

Record = dict[str, Any]

MAX_SHOWN = 60  # of a wrong value in an error


def write_json(path: Path, sweep: Sweep) -> None:
    """Append a line for each result, and for each failure.

    Args:
        path: of the file, which is made if it is not there.
        sweep: whole, or as far as it came.

    Raises:
        SettingError: the file cannot be written.

    """
    records = [record_of(result, sweep.context) for result in sweep.results]
    records += [failure_record(failure, sweep.context) for failure in sweep.failures]
    append_lines(path, (json.dumps(record, allow_nan=False) + "\n" for record in records))


def failure_record(failure: Failure, context: Context) -> Record:
    """Return the line of what has no result; fields of the case are null if it was no case's."""
    return {
        "schema": SCHEMA,
        "failure": failure.text,
        **asdict(failure.entry),
        **{each.name: getattr(failure.case, each.name, None) for each in fields(Case)},
        **asdict(context),
    }


def read_json(path: Path) -> list[Record]:
    """Return the results of a file, in its order, without what failed. Has at least one.

    Raises:
        SettingError: it cannot be read, or has no result; or names the line that is not one.

    """
    records = read_lines(path)
    results = [record for record in records if "failure" not in record]
    if not results:
        raise SettingError(f"{path} has failures and no result, as: {records[0]['failure']}")
    return results


def read_lines(path: Path) -> list[Record]:
    """Return all lines of a file: results, and failures, which have a field of that name.

    Fields that this version does not know are kept.

    Raises:
        SettingError: it cannot be read, or names the line that is not one.

    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from error
    records = [
        _read_line(line, f"{path} line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not records:
        raise SettingError(f"{path} is empty: rdmatrain bench OP --json FILE writes such files")
    return records


def write_csv(path: Path, sweep: Sweep) -> None:
    """Append a row for each result, as RFC 4180 has it; a file that is new gets a header.

    Fields are those of the JSON; ``rounds`` and ``spins`` are separated by spaces, ``versions`` by
    semicolons,
    and those of the NIC are columns of their own.

    Raises:
        SettingError: the file cannot be written, or has other columns.

    """
    rows = [_flat(record_of(result, sweep.context)) for result in sweep.results]
    if not rows:
        return
    header = _csv_line(list(rows[0]))
    lines = [_csv_line(list(row.values())) for row in rows]
    known = _first_line(path)
    if known not in {"", header}:
        raise SettingError(f"{path} is there and has other columns: name a new file")
    append_lines(path, lines if known else [header, *lines])


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines, each with its end, by one call each.

    Raises:
        SettingError: the file cannot be written.

    """
    try:
        torn = _is_torn(path)
        with path.open("ab", buffering=0) as file:
            for line in lines:
                data = f"\n{line}".encode() if torn else line.encode()
                if file.write(data) != len(data):
                    raise SettingError(f"{path} was cut short: is its disk full?")
                torn = False
    except OSError as error:
        raise SettingError(f"{path} cannot be written: {error.strerror}") from error


def _is_torn(path: Path) -> bool:
    """Say whether a file ends within a line, as on a disk that was full."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


def _read_line(line: bytes, where: str) -> Record:
    """Return a record.

    Args:
        line: without its end.
        where: file and number, for the error.

    """
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict) or "schema" not in record:
        raise SettingError(f"{where} is no record of rdmatrain bench")
    if record["schema"] != SCHEMA:
        raise SettingError(f"{where} has schema {record['schema']}: this version reads {SCHEMA}")
    for kind in ("context", "failure" if "failure" in record else "result"):
        complaint = next(_complaints("it", record, _definitions()[kind]), "")
        if complaint:
            raise SettingError(f"{where} is no record of rdmatrain bench: {complaint}")
    return record


@cache
def _definitions() -> Any:
    schema = files("rdmatrain.bench").joinpath("schemas/bench.schema.json").read_text("utf-8")
    return json.loads(schema)["$defs"]


def _complaints(name: str, value: Any, rule: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a value, by those words of JSON Schema that our schema uses.

    No validator that knows all words is a dependency of ours; tests hold this one against one.
    """
    kind, allowed = _type_of(value), _types(rule)
    if allowed and kind not in allowed:
        yield f"{name} is {_shown(value)}, which is no {' or '.join(allowed)}"
    elif kind == "object":
        yield from _complaints_of_object(name, value, rule)
    elif kind == "array":
        if len(value) < rule.get("minItems", 0):
            yield f"{name} is empty"
        for each in value:
            yield from _complaints(f"one of {name}", each, rule.get("items", {}))
    elif kind in {"integer", "number"} and _is_too_small(value, rule):
        yield f"{name} is {_shown(value)}, which is too small"


def _complaints_of_object(name: str, value: Record, rule: Mapping[str, Any]) -> Iterator[str]:
    for each in rule.get("required", ()):
        if each not in value:
            yield f"{name} has no {each}"
    for each, inner in value.items():
        known = rule.get("properties", {}).get(each) or rule.get("additionalProperties")
        if known:
            yield from _complaints(each, inner, known)


def _types(rule: Mapping[str, Any]) -> list[str]:
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    return ["integer", *types] if "number" in types else types


def _is_too_small(value: float, rule: Mapping[str, Any]) -> bool:
    least, above = rule.get("minimum", -math.inf), rule.get("exclusiveMinimum", -math.inf)
    return not least <= value > above


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 4]} ..."


def _type_of(value: Any) -> str:
    """Return JSON Schema's name of a type; Python reads numbers that JSON does not have."""
    if isinstance(value, float):
        return "number" if math.isfinite(value) else "not finite"
    names = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _flat(record: Record) -> Record:
    """Return the columns of a row: no lists, no dictionaries."""
    nic = record.pop("nic") or {}
    for name in ("rounds", "spins"):
        record[name] = " ".join(map(str, record[name]))
    record["versions"] = "; ".join(f"{name} {text}" for name, text in record["versions"].items())
    columns = {f"nic_{each.name}": nic.get(each.name) for each in fields(Nic)}
    return record | columns


def _csv_line(values: Sequence[object]) -> str:
    text = StringIO()
    words = {True: "true", False: "false"}
    csv.writer(text).writerow(words[v] if isinstance(v, bool) else v for v in values)
    return text.getvalue()


def _first_line(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return file.readline()
