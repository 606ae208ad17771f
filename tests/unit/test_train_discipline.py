# SPDX-License-Identifier: Apache-2.0
"""Nothing of a checkpoint or of a peer is unpickled freely, and no wall clock decides."""

import ast
from pathlib import Path

import pytest

import rdmatrain.train

FILES = sorted(Path(rdmatrain.train.__file__).parent.glob("*.py"))
FORBIDDEN = {
    "pickle",
    "eval",
    "exec",
    "system",
    "subprocess",
    "all_gather_object",
    "gather_object",
    "broadcast_object_list",
    "scatter_object_list",
}


def offences(source):
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        if isinstance(node, ast.alias):
            name = node.name
        if name in FORBIDDEN:
            yield f"{name} in line {node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "torch.load" and "weights_only=True" not in ast.unparse(node):
                yield f"torch.load without weights_only=True in line {node.lineno}"
            if called in {"time.time", "dcp.save", "dcp.load", "datetime.now"}:
                yield f"{called} in line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_has_none_of_it(path):
    assert list(offences(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from x import pickle", "torch.load(f)", "dist.all_gather_object(a, b)"],
)
def test_each_is_found(source):
    assert len(list(offences(source))) == 1
