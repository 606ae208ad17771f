"""Limits: what a process, its cgroup and an RDMA device can have at most."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rdmatrain.discovery.quota import folders
from rdmatrain.discovery.sysfs import attribute
from rdmatrain.discovery.sysfs import number as number_in
from rdmatrain.doctor import process
from rdmatrain.doctor.define import check
from rdmatrain.doctor.job import (
    MIB,
    counted,
    devices,
    expects_rdma,
    is_container,
    is_kubernetes,
    number,
    ranks_of,
    world,
)
from rdmatrain.doctor.model import Case, Finding, failed, gravest, passed, skipped, warned

GROUP = "limits"

# Of a process without peers: Python, torch, the launcher's and the rendezvous' sockets. For each
# peer at most: the handshake's socket, on one host two memfds, and one to spare.
FILES, FILES_OF_A_PEER = 128, 4
# Threads of a process: it starts with the first number, and works as usual with the second.
LEAST_THREADS, THREADS = 16, 64
# As transport/verbs.h has them: work requests of a queue pair to send and to receive, pieces of
# one; and the least that the arena registers at once.
SEND_DEPTH, RECV_DEPTH, SGES = 64, 40, 2
EXTENT_BYTES = 64 * MIB
# In larger groups two ranks connect when they first need each other, as comm/bootstrap.py has it.
EAGER_RANKS = 16
NO_DEVICE = "there is no RDMA device, and none was asked for"

_NUMBER = re.compile("[0-9]{1,18}")


class Room(NamedTuple):
    """How many threads may still be started.

    Attributes:
        num: how many, at most.
        seen: who says so.
        fix: how to have more.
        whole: all threads that count were seen.

    """

    num: int
    seen: str
    fix: str
    whole: bool = True


@check(
    "nofile",
    GROUP,
    title="each rank can open a descriptor for every peer",
    known='nccl#550: all-to-all of 16 ranks ends with "Too many open files"',
    exit_code=77,
)
def nofile(case: Case) -> Finding:
    """Ranks have a few descriptors for every peer, besides those of torch and of its workers.

    Where they run out, the largest job that was ever tried fails in the middle of connecting.
    """
    limit = process.limit(case.source, "Max open files")
    if limit is None:
        return skipped(f"{process.LIMITS} does not show how many files may be open")
    need = FILES + FILES_OF_A_PEER * (world(case) - 1)
    seen = f"ulimit -n is {_count(limit.soft)}, at most {_count(limit.hard)}"
    if limit.allows(need):
        return passed(seen)
    fix = f"ulimit -n {_count(limit.hard)}" if limit.allows(need, hard=True) else _raise(case, need)
    return failed(f"{seen}; {counted(world(case))}: about {need} needed in each", fix)


@check(
    "pids",
    GROUP,
    title="the ranks can start their threads",
    known="vllm#5645: in a pod, pthread_create fails with Resource temporarily unavailable",
    exit_code=77,
)
def pids(case: Case) -> Finding:
    """Every thread counts to the pids cgroup, and to the processes of a user.

    Where there is no room, importing numpy or torch fails with a message of OpenBLAS or OpenMP.
    """
    rooms = sorted(_thread_rooms(case))
    if not rooms:
        return skipped("no limit of processes is shown")
    (room, seen, fix, _), num_ranks = rooms[0], ranks_of(case)
    if room < LEAST_THREADS * num_ranks:
        return failed(
            f"{seen}; {counted(num_ranks)}: {LEAST_THREADS * num_ranks} threads to start", fix
        )
    if room < THREADS * num_ranks:
        return warned(f"{seen}; {counted(num_ranks)}: about {THREADS * num_ranks} threads", fix)
    unseen = [each.seen for each in rooms if not each.whole]
    return skipped(unseen[0]) if unseen else passed(seen)


@check(
    "device-limits",
    GROUP,
    title="each RDMA device can have the queues and registrations of its ranks",
    known="libfabric#10692: completion queues that are larger than the max_cqe of rxe",
    exit_code=69,
)
def device_limits(case: Case) -> Finding:
    """Large jobs run into what a device, and a VF before its PF, can have at most.

    The queue pair or completion queue that is one too many fails in the middle of connecting.
    """
    if not expects_rdma(case):
        return skipped(NO_DEVICE)
    facts = case.probe("device_limits")
    if facts is None or facts.get("error"):
        return skipped(str(facts["error"]) if facts else "not asked")
    findings = (_judge_device(case, each) for each in _own(case, facts.get("devices")))
    return gravest(findings, "libibverbs shows none of this pod's devices")


@check(
    "rdma-cgroup",
    GROUP,
    title="the RDMA cgroup allows what the ranks open and create",
    exit_code=77,
)
def rdma_cgroup(case: Case) -> Finding:
    """Hosts may limit how often a container opens a device, and what it creates there.

    Then a call of libibverbs fails with EAGAIN, which says nothing of a limit.
    """
    if not expects_rdma(case):
        return skipped(NO_DEVICE)
    groups = [folder for folder, _ in folders(case.source, "rdma")]
    files = [
        f"{folder}/rdma.max" for folder in groups if attribute(case.source, f"{folder}/rdma.max")
    ]
    if not files:
        return skipped("no rdma.max is shown in the cgroups of this process")
    findings = [each for file in files for each in _judge_group(case, file)]
    if not findings:
        return passed(f"{files[0]} limits none of {', '.join(devices(case)) or 'the devices'}")
    return gravest(findings, "")


def _count(most: int) -> str:
    return "unlimited" if most == process.UNLIMITED else str(most)


def _raise(case: Case, need: int) -> str:
    if is_kubernetes(case):
        return (
            "mkdir -p /etc/systemd/system/containerd.service.d && "
            r"printf '[Service]\nLimitNOFILE=1048576\n' "
            "> /etc/systemd/system/containerd.service.d/nofile.conf && systemctl daemon-reload && "
            "systemctl restart containerd, on the node"
        )
    most = max(65536, need)
    if is_container(case):
        return f"docker run --ulimit nofile={most}:{most}"
    return (
        f"echo '* - nofile {most}' | sudo tee /etc/security/limits.d/nofile.conf, and log in again"
    )


def _thread_rooms(case: Case) -> Iterator[Room]:
    for folder, _ in folders(case.source, "pids"):
        most, used = (
            number_in(case.source, f"{folder}/pids.{name}") for name in ("max", "current")
        )
        if most is not None:
            seen = f"{folder}/pids.max is {most}, of which {used or 0} are in use"
            yield Room(most - (used or 0), seen, _raise_pids(case, f"{folder}/pids.max"))
        elif attribute(case.source, f"{folder}/pids.max") == "max":
            yield Room(1 << 62, f"no limit in {folder}/pids.max", "")
    limit = process.limit(case.source, "Max processes")
    # Root's own processes are not counted.
    if limit and limit.soft >= 0 and process.user(case.source) not in {0, None}:
        yield _room_of_user(case, limit)


def _room_of_user(case: Case, limit: process.Limit) -> Room:
    """Say what a limit for all threads of this user leaves, which other containers count to."""
    facts = case.probe("threads") or {"hidden": "not asked"}
    used, hidden = number(facts.get("threads")), str(facts.get("hidden", ""))
    seen = f"ulimit -u is {limit.soft}, at most {_count(limit.hard)}, of which "
    seen += f"at least {used} are in use: {hidden}" if hidden else f"{used} are in use"
    fix = (
        "echo '* - nproc unlimited' | sudo tee /etc/security/limits.d/nproc.conf"
        if limit.hard == limit.soft
        else f"ulimit -u {_count(limit.hard)}"
    )
    return Room(limit.soft - used, seen, fix, whole=not hidden)


def _raise_pids(case: Case, file: str) -> str:
    if is_kubernetes(case):
        return "podPidsLimit: 16384, in the kubelet's configuration, and restart it"
    return "docker run --pids-limit 16384" if is_container(case) else f"echo max | sudo tee {file}"


def _own(case: Case, said: object) -> list[Mapping[str, Any]]:
    """Return what is said of this pod's devices; of all, where it is not known which those are."""
    each_one = (
        [each for each in said if isinstance(each, Mapping)] if isinstance(said, list) else []
    )
    own = devices(case)
    return [each for each in each_one if not own or each.get("device") in own]


