"""A launch spec is refused with one line that names the option, the value and the remedy."""

import sys
from pathlib import Path
from typing import Any

import pytest

from rdmatrain.errors import SettingError
from rdmatrain.launcher.spec import LaunchSpec

TWO_NODES = {"nnodes": 2, "master_addr": "node-0", "master_port": 29500}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"nproc_per_node": 0}, ["--nproc-per-node 0", "1 or more"]),
        ({"nproc_per_node": -3}, ["--nproc-per-node -3"]),
        ({"nnodes": 0}, ["--nnodes 0", "1 or more"]),
        ({"node_rank": 1}, ["--node-rank 1", "--nnodes 1", "0 to 0"]),
        ({**TWO_NODES, "node_rank": 2}, ["--node-rank 2", "--nnodes 2", "0 to 1"]),
        ({"node_rank": -1}, ["--node-rank -1"]),
        ({"nnodes": 2, "master_port": 1}, ["--nnodes 2", "--master-addr", "every node"]),
        ({"nnodes": 2, "master_addr": "a"}, ["--nnodes 2", "--master-port", "every node"]),
        ({"master_port": 0}, ["--master-port 0", "1 to 65535", "leave it out"]),
        ({**TWO_NODES, "master_port": 65536}, ["--master-port 65536", "1 to 65535"]),
        ({"transport": ""}, ["--transport ''", "empty", "leave it out"]),
        ({"require": ""}, ["--require ''", "empty", "leave it out"]),
        ({"master_addr": " "}, ["--master-addr ' '", "empty"]),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_a_remedy(
    options: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(SettingError) as caught:
        LaunchSpec(script="train.py", **options)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_the_limits_themselves_are_allowed() -> None:
    spec = LaunchSpec(script="train.py", node_rank=1, **TWO_NODES | {"master_port": 65535})  # type: ignore[arg-type]
    assert spec.world_size == 2


def test_ranks_are_counted_node_by_node() -> None:
    spec = LaunchSpec(
        script="t.py", nproc_per_node=3, nnodes=2, node_rank=1, master_addr="a", master_port=1
    )
    assert spec.world_size == 6
    assert [spec.rank(local) for local in range(3)] == [3, 4, 5]


def test_the_command_runs_a_script_or_a_module_unbuffered() -> None:
    args = ("--x", "--", "-m")
    assert LaunchSpec(script="t.py", script_args=args).command() == [
        *(sys.executable, "-u", "t.py", "--x", "--", "-m")
    ]
    assert LaunchSpec(script="pkg.t", module=True).command() == [
        sys.executable,
        "-u",
        "-m",
        "pkg.t",
    ]


def test_a_missing_script_is_named_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="was not found") as caught:
        LaunchSpec(script="gone.py").require_script()
    assert "'gone.py'" in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_directory_is_a_script_only_with_a_main(tmp_path: Path) -> None:
    spec = LaunchSpec(script=str(tmp_path))
    with pytest.raises(SettingError, match="is not a file"):
        spec.require_script()
    (tmp_path / "__main__.py").touch()
    spec.require_script()


def test_a_module_is_not_looked_for_among_files() -> None:
    LaunchSpec(script="no.such.module", module=True).require_script()
