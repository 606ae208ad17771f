# SPDX-License-Identifier: Apache-2.0
"""Every file that the project collected can be shown in every way."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from rdmatrain.cli import cli

ROOT = Path(__file__).parents[2]
OURS = [
    ROOT / "tests/fixtures/discovery" / name
    for name in ("nccl.xml", "hwloc2.xml", "topo_m.txt", "slices.yaml", "slices_gpu.json")
]
# Beside the checkout, where the project's collected fixtures are.
COLLECTED = Path(__file__).parents[3] / "shared/fixtures"
FILES = [
    path
    for folder in ("nccl_topo", "hwloc", "topo_m", "k8s/resourceslices")
    for path in sorted((COLLECTED / folder).glob("*"))
]


@pytest.mark.parametrize("command", ["topo", "whoami"])
def test_the_readme_shows_what_is_really_printed(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text("utf-8")
    call, *shown = text[text.index(f"$ rdmatrain {command} -F") :].split("\n```")[0].splitlines()
    lines = CliRunner().invoke(cli, call.split()[2:]).output.splitlines()
    assert len(shown) > 3
    assert [line for line in shown if line not in {"...", *lines}] == []


@pytest.mark.skipif(not FILES, reason="the collected fixtures are not there")
def test_there_are_files_of_each_kind() -> None:
    assert len(FILES) >= 24


@pytest.mark.parametrize("file", [*OURS, *FILES], ids=lambda path: path.name)
def test_it_is_shown_as_text_as_json_and_drawn(file: Path, tmp_path: Path) -> None:
    svg = tmp_path / "drawn.svg"
    shown = CliRunner().invoke(cli, ["topo", "-F", str(file), "--svg", str(svg)])
    assert shown.exit_code == 0, shown.output
    ended = CliRunner().invoke(cli, ["topo", "-F", str(file), "--json"])
    document = json.loads(ended.output)
    devices = [*document["machine"]["gpus"], *document["machine"]["nics"]]
    titles = [title.text or "" for title in ElementTree.parse(svg).iter()]
    for device in devices:
        assert device["name"] in shown.output
        assert device["name"] in titles
    if document["machine"]["nics"]:
        names = [gpu["name"] for gpu in document["machine"]["gpus"]]
        assert [pair["gpu"] for pair in document["pairs"]] == names
