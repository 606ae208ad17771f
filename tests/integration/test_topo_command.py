# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain topo`` and ``whoami`` as users call them: every option, and input of every kind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures" / "discovery"
KINDS = ("nccl.xml", "hwloc2.xml", "topo_m.txt", "slices.yaml", "slices_gpu.json")


class Ended(NamedTuple):
    """What became of a command."""

    code: int
    out: str
    err: str


def rdmatrain(*args: str | Path, stdin: bytes | None = b"", **env: str) -> Ended:
    """Run a command; ``stdin=None`` closes it."""
    command = [sys.executable, "-m", "rdmatrain.cli", *map(str, args)]
    if stdin is None:
        command = ["bash", "-c", 'exec "$@" <&-', "bash", *command]
    done = subprocess.run(
        command, input=stdin or b"", capture_output=True, timeout=60, check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | env,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def answer(*args: str | Path, **more: Any) -> Any:
    """The JSON of a command that must succeed and say nothing else."""
    ended = rdmatrain(*args, "--json", **more)
    assert (ended.code, ended.err) == (0, "")
    return json.loads(ended.out)


def refused(*args: str | Path, **more: Any) -> str:
    """The one line of a command that must refuse its input."""
    ended = rdmatrain(*args, **more)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1
    return ended.err


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a pod with one port of RDMA, which an Indexed Job started."""
    port = tmp_path / "root/sys/devices/pci0000:07/0000:0c:00.2/infiniband/mlx5_2/ports/1"
    for path, text in {
        port / "state": "4: ACTIVE\n",
        port / "link_layer": "Ethernet\n",
        port / "gids/0": "0000:0000:0000:0000:0000:ffff:0a01:0007\n",
        port / "gid_attrs/types/0": "RoCE v2\n",
        port / "gid_attrs/ndevs/0": "net1\n",
        port.parents[3] / "vendor": "0x15b3\n",
        tmp_path / "root/proc/self/limits": "Max locked memory\n",
        tmp_path
        / "root/proc/self/environ": "JOB_COMPLETION_INDEX=1\0HF_TOKEN=hf_x\0RUDE=\x1b[2J\0",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (port.parents[1] / "device").symlink_to("../..")
    devices = tmp_path / "root/sys/class/infiniband"
    devices.mkdir(parents=True)
    (devices / "mlx5_2").symlink_to("../../devices/pci0000:07/0000:0c:00.2/infiniband/mlx5_2")
    functions = tmp_path / "root/sys/bus/pci/devices"
    functions.mkdir(parents=True)
    (functions / "0000:0c:00.2").symlink_to("../../../devices/pci0000:07/0000:0c:00.2")
    return tmp_path / "root"


# -- this machine --


def test_this_machine_is_described_whatever_it_has() -> None:
    ended = rdmatrain("topo")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("this machine")
    assert "This pod has\n" in ended.out
    document = answer("topo")
    assert document["schema"] == "rdmatrain-topo/1"
    assert document["machine"]["origin"] == "this machine"
    assert document["machine"]["cpus"]


def test_whoami_says_who_decided_what() -> None:
    ended = rdmatrain("whoami")
    assert (ended.code, ended.err) == (0, "")
    document = answer("whoami", RANK="1", LOCAL_RANK="1", GROUP_RANK="0", GROUP_WORLD_SIZE="2")
    fields = {"orchestrator", "nnodes", "node_rank", "nproc_per_node", "leader", "leader_port"}
    assert fields | {"epoch"} == set(document["decided_by"])
    assert all(line.isprintable() for line in ended.out.split("\n"))


# -- another root, and snapshots --


def test_another_root_is_read_and_nothing_of_this_machine(root: Path) -> None:
    machine = answer("topo", "--root", root)["machine"]
    assert [(nic["name"], nic["pci"]) for nic in machine["nics"]] == [("mlx5_2", "0000:0c:00.2")]
    assert machine["origin"] == str(root)
    assert machine["cpus"] == ""
    assert answer("whoami", "--root", root)["orchestrator"] == "indexed-job"


def test_a_snapshot_says_what_the_machine_said_and_no_secret(root: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    first = answer("topo", "--root", root, "--dump", saved)
    assert "hf_x" not in saved.read_text()
    said = json.dumps(answer("topo", "-F", saved)).replace(str(saved), str(root))
    assert json.loads(said) == first
    assert answer("whoami", "-F", saved) == answer("whoami", "--root", root)
    assert answer("whoami", "-F", "-", stdin=saved.read_bytes())["orchestrator"] == "indexed-job"


def test_a_redacted_snapshot_can_be_made_of_a_snapshot(root: Path, tmp_path: Path) -> None:
    saved, redacted = tmp_path / "saved.json", tmp_path / "redacted.json"
    rdmatrain("topo", "--root", root, "--dump", saved)
    ended = rdmatrain("topo", "-F", saved, "--dump", redacted, "--redact")
    assert (ended.code, ended.err) == (0, "")
    text = redacted.read_text()
    assert "0a01:0007" in saved.read_text() and "0a01:0007" not in text
    assert "RUDE" in saved.read_text() and "RUDE" not in text
    assert answer("whoami", "-F", redacted)["orchestrator"] == "indexed-job"
    gids = answer("topo", "-F", redacted)["machine"]["nics"][0]["ports"][0]["gids"]
    assert [(gid["index"], gid["type"], gid["netdev"]) for gid in gids] == [(0, "RoCE v2", "net1")]


def test_a_snapshot_on_standard_output_is_all_of_it(root: Path) -> None:
    ended = rdmatrain("topo", "--root", root, "--dump", "-")
    assert (ended.code, ended.err) == (0, "")
    saved = json.loads(ended.out)
    assert saved["schema"] == "rdmatrain-snapshot/1"
    assert saved["files"]["/proc/self/limits"] == "Max locked memory\n"


# -- files of other tools --


@pytest.mark.parametrize("name", KINDS)
def test_files_of_other_tools_are_told_apart_by_content(name: str, tmp_path: Path) -> None:
    other = tmp_path / "file"
    other.write_bytes((FIXTURES / name).read_bytes())
    document = answer("topo", "-F", other)
    assert document["machine"]["gpus"] or document["machine"]["nics"]
    assert document["allocation"] is None
    from_stdin = answer("topo", "-F", "-", stdin=other.read_bytes())
    assert from_stdin["machine"]["origin"].startswith("standard input")
    said = json.dumps(document).replace(str(other), "standard input")
    assert json.loads(said) == from_stdin


def test_each_gpu_of_a_file_is_in_one_pair() -> None:
    document = answer("topo", "-F", FIXTURES / "nccl.xml")
    gpus = [gpu["name"] for gpu in document["machine"]["gpus"]]
    assert [pair["gpu"] for pair in document["pairs"]] == gpus
    nics = {nic["name"] for nic in document["machine"]["nics"]}
    assert {pair["nic"] for pair in document["pairs"]} <= nics


def test_slices_are_put_together() -> None:
    apart = [answer("topo", "-F", FIXTURES / name)["machine"] for name in KINDS[3:]]
    args = [part for name in KINDS[3:] for part in ("-F", FIXTURES / name)]
    together = answer("topo", *args)["machine"]
    for kind in ("gpus", "nics"):
        names = [each["name"] for machine in apart for each in machine[kind]]
        assert sorted(each["name"] for each in together[kind]) == sorted(names)


def test_a_matrix_that_powershell_wrote_is_read(tmp_path: Path) -> None:
    text = (FIXTURES / "topo_m.txt").read_text()
    (tmp_path / "utf16.txt").write_bytes(text.encode("utf-16"))
    assert answer("topo", "-F", tmp_path / "utf16.txt")["machine"]["gpus"]


# -- drawings --


def test_a_drawing_goes_to_a_file_or_to_standard_output(tmp_path: Path) -> None:
    svg = tmp_path / "drawn.svg"
    ended = rdmatrain("topo", "-F", FIXTURES / "nccl.xml", "--svg", svg)
    assert "Pairs\n" in ended.out
    alone = rdmatrain("topo", "-F", FIXTURES / "nccl.xml", "--svg", "-")
    assert alone.out == svg.read_text("utf-8")
    assert ElementTree.fromstring(alone.out).tag.endswith("svg")


# -- files for NCCL --


@pytest.mark.parametrize(
    "files", [("nccl.xml",), ("hwloc2.xml",), ("slices.yaml", "slices_gpu.json")]
)
def test_a_topology_file_for_nccl_reads_back_to_the_same_pairs(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    saved = tmp_path / "topo.xml"
    named = [arg for file in files for arg in ("-F", FIXTURES / file)]
    wanted = answer("topo", *named, "--nccl-topo", saved)["pairs"]
    found = answer("topo", "-F", saved)["pairs"]
    assert wanted
    assert buses(found) == buses(wanted)


def buses(pairs: list[dict[str, str]]) -> set[tuple[str, str]]:
    """Who is paired with whom; of NICs only the bus, since NCCL merges the functions of a card."""
    return {(pair["gpu_pci"], pair["nic_pci"].rpartition(":")[0]) for pair in pairs}


def test_only_one_document_goes_to_standard_output() -> None:
    both = "--nccl-topo", "-", "--svg", "-"
    assert "--svg and --nccl-topo" in refused("topo", "-F", FIXTURES / "nccl.xml", *both)


# -- what is refused --


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in refused("topo", "-F", tmp_path / "none")
    assert "directory" in refused("topo", "-F", tmp_path)
    assert "standard input is closed" in refused("topo", "-F", "-", stdin=None)
    assert "standard input is empty" in refused("topo", "-F", "-", stdin=b"")
    assert "is no folder" in refused("topo", "--root", tmp_path / "none")
    assert "more than" in refused("topo", "-F", "/dev/zero")


@pytest.mark.parametrize("option", ["-F", "--root", "--dump", "--svg", "--nccl-topo"])
def test_an_empty_name_is_refused(option: str) -> None:
    assert f"{option} is empty" in refused("topo", option, "")


def test_what_cannot_be_meant_is_refused(root: Path, tmp_path: Path) -> None:
    assert "has neither sys nor proc" in refused("topo", "--root", root / "sys")
    assert "has no pairs" in refused("topo", "--root", root, "--nccl-topo", tmp_path / "none.xml")
    both = "--svg", tmp_path / "one", "--dump", tmp_path / "one"
    assert "--dump and --svg cannot go to the same file" in refused("topo", "--root", root, *both)


def test_a_snapshot_is_for_its_owner(root: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    rdmatrain("topo", "--root", root, "--dump", saved)
    assert saved.stat().st_mode & 0o777 == 0o600


def test_whoami_says_that_it_saw_no_environment(root: Path) -> None:
    ids = [each["id"] for each in answer("whoami", "--root", root)["complaints"]]
    assert "unreadable" not in ids
    (root / "proc/self/environ").unlink()
    (told,) = answer("whoami", "--root", root)["complaints"]
    assert told["id"] == "unreadable" and "/proc/self/environ" in told["source"]


def test_a_snapshot_and_another_file_do_not_go_together(root: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.json"
    rdmatrain("topo", "--root", root, "--dump", saved)
    refused("topo", "-F", saved, "-F", FIXTURES / "nccl.xml")


# -- terminals --


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m rdmatrain.cli topo -F {FIXTURES / 'nccl.xml'}"
    leaves = f"{command} | (exec <&-; sleep 2); exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", leaves], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_full_disk_is_one_line() -> None:
    command = f"{sys.executable} -m rdmatrain.cli topo -F {FIXTURES / 'nccl.xml'} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: cannot write to standard output: ")
    assert done.stderr.count(b"\n") == 1


def test_any_encoding_can_show_any_name(tmp_path: Path) -> None:
    text = (FIXTURES / "nccl.xml").read_text().replace("mlx5_0", "ml\u00fc\u4e2d")
    (tmp_path / "x.xml").write_text(text, "utf-8")
    assert "ml\u00fc\u4e2d" in text
    for encoding, shown in (("ascii", r"ml\xfc\u4e2d"), ("utf-8", "ml\u00fc\u4e2d")):
        ended = rdmatrain("topo", "-F", tmp_path / "x.xml", PYTHONIOENCODING=encoding)
        assert (ended.code, ended.err) == (0, "")
        assert shown in ended.out


def test_the_environment_steers_no_terminal(root: Path) -> None:
    for command in ("topo", "whoami"):
        assert "\x1b" not in rdmatrain(command, "--root", root).out
