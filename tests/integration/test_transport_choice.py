"""What joins ranks is demanded, chosen and told: real processes on a machine without RDMA."""

from pathlib import Path

import pytest
from integration_jobs import (
    RUN,
    Ended,
    finish,
    nothing_left_behind,
    run_by_hand,
    start,
    write_worker,
)

from rdmatrain.discovery.ports import read_ports
from rdmatrain.discovery.source import Tree

# Each rank believes to be on a host of its own.
APART = """
from rdmatrain.comm import host
host.host_id = lambda: f"host {RANK}"
"""
INIT = """
import rdmatrain
raise SystemExit(7 if reported(dist.init_process_group, "rdmatrain", PG_OPTIONS) else 0)
"""
JOIN = """
import rdmatrain
dist.init_process_group("rdmatrain")
x = torch.arange(1000.) * (RANK + 1)
dist.all_reduce(x)
assert torch.equal(x, torch.arange(1000.) * sum(r + 1 for r in range(WORLD)))
note(transports=rdmatrain.transports())
dist.destroy_process_group()
"""

no_rdma = pytest.mark.skipif(bool(read_ports(Tree())), reason="this machine has RDMA devices")


def run(worker: str, *options: str, env: dict[str, str] | None = None) -> Ended:
    own = {"RDMATRAIN_ADDR": "127.0.0.1"} | (env or {})
    return finish([start([*RUN, "--nproc-per-node", "2", *options, worker], own)])[0]


def refusals(worker: str, env: dict[str, str]) -> list[str]:
    """The error of each rank, which must come in time; no launcher ends one because of another."""
    ranks = [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    with nothing_left_behind() as marked:
        both = run_by_hand(worker, [marked | env | rank for rank in ranks])
    facts = [ended.of(0) for ended in both]
    for ended, fact in zip(both, facts, strict=True):
        assert ended.code == 7 and fact["after_s"] < 5, ended.out
    return [fact["error"] for fact in facts]


@no_rdma
@pytest.mark.parametrize("name", ["RDMATRAIN_TRANSPORT", "RDMATRAIN_REQUIRE"])
def test_verbs_that_cannot_be_had_is_refused_in_time_with_the_reason(
    tmp_path: Path, name: str
) -> None:
    body = (APART if "REQUIRE" in name else "") + INIT.replace(", PG_OPTIONS", "")
    for error in refusals(write_worker(tmp_path, body), {name: "verbs"}):
        assert f"{name}=verbs, but it cannot join rank 0" in error and "and rank 1" in error
        assert "neither can use RDMA: there is no RDMA device in /sys/class/infiniband" in error


@no_rdma
def test_the_launchers_options_demand_verbs_too(tmp_path: Path) -> None:
    worker = write_worker(tmp_path, APART + INIT.replace(", PG_OPTIONS", ""))
    ended = run(worker, "--require", "verbs")
    assert ended.code == 7, ended.out
    assert "RDMATRAIN_REQUIRE=verbs, but it cannot join rank 0" in ended.out
    ended = run(worker, "--transport", "verbs")  # the launcher itself sees that no pair can have it
    assert ended.code == 69, ended.out
    assert "--transport=verbs, but no RDMA port of this node works" in ended.out


@no_rdma
def test_an_error_names_the_argument_that_demanded_it(tmp_path: Path) -> None:
    body = APART + INIT.replace("PG_OPTIONS", "pg_options=rdmatrain.Options(require='verbs')")
    env = {"RDMATRAIN_REQUIRE": "tcp"}
    for error in refusals(write_worker(tmp_path, body), env):
        assert "the argument require=verbs, but it cannot join rank 0" in error


def test_shm_that_is_required_forbids_other_hosts(tmp_path: Path) -> None:
    body = APART + INIT.replace(", PG_OPTIONS", "")
    for error in refusals(write_worker(tmp_path, body), {"RDMATRAIN_REQUIRE": "shm"}):
        assert "RDMATRAIN_REQUIRE=shm, but rank 0" in error and "share no host" in error


def test_what_is_required_between_hosts_leaves_one_host_alone(tmp_path: Path) -> None:
    ended = run(write_worker(tmp_path, JOIN), "--require", "verbs", env={"RDMATRAIN_LOG": "info"})
    assert ended.code == 0, ended.out
    assert ended.of(0)["transports"] == ["self", "shm"]
    assert "rank 0 of 2: shm to rank 1 (same host)" in ended.out
    assert "rank 1 of 2: shm to rank 0 (same host)" in ended.out


@no_rdma
def test_the_first_line_says_what_joins_hosts_and_why(tmp_path: Path) -> None:
    ended = run(write_worker(tmp_path, APART + JOIN), env={"RDMATRAIN_LOG": "info"})
    assert ended.code == 0, ended.out
    assert ended.of(0)["transports"] == ["self", "tcp"]
    why = "neither can use RDMA: there is no RDMA device in /sys/class/infiniband"
    for rank in range(2):
        assert f"rank {rank} of 2: tcp to rank {1 - rank} ({why})" in ended.out


def test_without_rdma_nothing_is_said_unless_it_is_asked_for(tmp_path: Path) -> None:
    ended = run(write_worker(tmp_path, APART + JOIN), "--require", "tcp")
    assert ended.code == 0, ended.out
    assert "rank 0 of 2" not in ended.out
