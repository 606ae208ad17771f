"""What becomes of a job that meets a fault: rdmatrain run beside torchrun, in the same run.

Each fault is made for real, under both launchers, with the same worker: it reduces a tensor over
and over, over rdmatrain's backend or over Gloo. By turns, but where seconds pass until somebody
gives up, or a job forms: there each launcher meets its own at the same time. Prints a table and
appends records to a JSON lines file. The faults between hosts need root, for network namespaces.
What becomes of checkpoints is in checkpoint_faults.py.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common import append_records, commit, exit_on_sigterm, machine, where
from launcher_jobs import LIMIT_S, OURS, THEIRS, alive, running, wait_for
from two_hosts import ADDRESSES, hosts, ip

PORT = 29533
PATIENCE_S = 40.0  # torchrun kills after 30 s, and gives up forming a job
# What the clocks of one host show beside the true time, in seconds.
BEHIND, HOUR_BEHIND = "-20.0", "-3600.0"
JUMPS = "3600.0 * (int(4 * time.monotonic()) % 2)"


@dataclass
class Outcome:
    """What one launcher made of a fault.

    Attributes:
        good: whether it is what a user would want.
        text: in a few words.
        facts: for the record.

    """

    good: bool
    text: str
    facts: dict[str, object] = field(default_factory=dict)


def two_ends(launcher: str, kill: Callable[[int], None]) -> tuple[float, int | None, bool]:
    """Do something to rank 1; return seconds until the job's end, its exit code, and if named."""
    with running(launcher) as job:
        began, victim = time.monotonic(), job.pids()[1]
        began = time.monotonic()
        kill(victim)
        (code,) = job.wait()
        return time.monotonic() - began, code, job.names(1)


def ended(took_s: float, code: int | None, named: bool) -> str:
    """Say how a job ended."""
    if code is None:
        return f"still there after {took_s:.0f} s"
    return f"{took_s:.2f} s, exit {code}, rank {'named' if named else 'not named'}"


def killed_rank(launcher: str) -> Outcome:
    """M3: kill -9 of a rank in all_reduce."""
    took_s, code, named = two_ends(launcher, lambda pid: os.kill(pid, signal.SIGKILL))
    return Outcome(named and code == 137, ended(took_s, code, named), {"seconds": took_s})


def killed_launcher(launcher: str) -> Outcome:
    """M4: kill -9 of the launcher."""
    with running(launcher) as job:
        pids = job.pids()
        job.nodes[0].kill()
        took_s = wait_for(lambda: not any(map(alive, pids)), 5.0)
        left = sum(map(alive, pids))
    return Outcome(
        left == 0, f"{left} of 2 workers live on" if left else f"all gone in {took_s:.2f} s"
    )


def grandchildren(launcher: str) -> Outcome:
    """M5: workers' children in sessions of their own, SIGTERM to the launcher."""
    with running(launcher, "grandchild") as job:
        job.pids()
        children = [int(job.noted("grandchild", rank)) for rank in range(2)]
        job.nodes[0].terminate()
        job.wait()
        wait_for(lambda: not any(map(alive, children)), 2.0)
        left = sum(map(alive, children))
    return Outcome(left == 0, f"{left} of 2 live on")


def ignored_sigterm(launcher: str) -> Outcome:
    """M6: workers that ignore SIGTERM, of which the launcher gets one; a grace of 5 s is asked."""
    grace = ["--grace", "5"] if launcher == OURS else []
    with running(launcher, "ignore", options=[["--nproc-per-node", "2", *grace]]) as job:
        job.pids()
        began = time.monotonic()
        job.nodes[0].terminate()
        (code,) = job.wait(PATIENCE_S)
        took_s = time.monotonic() - began
    good = code == 128 + signal.SIGTERM and took_s < 7
    return Outcome(good, f"{took_s:.1f} s, exit {code}", {"seconds": took_s})


def exit_code(launcher: str) -> Outcome:
    """M7: a worker that ends with 77."""
    with running(launcher, "exit") as job:
        (code,) = job.wait()
    return Outcome(code == 77, f"exit {code}")


def stopped_rank(launcher: str) -> Outcome:
    """M8: SIGSTOP of a rank."""
    took_s, code, named = two_ends(launcher, lambda pid: os.kill(pid, signal.SIGSTOP))
    good = named and code == 204 and took_s <= 10
    return Outcome(good, ended(took_s, code, named), {"seconds": took_s})


def node_options(
    launcher: str, names: Sequence[str], told: bool = True
) -> dict[str, list[list[str]]]:
    """Return what starts a job of two hosts.

    Args:
        launcher: ``rdmatrain`` or ``torchrun``.
        names: of the hosts.
        told: torchrun is told which host has the store, and what the address of each is; it finds
            out neither where the addresses are those of a second NIC.

    """
    endpoint = f"{ADDRESSES[0]}:{PORT}"
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "bench"]
    common += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    own: list[list[str]] = [[], []]
    if told and launcher == THEIRS:
        own = [
            ["--local-addr", address, "--rdzv-conf", f"is_host={int(address == ADDRESSES[0])}"]
            for address in ADDRESSES
        ]
    return {
        "options": [common + each for each in own],
        "prefixes": [["ip", "netns", "exec", name] for name in names],
    }


def black_hole(launcher: str) -> Outcome:
    """M9: two hosts, and no packet between them any more, in either direction."""
    with hosts() as names, running(launcher, **node_options(launcher, names)) as job:
        try:
            job.pids()
        except RuntimeError:
            return Outcome(False, f"did not start in {LIMIT_S:.0f} s")
        began = time.monotonic()
        for name, other in zip(names, reversed(ADDRESSES), strict=True):
            ip("-n", name, "route", "add", "blackhole", f"{other}/32")
        codes = job.wait()
        took_s = time.monotonic() - began
    if None in codes:
        return Outcome(False, f"{codes.count(None)} of 2 still there after {took_s:.0f} s")
    good = took_s <= 10 and 0 not in codes
    return Outcome(good, f"{took_s:.1f} s, exits {codes}", {"seconds": took_s})


