# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain topo`` in shells as they are: pipes that end, full disks, odd locales."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures/discovery"
SNAPSHOT = FIXTURES / "pod.snapshot.json"
TOPO = [sys.executable, "-m", "rdmatrain.cli", "topo"]
Result = subprocess.CompletedProcess[bytes]


def shell(line: str, *args: str | Path, cwd: Path = ROOT, **env: str) -> Result:
    """Run a line of bash in which ``"$@"`` is ``rdmatrain topo`` with arguments."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", *TOPO, *map(str, args)],
        capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
    )  # fmt: skip


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for seed in ("1", "2"):
        svg = tmp_path / f"{seed}.svg"
        done = shell('"$@"', "-F", SNAPSHOT, "--json", "--svg", svg, PYTHONHASHSEED=seed)
        assert (done.returncode, done.stderr) == (0, b"")
        texts.append((done.stdout, svg.read_bytes()))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("output", [[], ["--json"], ["--dump", "-"], ["--svg", "-"]])
def test_a_reader_that_leaves_gets_no_traceback(output: list[str]) -> None:
    # The reader is gone before anything is written.
    done = shell('(sleep 0.2; "$@") | true', "-F", SNAPSHOT, *output)
    assert done.stderr == b""


def test_a_full_disk_is_one_line() -> None:
    done = shell('"$@" > /dev/full', "-F", SNAPSHOT)
    assert done.returncode != 0
    assert (done.stderr.count(b"\n"), done.stderr[:7]) == (1, b"Error: ")
    assert b"No space left on device" in done.stderr


def test_a_full_disk_is_one_line_for_tables_too() -> None:
    done = shell('"$@" > /dev/full', "--tuning")
    assert (done.returncode, done.stderr.count(b"\n"), done.stderr[:7]) == (1, 1, b"Error: ")


def test_all_streams_may_be_closed(tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    assert shell('"$@" <&- >&- 2>&-', "--dump", saved).returncode == 0
    assert json.loads(saved.read_text())["schema"] == "rdmatrain-snapshot/1"


def test_files_may_be_pipes() -> None:
    slices = ("slices.yaml", "slices_gpu.json")
    pipes = " ".join(f"-F <(cat {FIXTURES / name})" for name in slices)
    done = shell(f'"$@" {pipes} --json')
    assert (done.returncode, done.stderr) == (0, b"")
    files = [part for name in slices for part in ("-F", FIXTURES / name)]
    assert (
        json.loads(done.stdout)["pairs"]
        == json.loads(shell('"$@"', *files, "--json").stdout)["pairs"]
    )


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii", "COLUMNS": "40", "NO_COLOR": "1"},
    ],
    ids=["C", "ascii"],
)
def test_names_that_the_locale_lacks_are_escaped(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "pöd-日本.json"
    file.write_bytes(SNAPSHOT.read_bytes())
    drawn = tmp_path / "drawn.svg"
    done = shell('"$@"', "-F", file, "--svg", drawn, **env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii() and b"mlx5_9" in done.stdout
    assert ElementTree.parse(drawn).getroot().tag.endswith("svg")
    refused = shell('"$@"', "-F", f"{file}.gone", **env)
    assert (refused.returncode, refused.stdout, refused.stderr.count(b"\n")) == (2, b"", 1)


def test_a_drawing_is_well_formed_in_every_encoding(tmp_path: Path) -> None:
    file = tmp_path / "pöd.json"
    file.write_bytes(SNAPSHOT.read_bytes())
    done = shell('"$@"', "-F", file, "--svg", "-", PYTHONIOENCODING="latin-1")
    assert f"{file}" in [title.text for title in ElementTree.fromstring(done.stdout).iter()]


def test_what_a_message_quotes_is_escaped(tmp_path: Path) -> None:
    done = shell('"$@"', "-F", tmp_path / "\x1b[2Jx\ny")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.decode().rstrip().isprintable()


def test_snapshots_may_begin_with_the_mark_of_utf8(tmp_path: Path) -> None:
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + SNAPSHOT.read_bytes())
    done = shell('"$@"', "-F", marked)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-F", SNAPSHOT, "-F", FIXTURES / "slices.yaml"], b"goes with no other file"),
        (["--tuning", "--json"], b"--tuning goes with --ranks, --hosts"),
        (["--tuning", "-F", "none"], b"--tuning goes with --ranks, --hosts"),
    ],
)
def test_what_does_not_go_together_is_refused(args: list[str | Path], says: bytes) -> None:
    done = shell('"$@"', *args)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert says in done.stderr


def test_switches_stand_in_the_order_of_the_bus(tmp_path: Path) -> None:
    file = tmp_path / "topo.xml"
    # Hexadecimal: what sorts 8, 3d, 10 and 9a as words of letters and numbers has another order.
    buses = ["08", "10", "3d", "9a"]
    switches = "".join(
        f'<pci busid="0000:{bus}:00.0" class="0x060400">'
        f'<pci busid="0000:{int(bus, 16) + 1:02x}:00.0" class="0x030200"><gpu dev="{dev}"/></pci>'
        f'<pci busid="0000:{int(bus, 16) + 2:02x}:00.0" class="0x020700"><nic>'
        f'<net name="mlx5_{dev}" dev="{dev}"/></nic></pci></pci>'
        for dev, bus in enumerate(buses)
    )
    file.write_text(f'<system version="1"><cpu numaid="0">{switches}</cpu></system>')
    lines = shell('"$@"', "-F", file).stdout.decode().splitlines()
    shown = [line.split()[1] for line in lines if line.strip().startswith("switch ")]
    assert shown == [f"0000:{bus}:00.0" for bus in buses]


def test_neither_home_nor_path_nor_a_folder_to_write_to_is_needed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(f'rmdir {gone}; exec env -i PYTHONPATH="$PYTHONPATH" "$@"', "--json", cwd=gone)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["machine"]["cpus"]
