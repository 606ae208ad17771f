# SPDX-License-Identifier: Apache-2.0
"""Files of results are what their schema says, and can be read again; bad ones are refused."""

import copy
import csv
import json
import threading
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bench_results import CONTEXT, GLOO, NIC, OURS, RESULTS, SWEEPS, case, result
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.bench import records
from rdmatrain.bench.model import OPS, Failure, Nic, Result, Sweep, record_of
from rdmatrain.bench.records import read_json, read_lines, write_csv, write_json
from rdmatrain.errors import SettingError

SCHEMA = json.loads(files("rdmatrain.bench").joinpath("schemas/bench.schema.json").read_text())
SWEEP = Sweep(
    CONTEXT,
    [result(OURS, case(nbytes=8 << each), 1e-6 * (each + 1)) for each in range(3)],
    [Failure(GLOO, None, "it died of signal 9"), Failure(OURS, case("write"), "no verbs")],
)


def strict() -> Any:
    """The schema, in which no field may be that it does not name."""
    schema = copy.deepcopy(SCHEMA) | {"unevaluatedProperties": False}
    schema["$defs"]["context"]["properties"]["nic"]["additionalProperties"] = False
    return schema


NEWER = {"device"}  # files of earlier versions lack it, and are read
STRICT = jsonschema.Draft202012Validator(strict())
PUBLISHED = jsonschema.Draft202012Validator(SCHEMA)


def written(folder: Path, sweep: Sweep) -> list[Any]:
    path = folder / "lines.jsonl"
    path.unlink(missing_ok=True)
    write_json(path, sweep)
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@settings(max_examples=40)
@given(SWEEPS)
def test_all_that_is_written_is_what_the_schema_says(folder: Path, sweep: Sweep) -> None:
    lines = written(folder, sweep)
    for line in lines:
        STRICT.validate(line)
    assert len(lines) == len(sweep.results) + len(sweep.failures)


@settings(max_examples=40)
@given(SWEEPS.filter(lambda sweep: sweep.results))
def test_what_is_written_can_be_read(folder: Path, sweep: Sweep) -> None:
    lines = written(folder, sweep)
    assert read_lines(folder / "lines.jsonl") == lines
    results = read_json(folder / "lines.jsonl")
    assert results == [record_of(each, sweep.context) for each in sweep.results]


def described(schema: Any) -> dict[str, str]:
    """The description of each field, also of those in fields."""
    found = {}
    for name, rule in schema.get("properties", {}).items():
        found |= {name: rule.get("description", "")} | described(rule)
    return found


def test_each_field_is_described_with_its_unit() -> None:
    fields: dict[str, str] = {}
    for definition in SCHEMA["$defs"].values():
        fields |= described(definition)
    assert all(fields.values()), fields
    timed = [name for name in fields if name.startswith("seconds") or name == "rounds"]
    assert len(timed) == 4
    assert all("seconds" in fields[name] for name in timed)
    assert all("GB/s" in fields[name] for name in ("algbw", "busbw"))
    ops = SCHEMA["$defs"]["result"]["properties"]["op"]["description"]
    assert ops.split(", ") == list(OPS)


def test_required_is_all_that_there_is() -> None:
    for definition in SCHEMA["$defs"].values():
        assert set(definition["required"]) == set(definition["properties"]) - NEWER


def test_fields_of_the_issue_are_there(tmp_path: Path) -> None:
    line = written(tmp_path, SWEEP)[2]
    seconds = 3e-6
    told = {
        "op": "all_reduce",
        "backend": "rdmatrain",
        "asked": "shm",
        "transport": "shm",
        "ranks": 2,
        "dtype": "float32",
        "redop": "SUM",
        "nbytes": 32,
        "in_place": True,
        "seconds_p50": seconds,
        "seconds_p99": seconds * 1.5,
        "algbw": pytest.approx(32 / seconds / 1e9),
        "busbw": pytest.approx(32 / seconds / 1e9),
        "nwrong": 0,
        "host": "node-7",
        "kernel": "6.1.0",
        "nic": None,
    }
    assert line == line | told


def test_failures_say_who_and_which_case(tmp_path: Path) -> None:
    whole, one = written(tmp_path, SWEEP)[3:]
    assert (whole["failure"], whole["backend"]) == ("it died of signal 9", "gloo")
    assert whole["op"] is whole["nbytes"] is whole["in_place"] is whole["root"] is None
    assert (one["failure"], one["op"], one["nbytes"], one["root"]) == (
        "no verbs",
        "write",
        4096,
        -1,
    )
    assert one["command"] == CONTEXT.command


