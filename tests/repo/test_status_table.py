# SPDX-License-Identifier: Apache-2.0
"""The C status table and what Python makes of it are one."""

import re
from pathlib import Path

import pytest

from rdmatrain import _core
from rdmatrain.errors import CommError, CommTimeoutError

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "csrc/include/rdmatrain/status.h"
BINDING = ROOT / "csrc/bind/core_module.c"
ROW = re.compile(r'X\((\w+), (-?\d+), (\w+), "([^"]+)"\)')
TOKEN = bytes(16)


def rows() -> dict[str, tuple[int, str, str]]:
    found = ROW.findall(HEADER.read_text("utf-8"))
    return {name: (int(value), scope, text) for name, value, scope, text in found}


def body_of(function: str) -> str:
    found = re.search(rf"{function}\(.*?^}}", BINDING.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def test_python_sees_the_table_of_the_header():
    assert rows() == _core.STATUSES


def test_values_are_unique_and_grouped_by_what_is_damaged():
    values = [value for value, _, _ in _core.STATUSES.values()]
    assert len(set(values)) == len(values)
    for name, (value, scope, _) in _core.STATUSES.items():
        band = "NONE" if value >= 0 else "CALL" if value > -20 else "EP" if value > -40 else "COMM"
        assert scope == band, name


def test_errors_are_mapped_from_statuses_that_exist():
    assert set(re.findall(r"\bRDT_([A-Z_]+)\b", body_of("error_class"))) <= set(_core.STATUSES)


def test_every_timeout_becomes_a_timeout_error():
    mapped = re.search(r"if \(([^;]*?)\)\s*name = \"CommTimeoutError\"", body_of("error_class"))
    assert mapped is not None
    timeouts = {name for name in _core.STATUSES if name.endswith("TIMEOUT")}
    assert set(re.findall(r"RDT_([A-Z_]+)", mapped[1])) == timeouts
    assert issubclass(CommTimeoutError, TimeoutError)


def test_a_damaged_communicator_raises_comm_error_with_its_status():
    comm = _core.Comm(0, 1, TOKEN)
    comm.close()
    with pytest.raises(CommError) as caught:
        comm.transport(0)
    assert caught.value.status == "CLOSED"


def test_a_wrong_argument_raises_value_error():
    with pytest.raises(ValueError, match="carrier-pigeon"):
        _core.Comm(0, 1, TOKEN).listen("carrier-pigeon")
