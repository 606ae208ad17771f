# SPDX-License-Identifier: Apache-2.0
"""A job is scraped over HTTP while it runs: every value is what the ranks really did."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from integration_hosts import PORT, SECRET, TwoHosts, two_hosts
from integration_jobs import PYTHON, RUN, finish, free_port, start, write_worker
from metrics_lint import problems_of, values_of

pytest.importorskip("prometheus_client", reason="rdmatrain[metrics] is not installed")

WAIT_S = 100.0
pytestmark = pytest.mark.timeout(300)

# 7 all_reduces of 1000 floats and a message of 500 before the fault; 5 and two barriers after it.
TRAFFIC = """
from pathlib import Path
folder = Path(sys.argv[1])
restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
dist.init_process_group("rdmatrain")
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.05)
if restart == 0:
    for _ in range(7):
        dist.all_reduce(torch.ones(1000))
    dist.send(torch.ones(500), 1) if RANK == 0 else dist.recv(torch.ones(500), 0)
    wait_for("fail")
    if RANK == 1:
        raise RuntimeError("as the test wants it")
    wait_for("never")
from rdmatrain.train import Checkpoints, Training
for _ in range(5):
    dist.all_reduce(torch.ones(1000))
dist.barrier(), dist.barrier()
import rdmatrain
note(totals=rdmatrain.get_stats()["totals"])
(folder / f"bytes-{RANK}").touch()
wait_for("train")
lost = []
with Training(Checkpoints(folder / "saved", replicated=True), {"list": lost}, every=2) as run:
    for step in run.steps(5):
        lost.append(step)
note(ratio=run.goodput.ratio, saving=run.goodput.saving_s, sent=rdmatrain.get_stats()["totals"])
wait_for("end")
dist.destroy_process_group()
"""

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]
Of = Callable[..., float | None]


def scrape(port: int, accept: str = "text/plain") -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def until(read: Callable[[], str], wanted: Callable[[Of], bool]) -> Of:
    """Scrape until the values are as wanted; returns what looks a value up."""
    end = time.monotonic() + WAIT_S
    text = ""
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            text = read()
            values = values_of(text)

            def of(name: str, values: Values = values, **labels: object) -> float | None:
                wanted = {key: str(value) for key, value in labels.items()}
                return values.get((name, frozenset(wanted.items())))

            if wanted(of):
                return of
        time.sleep(0.2)
    raise AssertionError(f"the metrics did not become as they should:\n{text}")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def job(tmp_path: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    worker = write_worker(tmp_path, TRAFFIC)
    options = ["--nproc-per-node", "2", "--max-restarts", "1", "--metrics-port", str(port)]
    process = start([*RUN, *options, "--metrics-addr", "127.0.0.1", worker, str(tmp_path)])
    yield process
    kill(process)


def collectives(of: Of, op: str, rank: int, transport: str = "shm") -> float | None:
    return of("rdmatrain_collectives_total", op=op, rank=rank, transport=transport)


def traffic(of: Of, direction: str, rank: int) -> float | None:
    name = "rdmatrain_bytes_total"
    return of(name, direction=direction, rank=rank, transport="shm", device="")


def test_values_are_what_the_ranks_did_also_across_a_restart(
    job: "subprocess.Popen[str]", port: int, tmp_path: Path
) -> None:
    def first_done(of: Of) -> bool:
        ops = [("all_reduce", 0, 7), ("all_reduce", 1, 7), ("send", 0, 1), ("recv", 1, 1)]
        return all(collectives(of, op, rank) == count for op, rank, count in ops)

    of = until(partial(scrape, port), first_done)
    # All_reduce by two ranks: each sends as many bytes as the tensor has. Then the message.
    assert (traffic(of, "sent", 0), traffic(of, "received", 1)) == (7 * 4000 + 2000,) * 2
    assert (traffic(of, "sent", 1), traffic(of, "received", 0)) == (7 * 4000,) * 2
    name = "rdmatrain_collective_duration_seconds"
    assert of(f"{name}_count", op="all_reduce") == 14
    assert of(f"{name}_bucket", op="all_reduce", le="+Inf") == 14
    assert of("rdmatrain_restarts_total") == 0
    assert of("rdmatrain_workers") == of("rdmatrain_workers_expected") == 2
    assert of("rdmatrain_peers", rank=0, transport="shm") == 1
    assert of("rdmatrain_fallback_peers", rank=0) == 0
    assert of("rdmatrain_collectives_missed_total", rank=0) == 0
    assert 0 < time.time() - (of("rdmatrain_last_progress_timestamp_seconds", rank=0) or 0) < WAIT_S
    assert problems_of(scrape(port), scrape(port, "application/openmetrics-text")) == []
    (tmp_path / "fail").touch()

    def again(of: Of) -> bool:
        both = [collectives(of, op, rank) for op in ("all_reduce", "barrier") for rank in (0, 1)]
        return both == [12, 12, 2, 2]

    of = until(partial(scrape, port), again)
    assert of("rdmatrain_restarts_total") == 1
    assert (traffic(of, "sent", 0), traffic(of, "sent", 1)) == (12 * 4000 + 2000, 12 * 4000)
    assert (collectives(of, "send", 0), of(f"{name}_count", op="recv")) == (1, 1)
    assert of(f"{name}_count", op="all_reduce") == 24
    (tmp_path / "train").touch()

    # Saved after steps 2, 4 and 5, the last.
    of = until(
        partial(scrape, port),
        lambda of: of("rdmatrain_checkpoints_total", rank=0, result="saved") == 3,
    )
    of = until(partial(scrape, port), lambda of: of("rdmatrain_step", rank=1) == 5)
    assert of("rdmatrain_checkpoints_total", rank=0, result="failed") == 0
    assert of("rdmatrain_checkpoint_duration_seconds_count") == 6
    ratio = of("rdmatrain_goodput_ratio", rank=0)
    saving = of("rdmatrain_goodput_seconds", rank=0, kind="saving")
    sent = traffic(of, "sent", 1)
    (tmp_path / "end").touch()
    ended = finish([job])[0]
    assert ended.code == 0, ended.out
    facts = ended.of(0)
    assert facts["ratio"] == pytest.approx(ratio)
    assert facts["saving"] == pytest.approx(saving)
    assert ended.of(1)["sent"]["sent_bytes"] + 7 * 4000 == sent
    with pytest.raises(urllib.error.URLError):  # the server has ended with the launcher
        scrape(port)


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        worker = write_worker(tmp_path, "note(started=True)")
        options = ["--metrics-port", number, "--metrics-addr", "127.0.0.1"]
        ended = finish([start([*RUN, *options, worker])])[0]
    assert ended.code == 2
    assert f"--metrics-port {number} cannot be served on 127.0.0.1" in ended.out
    assert "started" not in ended.of(0)


# 3 all_reduces of 4 MB, of which each of two ranks sends as much, and a message of 8 MB.
BETWEEN_HOSTS = """
from pathlib import Path
folder = Path(sys.argv[1])
dist.init_process_group("rdmatrain")
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.05)
(folder / f"joined-{RANK}").touch()
wait_for("go")
for _ in range(3):
    dist.all_reduce(torch.ones(1_000_000))
