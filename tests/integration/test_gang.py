# SPDX-License-Identifier: Apache-2.0
"""Launchers of two hosts, in network namespaces, form one gang, which meets faults as one."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration_hosts import PORT, SECRET, TwoHosts, two_hosts
from integration_jobs import RUN, Ended, finish, nothing_left_behind, start

# Says who it is, leaves a note of its process, and then does what the test asks for.
WORKER = """
import os, signal, sys, time
from pathlib import Path
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
folder = Path(sys.argv[1])
def note(name, value=""):
    path = folder / f"{name}.{rank}.{attempt}"
    path.with_name(path.name + ".new").write_text(str(value))
    path.with_name(path.name + ".new").rename(path)
"""
SLEEP = "note('pid', os.getpid())\ntime.sleep(60)\n"


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as two:
        yield two


class Gang:
    """A launcher on each host, and what their workers note."""

    def __init__(self, hosts: TwoHosts, folder: Path, body: str, *options: str, **how: str) -> None:
        self.hosts, self.folder = hosts, folder
        self.worker = folder / "worker.py"
        self.worker.write_text(WORKER + body)
        self.options = [*options, str(self.worker), str(folder)]
        self.how = how
        self.nodes: list[subprocess.Popen[str]] = []

    def begin(self, env: dict[str, str], *nodes: int) -> None:
        common = ["--nnodes", "2", "--master-addr", self.hosts.addresses[0]]
        common += ["--master-port", str(PORT), "--rdzv-id", "tests"]
        for node in nodes or (0, 1):
            own = env | {"GLOO_SOCKET_IFNAME": self.hosts.cables[node]}
            own |= {"RDMATRAIN_SECRET": self.how.get(f"secret{node}", SECRET)}
            command = [*RUN, *common, "--node-rank", str(node), *self.options]
            self.nodes.append(start(self.hosts.command(node, command), own))

    def pid(self, rank: int, attempt: int = 0) -> int:
        path = self.folder / f"pid.{rank}.{attempt}"
        end = time.monotonic() + 30
        while not path.exists():
            for node in self.nodes:
                assert node.poll() is None, node.communicate()[0]
            assert time.monotonic() < end, f"{path.name} was not noted"
            time.sleep(0.01)
        return int(path.read_text())

    def end(self, timeout_s: float = 40.0) -> list[Ended]:
        return finish(self.nodes, timeout_s)


def report(ended: Ended) -> list[str]:
    """The launcher's own lines."""
    return re.findall(r"^rdmatrain run: (.*)", ended.out, flags=re.MULTILINE)


def test_workers_of_both_hosts_are_one_job(hosts: TwoHosts, tmp_path: Path) -> None:
    body = """
keys = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE MASTER_ADDR".split()
print(*(os.environ[key] for key in keys), os.environ["RDMATRAIN_ADDR"], flush=True)
"""
    gang = Gang(hosts, tmp_path, body, "--nproc-per-node", "2")
    with nothing_left_behind() as env:
        gang.begin(env)
        ended = gang.end()
    for node, each in enumerate(ended):
        assert each.code == 0, each.out
        lines = sorted(re.findall(r"│ (.*)", each.out))
        assert lines == [
            f"{2 * node + local} {local} 4 2 {node} 2 127.0.0.1 {hosts.addresses[node]}"
            for local in range(2)
        ], each.out


def test_a_store_that_nobody_else_reaches_serves_all_ranks(hosts: TwoHosts, tmp_path: Path) -> None:
    body = """
import torch.distributed as dist
dist.init_process_group("gloo")
store = dist.distributed_c10d._get_default_store()
store.set(f"from-{rank}", f"{rank}" * 1000)
other = (rank + 1) % dist.get_world_size()
assert store.get(f"from-{other}") == f"{other}".encode() * 1000
listening = [line.split()[1] for name in ("tcp", "tcp6") for line in
             Path(f"/proc/net/{name}").read_text().splitlines()[1:] if line.split()[3] == "0A"]
print("listening", *listening, flush=True)
dist.barrier()
"""
    gang = Gang(hosts, tmp_path, body)
    with nothing_left_behind() as env:
        gang.begin(env)
        ended = gang.end()
    for each in ended:
        assert each.code == 0, each.out
        ports = re.findall(r"│ listening (.*)", each.out)[0].split()
        anywhere = [port for port in ports if re.match(r"0+:", port)]
        assert ports and not anywhere, each.out


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_both_hosts_at_once_and_is_named_first(
    hosts: TwoHosts, tmp_path: Path, victim: int
) -> None:
    gang = Gang(hosts, tmp_path, SLEEP)
    with nothing_left_behind() as env:
        gang.begin(env)
        pids = [gang.pid(rank) for rank in range(2)]
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        other = Path(f"/proc/{pids[1 - victim]}")
        while other.exists():
            assert time.monotonic() - killed < 5
            time.sleep(0.005)
        took_s = time.monotonic() - killed
        ended = gang.end()
    assert took_s < 1.0  # 0.5 s on a quiet machine: benchmarks/launcher_faults.py
    for each in ended:
        assert each.code == 137, each.out
        first = report(each)[0]
        assert first.startswith(f"rank {victim} on host "), each.out
        assert f"(pid {pids[victim]}): killed by SIGKILL; " in first


