# SPDX-License-Identifier: Apache-2.0
"""Every command, option and setting is documented, and what the documents name exists."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rdmatrain.cli import cli
from rdmatrain.config import known_names

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
OPTIONS_OF_RUN = ROOT / "rdmatrain" / "launcher" / "README.md"
GUIDES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "tests/README.md")]


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from walk(child, f"{path} {name}")


COMMANDS = list(walk(cli, "rdmatrain"))
LEAVES = [(path, command) for path, command in COMMANDS if not isinstance(command, click.Group)]


def options(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def names_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_and_option_has_help(path, command):
    assert command.help, f"{path} has no help"
    for option in options(command):
        assert option.help, f"{path} {option.opts[-1]} has no help"


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_and_option_is_in_the_readme(path, command):
    text = README.read_text("utf-8")
    assert names_word(text, path)
    if path == "rdmatrain run":
        text += OPTIONS_OF_RUN.read_text("utf-8")
    wanted = [option.opts[-1] for option in options(command)]
    assert [name for name in wanted if not names_word(text, name)] == []


@pytest.mark.parametrize("name", known_names())
def test_every_setting_is_in_the_readme(name):
    assert names_word(README.read_text("utf-8"), name)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_make_targets_exist(guide):
    rules = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", guide.read_text("utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", rules, re.MULTILINE), f"{guide.name} says make {target}"


def test_make_help_lists_every_target():
    rules = (ROOT / "Makefile").read_text("utf-8")
    phony = re.findall(r"^\.PHONY: (.+)$", rules, re.MULTILINE)[0].split()
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^make ([a-z-]+)", shown.stdout, re.MULTILINE)) == {*phony} - {"system"}


MAPS = sorted((ROOT / "rdmatrain").glob("*/README.md"))


@pytest.mark.parametrize("readme", MAPS, ids=[path.parent.name for path in MAPS])
def test_every_module_is_on_the_map_of_its_package_once(readme):
    rows = [line.split("|")[1] for line in readme.read_text("utf-8").splitlines() if "|" in line]
    named = [name for row in rows for name in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
    assert sorted(named) == sorted(set(named))
    folders = tuple(name for name in named if name.endswith("/"))
    modules = {str(path.relative_to(readme.parent)) for path in readme.parent.rglob("*.py")}
    missing = [
        name for name in modules if not name.endswith("__init__.py") and name not in named
        and not name.startswith(folders)
    ]  # fmt: skip
    assert missing == []
    assert [name for name in named if not (readme.parent / name).exists()] == []