dist.send(torch.ones(2_000_000), 1) if RANK == 0 else dist.recv(torch.ones(2_000_000), 0)
wait_for("end")
dist.destroy_process_group()
"""
REDUCED, MESSAGE = 3 * 4_000_000, 8_000_000
SCRAPE = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9400/metrics').read().decode())"
)


def scrape_host(two: TwoHosts, host: int) -> str:
    """Return the metrics of a host, of which only itself is asked."""
    command = two.command(host, [*PYTHON, "-c", SCRAPE])
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise ConnectionError(done.stderr)
    return done.stdout


def on_the_cable(two: TwoHosts, host: int) -> int:
    """Return how many bytes a host has sent, by the kernel's count."""
    command = ["ip", "-n", two.names[host], "-s", "-j", "link", "show", two.cables[host]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return int(json.loads(done.stdout)[0]["stats64"]["tx"]["bytes"])


def when_there(*paths: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not all(each.exists() for each in paths):
        assert time.monotonic() < end, f"{paths} are not all there"
        time.sleep(0.05)


def far(of: Of, direction: str, rank: int) -> float | None:
    name = "rdmatrain_bytes_total"
    return of(name, direction=direction, rank=rank, transport="tcp", device="")


def test_bytes_over_tcp_are_those_that_went_over_the_cable(tmp_path: Path) -> None:
    worker = write_worker(tmp_path, BETWEEN_HOSTS)
    with two_hosts() as two, contextlib.ExitStack() as cleanup:
        options = ["--nnodes", "2", "--master-addr", two.addresses[0], "--master-port", str(PORT)]
        options += ["--metrics-port", "9400", "--metrics-addr", "127.0.0.1"]
        jobs = []
        for host in range(2):
            command = [*RUN, "--node-rank", str(host), *options, worker, str(tmp_path)]
            jobs.append(start(two.command(host, command), {"RDMATRAIN_SECRET": SECRET}))
            cleanup.callback(kill, jobs[-1])
        when_there(tmp_path / "joined-0", tmp_path / "joined-1")
        before = [on_the_cable(two, host) for host in range(2)]
        (tmp_path / "go").touch()
        wanted = ({"sent": REDUCED + MESSAGE, "received": REDUCED},
                  {"sent": REDUCED, "received": REDUCED + MESSAGE})  # fmt: skip
        for rank, each in enumerate(wanted):
            until(
                partial(scrape_host, two, rank),
                lambda of, rank=rank, each=each: {way: far(of, way, rank) for way in each} == each,
            )
        carried = [on_the_cable(two, host) - before[host] for host in range(2)]
        (tmp_path / "end").touch()
        ended = finish(jobs)
    assert [each.code for each in ended] == [0, 0], [each.out for each in ended]
    for each, went in zip(wanted, carried, strict=True):
        # Headers, acknowledgements and the launchers' heartbeats are no data.
        assert each["sent"] < went < 1.05 * each["sent"] + 200_000, (each, went)


def kill(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
