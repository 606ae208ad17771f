# SPDX-License-Identifier: Apache-2.0
"""A snapshot gives the answers that the machine gave, and none of its secrets."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.discovery.snapshot import Recorder, Replay, dump, load
from rdmatrain.discovery.source import Source, Tree
from rdmatrain.errors import SettingError

ENVIRON = "/proc/self/environ"
FAILS = {"/sys/gid": errno.EINVAL, "/sys/locked": errno.EACCES, "/sys/odd": 0}


class Broken(Tree):
    """A tree in which some files fail, as sysfs files of other namespaces do."""

    def _read(self, real: str) -> str:
        if real in FAILS:
            raise OSError(FAILS[real], "fails")
        return super()._read(real)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    device = tmp_path / "sys/devices/pci0000:07/0000:07:01.0/infiniband/mlx5_2"
    device.mkdir(parents=True)
    (device / "fw_ver").write_text("28.39\n")
    (device / "bytes").write_bytes(b"\xff\x00\xe4\xf6")
    (device.parent / "mlx5_10").mkdir()
    (tmp_path / "sys/class/infiniband").mkdir(parents=True)
    (tmp_path / "sys/class/infiniband/mlx5_2").symlink_to(
        "../../devices/pci0000:07/0000:07:01.0/infiniband/mlx5_2"
    )
    (tmp_path / "sys/absolute").symlink_to("/sys/class/infiniband")
    (tmp_path / "sys/round").symlink_to("round")
    (tmp_path / "sys/empty").mkdir()
    return Broken(tmp_path, {"nvml": lambda: {"error": "", "gpus": [{"index": 0}]}})


QUESTIONS: list[tuple[str, str]] = [
    (call, path)
    for call in ("text", "failure", "names", "link")
    for path in (
        "/sys/class/infiniband/mlx5_2/fw_ver",
        "/sys/absolute/mlx5_2/bytes",
        "/sys/absolute",
        "/sys/absolute/mlx5_2/..",
        "/sys/round/x",
        "/sys/empty",
        "/sys/empty/../empty/.",
        "/sys/gid",
        "/sys/locked",
        "/sys/odd",
        "/nothing/here",
    )
]


def answers(source: Source) -> dict[Any, Any]:
    """What the source says to each question."""
    found: dict[Any, Any] = {
        question: getattr(source, question[0])(question[1]) for question in QUESTIONS
    }
    return found | {name: source.probe(name) for name in ("nvml", "verbs")}


def replayed(source: Source, redact: bool = False) -> Replay:
    return load(dump(Recorder(source) if not isinstance(source, Recorder) else source, redact), "x")


def test_a_replay_answers_all_that_was_asked_as_the_machine_did(tree: Tree) -> None:
    recorder = Recorder(tree)
    live = answers(tree)
    assert live["text", "/sys/class/infiniband/mlx5_2/fw_ver"] == "28.39\n"
    assert live["failure", "/sys/gid"] == "EINVAL"
    assert live["names", "/sys/absolute/mlx5_2/.."] == ["mlx5_2", "mlx5_10"]
    assert answers(recorder) == live
    assert answers(replayed(recorder)) == live


def test_a_snapshot_of_a_replay_is_the_same_but_for_when_it_was_taken(tree: Tree) -> None:
    recorder = Recorder(tree)
    answers(recorder)
    again = Recorder(replayed(recorder))
    answers(again)
    first, second = (json.loads(dump(each, False)) for each in (recorder, again))
    del first["taken"], second["taken"]
    assert first == second


def test_what_was_not_read_is_absent_from_a_snapshot(tree: Tree) -> None:
    recorder = Recorder(tree)
    recorder.text("/sys/class/infiniband/mlx5_2/bytes")
    source = replayed(recorder)
    assert source.text("/sys/class/infiniband/mlx5_2/bytes") is not None
    assert source.failure("/sys/class/infiniband/mlx5_2/fw_ver") == "ENOENT"
    assert source.names("/sys/class/infiniband") == []
    assert source.probe("nvml") is None


def test_bytes_that_are_no_text_come_back_as_they_were(tree: Tree) -> None:
    recorder = Recorder(tree)
    recorder.text("/sys/absolute/mlx5_2/bytes")
    text = dump(recorder, False)
    assert text.isascii()
    found = load(text, "x").text("/sys/absolute/mlx5_2/bytes")
    assert found is not None
    assert os.fsencode(found) == b"\xff\x00\xe4\xf6"


def test_what_vanishes_between_two_looks_is_absent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "link").symlink_to("file")
    recorder = Recorder(Tree(tmp_path))
    assert (recorder.text("/file"), recorder.link("/link")) == ("here", "file")
    (tmp_path / "file").unlink()
    (tmp_path / "link").unlink()
    assert (recorder.text("/file"), recorder.link("/link")) == (None, None)
    source = replayed(recorder)
    assert (source.failure("/file"), source.link("/link")) == ("ENOENT", None)


def test_limits_and_versions_are_saved_where_there_are_any(tmp_path: Path) -> None:
    for path, text in (("proc/self/limits", "Max locked memory"), ("etc/os-release", "ID=x")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    recorder = Recorder(Tree(tmp_path))
    recorder.read_background()
    assert recorder.record.files == {
        "/proc/self/limits": "Max locked memory",
        "/etc/os-release": "ID=x",
    }


@pytest.mark.parametrize(
    ("text", "complains_of"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no snapshot"),
        ("{}", "no snapshot"),
        ('{"schema": "rdmatrain-snapshot/2"}', "no snapshot"),
        ('{"schema": "rdmatrain-snapshot/1", "files": []}', "'files' should be an object"),
        ('{"schema": "rdmatrain-snapshot/1", "files": {"/x": 1}}', "'/x' should be a text"),
        ('{"schema": "rdmatrain-snapshot/1", "folders": {"/x": [1]}}', "'/x' should be names"),
        ('{"schema": "rdmatrain-snapshot/1", "folders": {"/x": "ab"}}', "'/x' should be names"),
        ('{"schema": "rdmatrain-snapshot/1", "links": {"/x": null}}', "'/x' should be a text"),
    ],
)
def test_what_is_no_snapshot_is_one_line_that_names_the_file(text: str, complains_of: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(text, "report.json")
    assert "report.json" in str(caught.value)
    assert complains_of in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_snapshot_that_names_no_such_error_still_fails_there() -> None:
    saved = {"schema": "rdmatrain-snapshot/1", "errors": {"/a": "EWHAT", "/b": "errorcode"}}
    source = load(json.dumps(saved), "x")
    assert [source.failure(path) for path in ("/a", "/b")] == ["EIO", "EIO"]


@given(st.dictionaries(st.text("/a.~\udcff", max_size=6), st.text(max_size=4), max_size=5))
@settings(deadline=None, max_examples=100)
def test_any_paths_and_links_are_looked_up_without_an_exception(links: dict[str, str]) -> None:
    saved = {"schema": "rdmatrain-snapshot/1", "links": links, "files": links}
    source = load(json.dumps(saved), "x")
    for path in links:
        source.text("/" + path), source.names(path), source.failure(path)


# -- secrets --


def of_environment(redact: bool, path: str = ENVIRON, **variables: str) -> dict[str, Any]:
    """What a snapshot of these variables holds."""
    source = Replay(Recorder(Tree()).record)
    source.record.files[path] = "".join(f"{name}={value}\0" for name, value in variables.items())
    saved = json.loads(dump(source, redact))
    assert isinstance(saved, dict)
    return saved


SECRETS = {
    "HF_TOKEN": "hf_abc",
    "WANDB_API_KEY": "0f0f",
    "MYSQL_PASSWORD": "hunter2",
    "client_secret": "s3cr3t",
    "AWS_SECRET_ACCESS_KEY": "wJalr",
    "AWS_SESSION_TOKEN": "FwoG",
    "SENTRY_DSN": "https://k@sentry",
    "GOOGLE_CREDENTIALS": "{}",
    "SLURM_JWT": "eyJh",
    "PROXY": "http://me:pw12@proxy:3128",
    "KUBEFLOW_TRAINER_SERVER_TOKEN": "/var/run/t0ken",
    "SSH_PRIVATE_KEY": "MIIE",
}


@pytest.mark.parametrize("redact", [False, True])
@pytest.mark.parametrize("path", [ENVIRON, "/proc/1/environ", "/proc/4711/environ"])
def test_no_secret_is_in_a_snapshot_and_its_name_is_listed(redact: bool, path: str) -> None:
    saved = of_environment(redact, path, NCCL_DEBUG="INFO", **SECRETS)
    text = json.dumps(saved["files"])
    assert [value for value in SECRETS.values() if value in text] == []
    assert saved["files"][path] == "NCCL_DEBUG=INFO\0"
    assert saved["removed"] == [f"{path}: {name}" for name in SECRETS]


KNOWN = {
    "PCIDEVICE_NVIDIA_COM_RDMA-VF": "0000:0c:00.2",
    "NVIDIA_VISIBLE_DEVICES": "void",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "NCCL_IB_PKEY": "1",
    "RDMATRAIN_PKEY": "0",
    "UCX_NET_DEVICES": "mlx5_0:1",
    "FI_PROVIDER": "efa",
    "PET_NNODES": "2",
    "VC_TASK_INDEX": "0",
    "SLURM_PROCID": "3",
    "OMPI_COMM_WORLD_RANK": "0",
    "PMI_RANK": "0",
    "LWS_GROUP_SIZE": "2",
    "JOB_COMPLETION_INDEX": "1",
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_PORT": "29500",
}


def test_redaction_keeps_what_discovery_reads_and_drops_the_rest() -> None:
    others = {"PATH": "/home/ann/bin", "ACME_SERVICE_HOST": "x", "SLURM_JOB_USER": "ann"}
    saved = of_environment(True, **KNOWN, **others)
    assert saved["files"][ENVIRON] == "".join(f"{n}={v}\0" for n, v in KNOWN.items())
    assert saved["removed"] == [f"{ENVIRON}: 3 variables that discovery does not read"]
    assert of_environment(False, **KNOWN, **others)["removed"] == []


def test_a_file_that_is_no_environment_is_left_alone() -> None:
    saved = of_environment(True, "/sys/environ", API_KEY="1")
    assert saved["files"]["/sys/environ"] == "API_KEY=1\0"
