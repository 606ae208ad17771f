"""torch.distributed over the guest's RDMA device; workers/torch_checks.py is what runs there."""

import sys
from pathlib import Path

import pytest
from integration_jobs import Ended, run_alone
from test_bed import ipv4_index

WORKER = Path(__file__).with_name("workers") / "torch_checks.py"
RANKS = 3
CHECKS = [
    "all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor", "broadcast", "all_gather",
    "all_gather_into_tensor", "gather", "scatter", "all_to_all", "all_to_all_single",
    "all_to_all_single_of_parts_that_differ", "send_and_recv",
    "stats_name_the_device_and_the_gid",
    "gradients_of_ddp_are_not_staged",
    "workers_of_a_data_loader_while_collectives_run",
    "what_a_forked_child_writes_is_seen_by_neither_parent_nor_peer",
    "what_ran_before_these_forks_runs_after_them",
    "bytes_are_counted_by_device",
]  # fmt: skip
# Where a guest can write: the usual place is in the checkout.
TRACES = {"RDMATRAIN_RECORDER_DIR": "/tmp/traces"}
# RDMATRAIN_REQUIRE promises it, here from where all is imported on; where the guest's emulated CPUs
# are slowed by others, and so the import of torch is, as many times longer.
SOON_S, QUIET_IMPORT_S = 5.0, 20.0

pytestmark = pytest.mark.timeout(760)


@pytest.fixture(scope="module")
def job(device) -> Ended:
    env = TRACES | {"IPV4_GID": str(ipv4_index(device))}
    return run_alone(str(WORKER), env=env, timeout_s=720)


def test_how_long_it_took(job, capsys):
    seconds = {key: value for key, value in job.of(0).items() if key.endswith("seconds")}
    with capsys.disabled():
        lines = [f"  {key}: {value}" for key, value in seconds.items()]
        sys.stdout.write("\n".join(["", *lines, ""]))
    assert job.code == 0, job.out


@pytest.mark.parametrize("name", [*CHECKS, "checks"])
def test_on_three_ranks(job, name):
    for rank in range(RANKS):
        found = job.of(0).get(f"{name}-{rank}", f"not reached:\n{job.out}")
        assert found == "ok", f"rank {rank}: {found}"


def peers_of(job, name):
    """What each rank said of the ranks that it is joined to."""
    assert job.of(0).get(f"{name}-codes") == [0] * RANKS, job.out
    return [job.of(0)[f"{name}-{rank}"]["peers"] for rank in range(RANKS)]


def errors_of(job, name):
    """How each rank said that the group cannot form, which must be in time."""
    ends = [job.of(0).get(f"{name}-{rank}", {}) for rank in range(RANKS)]
    assert all("error" in end for end in ends), job.out
    soon_s = SOON_S * max(1.0, job.of(0)["torch_seconds"] / QUIET_IMPORT_S)
    assert max(end["seconds"] for end in ends) < soon_s, ends
    return [end["error"] for end in ends]


def test_between_hosts_it_is_verbs_and_inside_one_shm(job):
    first, second, third = peers_of(job, "two_hosts")
    assert [peer["transport"] for peer in first] == ["shm", "verbs"]
    assert [peer["transport"] for peer in second] == ["shm", "verbs"]
    assert [peer["transport"] for peer in third] == ["verbs", "verbs"]
    assert third[0]["why"] == "RDMATRAIN_REQUIRE=verbs"


@pytest.mark.parametrize("name", ["no_device", "no_device_between"])
def test_a_device_that_is_not_there_is_said_on_all_ranks(job, name, device):
    for error in errors_of(job, name):
        assert "RDMATRAIN_DEVICES=nonexistent, but there is no nonexistent here" in error
        assert f"the ports are {device}" in error


@pytest.mark.parametrize("name", ["gid_ipv4", "gid_link_local"])
def test_a_gid_that_works_can_be_forced(job, name, device):
    index = ipv4_index(device) if name == "gid_ipv4" else 0
    for peers in peers_of(job, name):
        assert [peer["gid_index"] for peer in peers] == [index] * (RANKS - 1)


def test_a_forced_gid_that_is_not_there_is_said_with_the_table(job, device):
    for error in errors_of(job, "gid_none"):
        assert "RDMATRAIN_GID_INDEX=200, which has no such entry or it is zero" in error
        assert f"{ipv4_index(device)} RoCE v2" in error


def test_the_demo_gives_the_same_bits_over_verbs_as_over_shm(job):
    over = {name: job.of(0).get(f"demo_{name}-0") for name in ("shm", "verbs")}
    for name, result in over.items():
        assert isinstance(result, dict), f"{result}\n{job.out}"
        assert result.pop("transport") == ["self", name]
    assert over["verbs"] == over["shm"]
    assert len(over["verbs"]["losses"]) == 4
    assert len(set(over["verbs"]["sha256"])) == 1