def _ranks_on(case: Case, device: str) -> int:
    """Return how many ranks of this pod use a device."""
    bound = [each for each in case.found.bindings if device in {nic.name for nic in each.nics}]
    return min(len(bound), ranks_of(case)) or ranks_of(case)


def _remote(case: Case) -> int:
    """Return how many peers a rank connects to over RDMA: those of one pod use the transport shm.

    Of a large group it is those that a small all_reduce needs: ranks 1, 2, 4 and so on further on,
    and before.
    """
    others = world(case) - ranks_of(case)
    remote = world(case) - 1 if case.needs.transport == "verbs" and not others else others
    return remote if _is_eager(case) else min(remote, 2 * (world(case) - 1).bit_length())


def _is_eager(case: Case) -> bool:
    return world(case) <= EAGER_RANKS


def _judge_device(case: Case, limits: Mapping[str, Any]) -> Finding:
    device = str(limits.get("device"))
    if limits.get("error"):
        return skipped(str(limits["error"]))
    users, peers = _ranks_on(case, device), _remote(case)
    extents = -(-case.needs.register_mib * MIB // EXTENT_BYTES)
    room = (world(case) - 1 if _is_eager(case) else peers) if peers else 0
    # What a device does not say is 0, as drivers leave out what they do not limit.
    need = {
        "max_qp": users * peers,
        "max_cq": users,
        "max_pd": users,
        "max_cqe": room * (SEND_DEPTH + RECV_DEPTH) + 1,
        "max_mr": users * (peers + extents),
        "max_mr_size": EXTENT_BYTES,
        "max_qp_wr": RECV_DEPTH,
        "max_sge": SGES,
    }
    known = {name: number(limits.get(name)) for name in need}
    short = [name for name in need if 0 < known[name] < need[name]]
    if not short:
        shown = ", ".join(f"{name} {known[name]}" for name in ("max_qp", "max_cqe", "max_mr"))
        return passed(f"{device}: {shown}")
    texts = (f"{name} is {known[name]}, needed are {need[name]}" for name in short)
    return failed(
        f"{device}, used by {users} of {world(case)} ranks: {'; '.join(texts)}",
        f"export RDMATRAIN_DEVICES=^{device}",
    )


def _judge_group(case: Case, file: str) -> Iterator[Finding]:
    """Judge a cgroup's limits, ``mlx5_0 hca_handle=2 hca_object=2000`` or ``max``."""
    used = dict(_group_lines(case, f"{file.removesuffix('.max')}.current"))
    for device, limits in _group_lines(case, file):
        if devices(case) and device not in devices(case):
            continue
        users, peers = _ranks_on(case, device), _remote(case)
        extents = -(-case.needs.register_mib * MIB // EXTENT_BYTES)
        # Objects of a rank: a protection domain, a completion queue, queue pairs, registrations.
        need = {"hca_handle": users, "hca_object": users * (2 + 2 * peers + extents)}
        for name, most in limits.items():
            taken = used.get(device, {}).get(name, 0)
            seen = f"{file} gives {device} {name}={most}, of which {taken} are in use"
            if most - taken < need.get(name, 0):
                fix = f'echo "{device} hca_handle=max hca_object=max" | sudo tee {file}'
                yield failed(
                    f"{seen}; {counted(users)}: {need[name]} needed", f"{fix}, on the host"
                )
            else:
                yield passed(seen)


def _group_lines(case: Case, file: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield devices and what is said of each in numbers: ``max`` is left out."""
    for line in attribute(case.source, file).splitlines():
        words = line.split()
        pairs = (word.partition("=") for word in words[1:])
        numbers = {name: int(text) for name, _, text in pairs if _NUMBER.fullmatch(text)}
        yield words[0] if words else "", numbers
