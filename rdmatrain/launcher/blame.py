"""Whose fault it was, and what to do about it."""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.messages import Fault

# What to do about each kind of fault; a kind that is not here needs no word.
NEXT_STEP = {
    "exit": "its own output says why",
    "abort": "its own output says why, as does the core dump if there is one",
    "sent": "see who sends that on that host: a batch system, a shell, the program itself",
    "early": "all ranks must take part equally often: compare their steps, data and conditions",
    "absent": "see in its output what it does instead, and that all ranks get there",
    "signal": "see the kernel's log of that host, and the core dump if there is one",
    "killed": "if nobody killed it, memory ran out: compare the pod's memory limit with its use",
    "hang": "its stacks, in the output of its host, say where; --hang-timeout 0 tolerates it",
    "start": "check the command, and what it needs on that host",
    "store": "see whether memory ran out on that host; the store is a process of its launcher",
    "fabric": "see that link, its port and their counters; another node may do",
    "limit": "the same pod would fail again: see rdmatrain doctor --explain memlock",
    "stop": "what it was to save may be missing: its own output says why",
    "device": "another node may do: look at that GPU before it is used again",
    "lost-node": "see whether that pod and its node still run, and the network between them",
    "lost-leader": "see whether the leader's pod still runs, and the network to it",
    "timeout": "see whether those pods run, with the same leader, port and secret, and can connect",
    "refused": "give all pods the same image and options, and each its own node rank",
}
# How long to wait for the cause when a fault is known, in seconds.
SETTLE_S = 0.15
CAUSE_S = 2.0
# A rank that raises these was left by another: by rdmatrain, Gloo, NCCL, torch's store.
_CONSEQUENCES = re.compile(
    "has left the group|to join the group|the store that the group forms through is gone"
    "|connection closed by peer|connection reset by peer|broken pipe"
    "|timed out after .* waiting for clients|wait timeout after"
    "|remote process exited|ncclremoteerror|connection was closed by remote",
    re.IGNORECASE,
)
# A GPU that raises these is of no use to another program either: texts of CUDA's runtime.
_DEVICE = re.compile(
    "uncorrectable ECC error|NVLink error was encountered|hardware stack error"
    r"|devices?(\(s\))? (is|are|is/are) busy or unavailable|GPU has fallen off the bus",
    re.IGNORECASE,
)
# How rdmatrain says that a NIC may not be given more memory.
_LOCKED = re.compile("the limit of locked memory is")
# How rdmatrain calls an error of a link or a port.
IO_ERROR = "IO_ERROR"
# How rdmatrain says who did not come; all ranks of the job are in that group.
_ABSENT = re.compile(r"rank \d+ of (\d+) waited .* for rank (\d+) to join the group")
# Sent by people and programs, as these to each other, when something else was wrong before.
_KINDS: Mapping[int, str] = {
    signal.SIGKILL: "killed",
    signal.SIGABRT: "abort",
    signal.SIGTERM: "sent",
    signal.SIGINT: "sent",
    signal.SIGHUP: "sent",
}
# The surer a sign is that the fault is of this rank itself, the earlier.
_SURENESS = ("signal", "killed", "hang", "start", "lost-node")


def is_consequence(error: str) -> bool:
    """Tell whether an error's text says that another rank failed before."""
    return bool(_CONSEQUENCES.search(error))


def absent_rank(error: str, world_size: int) -> int | None:
    """Return the rank that an error of rdmatrain says did not join the group of all, or None."""
    found = _ABSENT.search(error)
    return int(found[2]) if found and int(found[1]) == world_size else None


def settle_s(faults: Sequence[Fault]) -> float:
    """Return how long after the first fault its cause may still come, in seconds."""
    return CAUSE_S if all(fault.consequence for fault in faults) else SETTLE_S


def root_cause(faults: Sequence[Fault]) -> Fault:
    """Return the likely cause among faults, at least one, in the order in which they came.

    A rank that a signal ended, that hangs or that never started is the cause; one that ended with
    an error may have been left by another.
    """

    def key(fault: Fault) -> tuple[bool, int]:
        sure = fault.kind in _SURENESS
        return fault.consequence, _SURENESS.index(fault.kind) if sure else len(_SURENESS)

    return min(faults, key=key)


def of_worker(rank: int, host: str, pid: int, status: int, error: str = "") -> Fault:
    """Return the fault of a worker that ended with something else than 0.

    Args:
        rank: its rank in the job.
        host: where it ran.
        pid: its process id there.
        status: exit code, or minus the signal that ended it.
        error: what it raised or wrote last, in a line; empty if it did not say.

    """
    if status >= 0:
        ending = f"ended with exit code {status}"
        return Fault(
            kind="exit",
            host=host,
            rank=rank,
            pid=pid,
            detail=f"{ending}: {error}" if error else ending,
            exit_code=status,
            consequence=is_consequence(error),
        )
    aborted = status == -signal.SIGABRT
    return Fault(
        kind=_KINDS.get(-status, "signal"),
        host=host,
        rank=rank,
        pid=pid,
        detail=f"killed by {signal_name(-status)}" + (f": {error}" if aborted and error else ""),
        exit_code=128 - status,
        # The watchdogs of NCCL and Gloo abort when another rank has gone.
        consequence=aborted and is_consequence(error),
    )


def of_hardware(fault: Fault, error: str, status: str) -> Fault:
    """Return a worker's fault, as one of the fabric, a device or a limit where its error says so.

    Args:
        fault: of a worker that ended with an error.
        error: what it raised, in a line.
        status: the status of rdmatrain's error, or empty.

    """
    if fault.kind != "exit" or fault.consequence:
        return fault
    if _DEVICE.search(error):
        return replace(fault, kind="device", exit_code=exit_codes.DEVICE_FAULT)
    if _LOCKED.search(error):
        return replace(fault, kind="limit", exit_code=exit_codes.NOT_PERMITTED)
    if status == IO_ERROR:
        return replace(fault, kind="fabric", exit_code=exit_codes.FABRIC_FAULT)
    return fault


def of_stop(fault: Fault, killed: bool) -> Fault:
    """Return the fault of a worker that ended otherwise than it should when the job was stopped.

    Args:
        fault: of that worker.
        killed: by the launcher, as its time was up.

    """
    did = "had not ended when its time (--grace) was up, and was killed" if killed else fault.detail
    return replace(fault, kind="stop", detail=f"when the job was stopped, it {did}")


def missed(victim: Fault, rank: int, host: str, ended: bool) -> Fault:
    """Return the fault of a rank that never failed, but was not there when another needed it.

    Args:
        victim: the fault of that other one.
        rank: the guilty.
        host: where it runs, or ran.
        ended: it has ended with 0; else it runs and did not join the group.

    """
    did = "ended with exit code 0" if ended else "did not join the group"
    return replace(
        victim,
        kind="early" if ended else "absent",
        host=host,
        rank=rank,
        pid=None,
        detail=f"{did} while rank {victim.rank} needed it, which {victim.detail}",
        consequence=False,
    )


def headline(fault: Fault) -> str:
    """Return the first line of a report: who, where, what, and what to do."""
    rank = "" if fault.rank is None else f"rank {fault.rank} on "
    pid = "" if fault.pid is None else f" (pid {fault.pid})"
    who = f"{rank}host {fault.host}{pid}: " if fault.host else ""  # else it is the whole gang's
    step = NEXT_STEP.get(fault.kind, "")
    return f"{who}{fault.detail}{f'; {step}' if step else ''}"


def signal_name(number: int) -> str:
    """Return ``SIGTERM`` for 15, and ``signal 40`` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