def test_a_second_run_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    write_json(path, SWEEP)
    write_json(path, SWEEP)
    assert len(read_lines(path)) == 10
    assert [each["nbytes"] for each in read_json(path)] == [8, 16, 32] * 2


def test_a_run_after_one_that_was_cut_short_loses_nothing_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"schema": "rdmatrain-be')
    write_json(path, SWEEP)
    with pytest.raises(SettingError, match=r"lines.jsonl line 1 is not JSON: Unterminated string"):
        read_json(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert len(read_lines(path)) == 5


def test_lines_of_runs_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    sweep = Sweep(CONTEXT, [result(OURS, case(nbytes=each * 4)) for each in range(200)])
    writers = [threading.Thread(target=write_json, args=(path, sweep)) for _ in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    sizes = sorted(each["nbytes"] for each in read_json(path))
    assert sizes == sorted(list(range(0, 800, 4)) * 4)


def test_a_full_disk_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="/dev/full cannot be written: No space left on device"):
        write_json(Path("/dev/full"), SWEEP)
    path = tmp_path / "none" / "x.jsonl"
    for write in (write_json, write_csv):
        with pytest.raises(SettingError, match=r"x.jsonl cannot be written: No such file"):
            write(path, SWEEP)


def test_a_file_that_is_not_there_or_empty_or_has_failures_only(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(SettingError, match=r"x.jsonl cannot be read: No such file"):
        read_json(path)
    with pytest.raises(SettingError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
    for nothing in ("", "\n \n"):
        path.write_text(nothing)
        with pytest.raises(SettingError, match=r"x.jsonl is empty"):
            read_json(path)
    path.unlink()
    write_json(path, Sweep(CONTEXT, failures=SWEEP.failures))
    assert len(read_lines(path)) == 2
    with pytest.raises(SettingError, match="failures and no result, as: it died of signal 9"):
        read_json(path)


RECORD = record_of(SWEEP.results[0], CONTEXT)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("# nccl-tests version 2.17.6", "is not JSON: Expecting value"),
        ("[" * 100_000, "is not JSON"),
        ('"\xff"'.encode("latin-1"), "is not JSON: 'utf-8' codec"),
        ("[1]", "is no record of rdmatrain bench"),
        ('{"op": "all_reduce"}', "is no record of rdmatrain bench"),
        ({"schema": "rdmatrain-bench/2"}, "has schema rdmatrain-bench/2: this version reads"),
        ({"nbytes": "8"}, 'nbytes is "8", which is no integer'),
        ({"nbytes": True}, "nbytes is true, which is no integer"),
        ({"nbytes": -1}, "nbytes is -1, which is too small"),
        ({"seconds_p50": 0}, "seconds_p50 is 0, which is too small"),
        ({"seconds_p50": float("nan")}, "seconds_p50 is NaN, which is no integer or number"),
        ({"seconds_p99": float("inf")}, "seconds_p99 is Infinity, which is no"),
        ({"rounds": []}, "rounds is empty"),
        ({"rounds": [1.0, None]}, "one of rounds is null, which is no integer or number"),
        ({"nwrong": 0.5}, "nwrong is 0.5, which is no integer or null"),
        ({"versions": {"torch": 2}}, "torch is 2, which is no string"),
        ({"nic": {"device": "mlx5_0"}}, "nic has no port"),
        ({"in_place": None}, "in_place is null, which is no boolean"),
        ({"host": ["x" * 100]}, 'x ..., which is no string'),
        ({"failure": 3}, "failure is 3, which is no string"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_with_what_is_wrong(tmp_path: Path, line: Any, told: str) -> None:
    text = json.dumps(RECORD | line) if isinstance(line, dict) else line
    path = tmp_path / "x.jsonl"
    good = json.dumps(RECORD).encode()
    path.write_bytes(b"\n".join([good, text if isinstance(text, bytes) else text.encode(), good]))
    with pytest.raises(SettingError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} line 2")
    assert told in str(caught.value)


def test_a_file_from_before_devices_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({key: value for key, value in RECORD.items() if key != "device"}))
    assert len(read_json(path)) == 1


@pytest.mark.parametrize("name", sorted(set(RECORD) - NEWER))
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({key: value for key, value in RECORD.items() if key != name}))
    with pytest.raises(SettingError, match="line 1 is no record of rdmatrain bench") as caught:
        read_json(path)
    assert name == "schema" or str(caught.value).endswith(f"it has no {name}")


def test_fields_of_newer_versions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(RECORD | {"power_watts": 3.5, "nested": {"a": [None]}}))
    PUBLISHED.validate(json.loads(path.read_text()))
    assert read_json(path)[0]["power_watts"] == 3.5


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(-2, 2).filter(lambda value: not value.is_integer())  # 1.0 is an integer in JSON
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
FULL = record_of(SWEEP.results[0], CONTEXT) | {"nic": vars(NIC)}


@given(
    st.sampled_from([FULL, RECORD, records.failure_record(SWEEP.failures[1], CONTEXT)]),
    st.data(),
)
def test_reading_refuses_what_the_schema_refuses(
    folder: Path, record: dict[str, Any], data: st.DataObject
) -> None:
    changed = copy.deepcopy(record)
    inside = changed
    if changed["nic"] and data.draw(st.booleans()):
        inside = changed["nic"]
    name = data.draw(st.sampled_from([*inside, "failure"]))
    if name in inside and data.draw(st.booleans()):
        del inside[name]
    else:
        inside[name] = data.draw(VALUES)
    path = folder / "changed.jsonl"
    path.write_text(json.dumps(changed))
    try:
        read_lines(path)
        accepted = True
    except SettingError:
        accepted = False
    assert accepted == PUBLISHED.is_valid(changed)


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


@settings(max_examples=40)
@given(st.lists(RESULTS, min_size=1, max_size=4), SWEEPS)
def test_csv_has_all_fields_of_the_json(folder: Path, results: list[Result], drawn: Sweep) -> None:
    path = folder / "rows.csv"
    path.unlink(missing_ok=True)
    write_csv(path, Sweep(drawn.context, results))
    header, *rows = rows_of(path)
    assert len(rows) == len(results)
    for each, cells in zip(results, rows, strict=True):
        row = dict(zip(header, cells, strict=True))
        expected = record_of(each, drawn.context)
        nic = expected.pop("nic")
        for name in vars(NIC):
            assert row.pop(f"nic_{name}") == ("" if nic is None else str(nic[name]))
        assert tuple(map(float, row.pop("rounds").split(" "))) == each.rounds
        assert tuple(map(float, row.pop("spins").split())) == each.spins
        del row["versions"], expected["rounds"], expected["spins"], expected["versions"]
        words = {True: "true", False: "false", None: ""}
        assert row == {
            name: words[value] if isinstance(value, bool) or value is None else str(value)
            for name, value in expected.items()
        }


def test_csv_ends_lines_as_rfc_4180_and_has_one_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, SWEEP)
    write_csv(path, SWEEP)
    lines = path.read_bytes().split(b"\r\n")
    assert len(lines) == 1 + 2 * 3 + 1
    assert lines[-1] == b""
    assert [line.startswith(b"schema,op,backend") for line in lines[:-1]] == [True] + [False] * 6
    assert not any(b"\n" in line for line in lines)
    names = rows_of(path)[0]
    assert len(names) == len(set(names))
    assert {f"nic_{name}" for name in vars(NIC)} < set(names)


def test_csv_is_not_added_to_a_file_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("size,time\r\n8,1\r\n")
    with pytest.raises(SettingError, match=r"rows.csv is there and has other columns"):
        write_csv(path, SWEEP)
    assert path.read_text() == "size,time\n8,1\n"


def test_without_results_there_is_no_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "rows.csv", Sweep(CONTEXT, failures=SWEEP.failures))
    assert not (tmp_path / "rows.csv").exists()


def test_a_nic_is_in_its_columns(tmp_path: Path) -> None:
    nic = Nic("rxe0", 1, "Ethernet", 2.5, "", 1024, 1, "fe80::1")
    write_csv(tmp_path / "rows.csv", Sweep(replace(CONTEXT, nic=nic), SWEEP.results))
    header, row, *_ = rows_of(tmp_path / "rows.csv")
    found = dict(zip(header, row, strict=True))
    assert [found[f"nic_{name}"] for name in ("device", "rate_gbps", "gid")] == [
        "rxe0",
        "2.5",
        "fe80::1",
    ]
