# SPDX-License-Identifier: Apache-2.0
"""Wrong input and options of ``rdmatrain topo`` and ``whoami``: one line, and exit code 2."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from rdmatrain.cli import cli

FIXTURES = Path(__file__).parents[1] / "fixtures" / "discovery"


def refused(*args: str | Path) -> str:
    """The one line of a command that must refuse its input."""
    ended = CliRunner().invoke(cli, [*map(str, args)])
    assert ended.exit_code == 2
    assert ended.output.startswith("Error: ")
    assert ended.output.count("\n") == 1
    return ended.output


@pytest.mark.parametrize("command", ["topo", "whoami"])
@pytest.mark.parametrize(
    "content",
    [
        b"", b" \n", b"\x00\x01\x02\xff" * 99, b"\x7fELF\x02\x01\x01" + bytes(64), b"{", b"{}",
        b"[]", b"<", b"<a/>", b"<system>", b"no table", b"\xff\xfe\x00\xd8", b"null", b"- 1",
        b'{"schema": "rdmatrain-snapshot/9"}', b'{"schema": "rdmatrain-snapshot/1", "files": 1}',
        b"[" * 100_000, b"<a>" * 100_000, b"a: &a [*a]", b"kind: Pod",
    ],
    ids=lambda content: repr(content[:24]),
)  # fmt: skip
def test_garbage_is_refused_by_the_name_of_its_file(
    command: str, content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "garbage"
    file.write_bytes(content)
    assert str(file) in refused(command, "-F", file)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-F", "x", "--root", "/"], "exclude each other"),
        (["--redact"], "--dump"),
        (["--ranks", "3"], "--tuning"),
        (["--dump", "-", "--json"], "--dump and --json"),
        (["--dump", "-", "--svg", "-"], "--dump and --svg"),
        (["--svg", "-", "--json"], "--svg and --json"),
        (["--dump", "/none/x"], "/none/x"),
        (["--svg", "/none/x"], "/none/x"),
        (["-F", str(FIXTURES / "nccl.xml"), "--dump", "x"], "nccl.xml"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(args: list[str], says: str) -> None:
    assert says in refused("topo", *args)


def test_whoami_wants_a_pod() -> None:
    assert "nccl.xml" in refused("whoami", "-F", FIXTURES / "nccl.xml")