def test_a_workers_own_code_is_every_launchers(hosts: TwoHosts, tmp_path: Path) -> None:
    gang = Gang(hosts, tmp_path, "if rank == 1: sys.exit(77)\n" + SLEEP)
    with nothing_left_behind() as env:
        gang.begin(env)
        ended = gang.end()
    assert [each.code for each in ended] == [77, 77], ended


@pytest.mark.parametrize("asked", [0, 1])
def test_sigterm_to_one_launcher_reaches_the_workers_of_both_once(
    hosts: TwoHosts, tmp_path: Path, asked: int
) -> None:
    body = """
def stop(number, frame):
    with (folder / f"stops.{rank}").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
"""
    gang = Gang(hosts, tmp_path, body + SLEEP)
    with nothing_left_behind() as env:
        gang.begin(env)
        for rank in range(2):
            gang.pid(rank)
        gang.nodes[asked].send_signal(signal.SIGTERM)
        time.sleep(0.2)
        gang.nodes[asked].send_signal(signal.SIGTERM)
        ended = gang.end()
    for rank, each in enumerate(ended):
        assert each.code == 143, each.out
        assert (tmp_path / f"stops.{rank}").read_text() == "x"
        assert "stopped by SIGTERM on host" in report(each)[0]


def test_the_gang_starts_again_as_one_and_a_job_may_end_well_after_a_fault(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    body = """
note("pid", os.getpid())
if attempt == 2:
    sys.exit(0)
time.sleep(60)
"""
    gang = Gang(hosts, tmp_path, body, "--max-restarts", "2")
    with nothing_left_behind() as env:
        gang.begin(env)
        for attempt, victim in enumerate((1, 0)):
            pids = [gang.pid(rank, attempt) for rank in range(2)]
            os.kill(pids[victim], signal.SIGKILL)
        ended = gang.end()
    for each in ended:
        assert each.code == 0, each.out
        lines = report(each)
        assert lines[0].startswith("rank 1 on") and any("restart 1 of 2" in x for x in lines)
        assert any(x.startswith("rank 0 on") for x in lines)
        assert any("restart 2 of 2" in x for x in lines)


def test_a_launcher_that_is_killed_ends_the_other_host(hosts: TwoHosts, tmp_path: Path) -> None:
    gang = Gang(hosts, tmp_path, SLEEP)
    with nothing_left_behind() as env:
        gang.begin(env)
        for rank in range(2):
            gang.pid(rank)
        gang.nodes[1].kill()
        ended = gang.end()
    assert ended[0].code == 201, ended[0].out
    assert "lost" in report(ended[0])[0] or "connection" in report(ended[0])[0]


def test_another_secret_is_refused_by_name_and_nobody_hangs(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    gang = Gang(
        hosts, tmp_path, SLEEP, "--join-timeout", "4", secret1="another secret, also long enough"
    )
    with nothing_left_behind() as env:
        gang.begin(env)
        ended = gang.end(30)
    assert all(each.code not in {0, 1} for each in ended), ended
    assert "secret" in ended[1].out, ended[1].out
    assert not list(tmp_path.glob("pid.*"))


def test_a_gang_that_is_not_complete_in_time_says_who_was_missing(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    gang = Gang(hosts, tmp_path, SLEEP, "--join-timeout", "2")
    with nothing_left_behind() as env:
        gang.begin(env, 0)
        (ended,) = gang.end()
    assert ended.code == 200, ended.out
    assert "node rank 1" in ended.out, ended.out