def secondary_nic(launcher: str) -> Outcome:
    """M10: the rendezvous is at the address of a NIC that the host name does not stand for."""
    with (
        hosts() as names,
        running(launcher, "steps", **node_options(launcher, names, told=False)) as job,
    ):
        codes = job.wait()
        world = job.noted("world", 0) if codes == [0, 0] else ""
    good = codes == [0, 0] and world == "2"
    took = f"formed and trained in {time.monotonic() - job.began:.1f} s"
    return Outcome(good, took if good else f"not formed in {LIMIT_S:.0f} s")


def restart(launcher: str) -> tuple[float, int] | None:
    """Return seconds from kill -9 of a rank to the next collective, and at which attempt it was.

    None where there is none within 30 s.
    """
    options = [["--nproc-per-node", "2", "--max-restarts", "3"]]
    with running(launcher, options=options) as job:
        victim = job.pids()[1]
        time.sleep(8.0)  # a job that has trained for a while

        def clocks() -> list[Path]:
            return sorted(job.folder.glob("clock.*.[123]"), key=lambda path: path.name[-1])

        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(clocks()) >= 2, 30.0)
        if len(clocks()) < 2:
            return None
        last = clocks()[-1]
        return float(last.read_text(encoding="utf-8")) - began, int(last.name[-1])


def restarts(launcher: str, times: int) -> Outcome:
    """M12: kill -9 of a rank where restarts are allowed, until the next collective."""
    found = [restart(launcher) for _ in range(times)]
    seconds = [took_s for took_s, _ in filter(None, found)]
    first = sum(attempt == 1 for _, attempt in filter(None, found))
    text = f"{first} of {times} at the first attempt"
    text += f", {min(seconds):.2f} to {max(seconds):.2f} s" if seconds else ""
    text += f", {found.count(None)} hung" if None in found else ""
    return Outcome(first == times, text, {"found": found})


SKEW = """
import datetime, time
_time = time.time
def _shift():
    return SHIFT
time.time = lambda: _time() + _shift()
time.time_ns = lambda: int(1e9 * time.time())
class _Shifted(datetime.datetime):
    __module__, __qualname__ = "datetime", "datetime"  # torchrun pickles them for the other host
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_shift())
    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=_shift())
datetime.datetime = _Shifted
"""


def clock_skew(launcher: str, shift: str) -> Outcome:
    """M11: all clocks of one host that can be set are wrong, by the value of an expression."""
    with tempfile.TemporaryDirectory(prefix="rdmatrain-skew-") as folder, hosts() as names:
        Path(folder, "sitecustomize.py").write_text(SKEW.replace("SHIFT", shift), encoding="utf-8")
        how = node_options(launcher, names)
        how["prefixes"][1] += ["env", f"PYTHONPATH={folder}"]
        with running(launcher, "steps", **how) as job:
            codes = job.wait(PATIENCE_S)
            worlds = sorted(path.read_text() for path in job.folder.glob("world.*"))
    good = codes == [0, 0] and worlds == ["2", "2"]
    return Outcome(good, f"exits {codes}, world sizes {', '.join(worlds) or 'none'}")


FAULTS: dict[str, Callable[[str], Outcome]] = {
    "M3 kill -9 of a rank": killed_rank,
    "M4 kill -9 of the launcher": killed_launcher,
    "M5 setsid children, SIGTERM": grandchildren,
    "M6 SIGTERM is ignored": ignored_sigterm,
    "M7 a worker exits with 77": exit_code,
    "M8 SIGSTOP of a rank": stopped_rank,
    "M9 black hole between hosts": black_hole,
    "M10 leader on a second NIC": secondary_nic,
    "M11 clock 20 s behind": partial(clock_skew, shift=BEHIND),
    "M11 clock an hour behind": partial(clock_skew, shift=HOUR_BEHIND),
    "M11 clock jumps by an hour": partial(clock_skew, shift=JUMPS),
}
RESTARTS = "M12 kill -9 with restarts"
SLOW = ("M6", "M8", "M9", "M10", "M11")


def main() -> int:
    """Make the faults; return 0 if ours were all good."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="faults whose names contain this")
    parser.add_argument("--restarts", type=int, default=4, metavar="N", help="kills of M12")
    parser.add_argument("--ours", action="store_true", help="leave torchrun out")
    parser.add_argument("--json", type=Path, help="append a record a fault and launcher")
    args = parser.parse_args()
    exit_on_sigterm()
    launchers = [OURS] if args.ours else [OURS, THEIRS]
    print(f"# {machine()}, commit {commit()}")
    print(f"# {'fault':28} {'rdmatrain run':52} torchrun")
    good = True
    faults = {**FAULTS, RESTARTS: partial(restarts, times=args.restarts)}
    for name, fault in faults.items():
        if args.only and args.only not in name:
            continue
        with ThreadPoolExecutor(len(launchers) if name.startswith(SLOW) else 1) as pool:
            outcomes = dict(zip(launchers, pool.map(fault, launchers), strict=True))
        theirs = outcomes[THEIRS].text if THEIRS in outcomes else ""
        print(f"  {name:28} {outcomes[OURS].text:52} {theirs}", flush=True)
        good &= outcomes[OURS].good
        if args.json:
            records = [
                {**where(), "fault": name, "launcher": who, "good": each.good, "text": each.text}
                | each.facts
                for who, each in outcomes.items()
            ]
            append_records(args.json, records)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
