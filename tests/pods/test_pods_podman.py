# SPDX-License-Identifier: Apache-2.0
"""Two pods of a rendered job, in the image of launch/Containerfile: what a cluster would run."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pods_job import Gang, Machine

# Two gangs form, on whatever CPU others leave; the image is there before.
pytestmark = pytest.mark.timeout(600)

WHO = """
import shutil
def owner(path):
    found = os.stat(path)
    return [oct(found.st_mode & 0o7777), found.st_uid, found.st_gid]
memory = os.statvfs("/dev/shm")
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "capabilities": int(status["CapBnd"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "first": open("/proc/1/cmdline").read().split("\\0")[1:3],
    "network": os.readlink("/proc/self/ns/net"), "writable": os.access("/opt", os.W_OK),
    "compilers": list(filter(shutil.which, ("cc", "gcc", "g++", "c++", "clang", "ld", "as"))),
    "secret": owner("/etc/rdmatrain/secret"), "link": os.readlink("/etc/rdmatrain/secret"),
    "claim": owner("/checkpoints"),
    "memory": memory.f_blocks * memory.f_frsize,
}))
"""
# A worker of the first round is the demo's Python. The launcher and its guardian have the pod's
# command line, and the worker's successor, which waits for its turn, that of a standby.
KILL = """
import signal
def words(pid):
    return open(f"/proc/{pid}/cmdline").read().split("\\0")
pids = [int(each) for each in os.listdir("/proc") if each.isdigit()]
demos = [pid for pid in pids if any(word.endswith("/train_gpt.py") for word in words(pid))]
(worker,) = [pid for pid in demos if words(pid) != words(1)]
os.kill(worker, signal.SIGKILL)
print(json.dumps(worker))
"""


@pytest.fixture
def start(machine: Machine) -> Iterator[Callable[..., Gang]]:
    gangs: list[Gang] = []

    def one(*script: str, **fields: Any) -> Gang:
        gangs.append(machine.start(*script, **fields))
        return gangs[-1]

    yield one
    for gang in gangs:
        gang.remove()


def sum_of(samples: dict[str, float], name: str, *labels: str) -> float:
    return sum(
        value
        for key, value in samples.items()
        if key.partition("{")[0] == name and all(label in key for label in labels)
    )


def all_reduces_over_tcp(samples: dict[str, float]) -> float:
    return sum_of(samples, "rdmatrain_collectives_total", 'op="all_reduce"', 'transport="tcp"')


def test_a_gang_of_pods_trains_is_scraped_and_survives_the_kill_of_a_worker(start):
    gang = start("--steps", "2000", "--checkpoint-every", "50")
    gang.until(lambda: gang.step() >= 100, "no step 100")
    assert_pods_are_as_rendered(gang)
    for index in range(2):
        # A hundred steps may take less than the second between two samples of a worker.
        gang.until(lambda i=index: all_reduces_over_tcp(gang.scrape(i)) > 15, "no all_reduces")
        seen = gang.scrape(index)
        assert sum_of(seen, "rdmatrain_peers", 'transport="tcp"') == 1
        assert sum_of(seen, "rdmatrain_bytes_total", 'transport="tcp"') > 0
        assert sum_of(seen, "rdmatrain_restarts_total") == 0
        assert sum_of(seen, "rdmatrain_workers") == 1

    gang.python(1, KILL)
    gang.until(lambda: "goes on from the checkpoint" in gang.log(0), "no restart")
    assert sum_of(gang.scrape(1), "rdmatrain_restarts_total") == 1
    assert gang.codes() == [0, 0], gang.logs()
    assert_it_went_on_from(gang.log(0), 50)
    result = json.loads((gang.claim / "out" / "result.json").read_text("utf-8"))
    assert result["world_size"] == 2
    assert "tcp" in json.dumps(result["transport"])
    assert len(set(result["param_sha256"])) == 1
    assert len(result["param_sha256"]) == 2


def assert_pods_are_as_rendered(gang: Gang) -> None:
    facts = [gang.python(index, WHO) for index in range(2)]
    for each in facts:
        assert (each["uid"], each["gid"]) == (1000, 1000)
        assert each["capabilities"] == 0
        assert each["no_new_privileges"] == 1
        assert each["first"][0].endswith("/rdmatrain")
        assert each["first"][1] == "run"
        assert not each["writable"]
        assert each["compilers"] == []
        assert each["secret"] == ["0o440", 0, 1000]
        assert each["link"] == "..data/secret"
        assert each["claim"] == ["0o2775", 0, 1000]
        assert each["memory"] == 256 << 20
    assert facts[0]["network"] != facts[1]["network"]


def assert_it_went_on_from(log: str, step: int) -> None:
    came_from = re.search(r"goes on from the checkpoint of step (\d+)", log)
    assert came_from is not None, log
    assert int(came_from[1]) >= step


@pytest.mark.parametrize("index", [1, pytest.param(0, marks=pytest.mark.thorough)])
def test_a_pod_that_is_killed_and_made_again_joins_the_one_that_lived_on(start, index):
    gang = start("--steps", "2000", "--checkpoint-every", "20", preflight=False)
    gang.until(lambda: gang.saved_step() >= 40, "no checkpoint of step 40")
    gang.replace(index)
    gang.until(lambda: "goes on from the checkpoint" in gang.log(0), "no restart")
    # The other pod lives on, and its launcher counts the restart.
    assert sum_of(gang.scrape(1 - index), "rdmatrain_restarts_total") == 1
    assert sum_of(gang.scrape(index), "rdmatrain_restarts_total") == 0
    assert gang.codes() == [0, 0], gang.logs()
    assert_it_went_on_from(gang.log(0), 40)
    result = json.loads((gang.claim / "out" / "result.json").read_text("utf-8"))
    assert len(result["param_sha256"]) == 2
    assert len(set(result["param_sha256"])) == 1


@pytest.mark.parametrize("index", [0, 1])
def test_sigterm_to_one_pod_ends_all_with_the_code_of_the_contract(start, index):
    gang = start("--steps", "100000", "--checkpoint-every", "1000", preflight=False)
    gang.until(lambda: gang.step() >= 5, "no step 5")
    gang.podman.run("kill", "-s", "TERM", gang.pods[index].container())
    assert gang.codes() == [143, 143], gang.logs()
    for pod in gang.pods:
        message = json.loads(pod.message())
        assert message["exit_code"] == 143
        assert message["retryable"] is True
    # The workers saved within their grace: no step of 1000 had been reached.
    assert any((gang.claim / "saved").iterdir())
