# SPDX-License-Identifier: Apache-2.0
"""What the pod's status shows fits in 4096 bytes, says the same as the exit code, and is JSON."""

import json
from pathlib import Path

import pytest

from rdmatrain.launcher import termination
from rdmatrain.launcher.messages import Fault, Finish

FAULT = Fault(kind="hang", host="b", rank=3, pid=7, detail="idle for 8 s", exit_code=204)


def test_a_fault_is_told_with_rank_host_and_kind() -> None:
    told = json.loads(termination.text(Finish(exit_code=204, fault=FAULT), "job-1", "a"))
    assert (told["exit_code"], told["retryable"], told["run_id"]) == (204, True, "job-1")
    assert told["message"].startswith("rank 3 on host b (pid 7): idle for 8 s")
    assert (told["fault"]["kind"], told["fault"]["rank"], told["fault"]["host"]) == ("hang", 3, "b")


@pytest.mark.parametrize(("code", "retryable"), [(0, False), (1, False), (78, False), (137, True)])
def test_below_128_is_for_good(code: int, retryable: bool) -> None:
    assert json.loads(termination.text(Finish(exit_code=code), "", ""))["retryable"] is retryable


@pytest.mark.parametrize("letter", ["x", "\x00", "é", "\N{GRINNING FACE}", '"'])
def test_no_text_makes_it_longer_than_the_kubelet_reads(letter: str) -> None:
    fault = Fault(kind="exit", host=letter * 9000, detail=letter * 9000)
    data = termination.text(Finish(exit_code=1, fault=fault), letter * 9000, letter * 9000)
    assert len(data.encode()) <= termination.MAX_BYTES
    assert json.loads(data)["exit_code"] == 1


def test_it_is_written_only_where_the_kubelet_has_made_the_file(tmp_path: Path) -> None:
    there, absent, link = tmp_path / "log", tmp_path / "none", tmp_path / "link"
    there.write_text("something longer that was there before")
    link.symlink_to(there)
    termination.write("told", str(absent))
    assert not absent.exists()
    termination.write("link", str(link))
    assert there.read_text().startswith("something")
    termination.write("told", str(there))
    assert there.read_text() == "told"


@pytest.mark.parametrize(
    ("code", "kind", "meaning"),
    [
        (130, "", "stopped by SIGINT"),
        (143, "", "stopped by SIGTERM, after the workers had their time for a checkpoint"),
        (143, "stop", "stopped by SIGTERM, after the workers had their time for a checkpoint"),
        (143, "signal", "a worker was killed by SIGTERM"),
        (139, "signal", "a worker was killed by SIGSEGV"),
        (204, "hang", "a worker hung"),
    ],
)
def test_a_signal_to_the_job_is_not_one_to_a_worker(code: int, kind: str, meaning: str) -> None:
    fault = Fault(kind=kind, host="b", detail="", exit_code=code) if kind else None
    told = json.loads(termination.text(Finish(exit_code=code, fault=fault), "", "a"))
    assert told["meaning"] == meaning
