"""Memory: what may be locked, registered and shared."""

from collections.abc import Iterator
from dataclasses import dataclass

from rdmatrain.discovery.quota import folders
from rdmatrain.discovery.sysfs import attribute
from rdmatrain.discovery.sysfs import number as number_in
from rdmatrain.doctor import process
from rdmatrain.doctor.define import check
from rdmatrain.doctor.job import (
    GIB,
    MIB,
    counted,
    expects_rdma,
    is_container,
    is_kubernetes,
    number,
    ranks_of,
    size,
)
from rdmatrain.doctor.model import Case, Finding, failed, passed, skipped, warned

GROUP = "memory"

# What a process needs besides what it registers: Python, torch, and a little data.
PROCESS_BYTES = 512 * MIB
# What NCCL and the workers of a DataLoader put into /dev/shm for a rank; with less than TINY_SHM
# there is no room for a batch of anything.
SHM_BYTES = 64 * MIB
LEAST_SHM = 128 * MIB
TINY_SHM = 8 * MIB
NOT_RDMA = "nothing is registered: no RDMA device is here, and none was asked for"
CONTAINERD = (
    "mkdir -p /etc/systemd/system/containerd.service.d && "
    r"printf '[Service]\nLimitMEMLOCK=infinity\n' "
    "> /etc/systemd/system/containerd.service.d/memlock.conf && systemctl daemon-reload && "
    'systemctl restart containerd, on the node (CRI-O: default_ulimits = ["memlock=-1:-1"])'
)


@check(
    "memlock",
    GROUP,
    title="memory can be locked and registered, as much as each rank needs",
    known="nvidia-container-toolkit#2037: memlock is 8 MiB, so NCCL uses TCP and says nothing",
    exit_code=77,
)
def memlock(case: Case) -> Finding:
    """NICs reach only memory that is locked, and the kernel limits that for each process.

    Containers get 64 KiB to 8 MiB, hardly enough for one connection: libraries then fall back to
    TCP, most of them silently.
    """
    if not expects_rdma(case):
        return skipped(NOT_RDMA)
    need = case.needs.register_mib * MIB
    limit = process.limit(case.source, "Max locked memory")
    facts = case.probe("memlock")
    if facts is None or facts.get("error"):
        return _unmeasured(case, need, limit, str(facts["error"]) if facts else "not measured")
    works, how, why = _measured(facts, need)
    if works >= need:
        because = "" if limit and limit.allows(need) else f"; {_capability_text(case)}"
        return passed(f"{how}; the limit is {_limit_text(limit)}{because}")
    if not why:
        return skipped(f"{how}, and no more was tried; each rank needs {size(need)}")
    if number(facts.get("locked")) >= need:
        return failed(
            f"each rank registers {size(need)}, {size(works)} work: {why}; it is not the limit, as "
            f"{size(need)} can be locked",
            "dmesg | grep -i -e mlx -e rdma -e ib_ | tail -20",
        )
    return failed(
        f"each rank registers {size(need)}, {size(works)} work: {why}; "
        f"the limit is {_limit_text(limit)}; {_capability_text(case)}",
        _raise_limit(case, need, limit),
    )


@check(
    "ipc-lock",
    GROUP,
    title="CAP_IPC_LOCK is effective where it is relied on",
    known="nvidia-container-toolkit#2037: IPC_LOCK of a manifest does nothing for non-root",
    exit_code=77,
)
def ipc_lock(case: Case) -> Finding:
    """Manifests that add IPC_LOCK give it to root alone.

    For other users it is in the bounding set, where it does nothing, unless the executable has it
    as a file capability.
    """
    if not expects_rdma(case):
        return skipped(NOT_RDMA)
    held = process.capability(case.source, process.CAP_IPC_LOCK)
    if held is None:
        return skipped(f"{process.STATUS} shows no capabilities")
    if held.counts:
        return passed("CapEff has CAP_IPC_LOCK: no limit of locked memory applies")
    limit = process.limit(case.source, "Max locked memory")
    if limit and limit.allows(case.needs.register_mib * MIB):
        return passed(f"it is not needed: memlock is {_limit_text(limit)}")
    if not (held.effective or held.bounding):
        return skipped("this container was not given CAP_IPC_LOCK: see memlock")
    return warned(_capability_text(case), _raise_limit(case, 0, None))


@check(
    "memory-cgroup",
    GROUP,
    title="the memory cgroup has room for what the ranks register",
    exit_code=77,
)
def memory_cgroup(case: Case) -> Finding:
    """Limits of a container count registered memory, memfds and /dev/shm, which cannot be dropped.

    Where there is no room the kernel kills a rank, with 137 and no message.
    """
    rooms = list(_rooms(case))
    if not rooms:
        return skipped("no memory cgroup is shown")
    limited = [each for each in rooms if each.most is not None]
    if not limited:
        return passed(f"no limit of memory in {rooms[0].file}")
    tightest = min(limited, key=lambda each: each.left)
    num_ranks = ranks_of(case)
    registered = case.needs.register_mib * MIB * num_ranks if expects_rdma(case) else 0
    need = registered + PROCESS_BYTES * num_ranks
    seen = f"{tightest.file} is {size(tightest.most or 0)}, of which {size(tightest.left)} are left"
    fix = _raise_memory(case, tightest.file, tightest.used + need)
    if tightest.left < registered:
        return failed(f"{seen}; {counted(num_ranks)}: {size(registered)} to register", fix)
    if tightest.left < need:
        return warned(f"{seen}; {counted(num_ranks)}: about {size(need)} needed", fix)
    return passed(seen)


@check(
    "shm",
    GROUP,
    title="/dev/shm can be written and has room for the ranks of this pod",
    known="nccl-tests#143: bus error, as /dev/shm had 64 MiB",
    exit_code=77,
)
def shm(case: Case) -> Finding:
    """NCCL and the workers of a DataLoader exchange data in /dev/shm: 64 MiB in most containers.

    What does not fit ends a rank with a bus error. The transport shm of rdmatrain needs none of it.
    """
    facts = case.probe("shm")
    if facts is None:
        return skipped("not measured")
    num_ranks = ranks_of(case)
    fix = _enlarge_shm(case, num_ranks)
    free, total = number(facts.get("free")), number(facts.get("total"))
    seen = f"/dev/shm has {size(free)} free of {size(total)}"
    if facts.get("error"):
        return failed(f"/dev/shm cannot be written: {facts['error']}; {seen}", fix)
    need = max(SHM_BYTES * num_ranks, LEAST_SHM)
    if free >= need:
        return passed(seen)
    needed = f"{seen}; {counted(num_ranks)}: about {size(need)} needed"
    # NCCL's ranks of one pod cannot do without it; for others it depends on their DataLoader.
    is_needed = bool(case.found.allocation.gpus) and num_ranks > 1
    if free < TINY_SHM or is_needed:
        return failed(needed, fix)
    return warned(needed, fix)


@check("memfd", GROUP, title="memfds can be made, mapped and sealed", exit_code=77)
def memfd(case: Case) -> Finding:
    """Tensors lie in a sealed memfd, and the ranks of one host exchange data through others."""
    facts = case.probe("memfd")
    if facts is None:
        return skipped("not measured")
    if not facts.get("error"):
        return passed("a memfd was made, mapped and sealed")
    level = attribute(case.source, "/proc/sys/vm/memfd_noexec")
    if level == "2":
        return failed(f"{facts['error']}; vm.memfd_noexec is 2", "sysctl -w vm.memfd_noexec=1")
    patch = "securityContext: {seccompProfile: {type: RuntimeDefault}}"
    shell = "docker run --security-opt seccomp=default.json"
    return failed(
        f"{facts['error']}: is a seccomp profile in the way?",
        patch if is_kubernetes(case) else f"{shell}, a profile that allows memfd_create",
    )


def _unmeasured(case: Case, need: int, limit: process.Limit | None, why: str) -> Finding:
    """Judge by what procfs says: that a limit is too low is certain, that it suffices is not."""
    held = process.capability(case.source, process.CAP_IPC_LOCK)
    if limit and held and not held.counts and not limit.allows(need):
        return failed(
            f"each rank registers {size(need)}, the limit is {_limit_text(limit)}; "
            f"{_capability_text(case)}",
            _raise_limit(case, need, limit),
        )
    return skipped(f"{why}; the limit is {_limit_text(limit)}")


def _measured(facts: object, need: int) -> tuple[int, str, str]:
    """Return how many bytes work, how that is known, and why no more were to be had."""
    said = dict(facts) if isinstance(facts, dict) else {}
    locked, registered = number(said.get("locked")), number(said.get("registered"))
    device = str(said.get("device") or "")
    because = str(said.get("register_error") or "")
    if device and (registered >= need or because):
        return registered, f"{size(registered)} registered with {device}", because
    how = f"{size(locked)} locked"
    if device:
        how = f"{size(registered)} registered with {device} in the time for it, {how}"
    else:
        how = f"{how}, none registered: {said.get('device_error') or 'there is no RDMA device'}"
    return locked, how, str(said.get("lock_error") or "")


def _limit_text(limit: process.Limit | None) -> str:
    if limit is None:
        return "not shown"
    soft, hard = process.shown(limit.soft), process.shown(limit.hard)
    return soft if soft == hard else f"{soft}, at most {hard}"


def _capability_text(case: Case) -> str:
    """Return whether CAP_IPC_LOCK is effective, and why it is not."""
    held = process.capability(case.source, process.CAP_IPC_LOCK)
    who = process.user(case.source)
    if held is None:
        return "capabilities are not shown"
    if held.effective and not held.initial:
        return "CapEff has CAP_IPC_LOCK, but in a user namespace, where it does not count"
    if held.effective:
        return "CapEff has CAP_IPC_LOCK"
    if held.bounding:
        return (
            f"CAP_IPC_LOCK is in CapBnd and not in CapEff: it does nothing for uid {who}"
            if who is not None
            else "CAP_IPC_LOCK is in CapBnd and not in CapEff: it does nothing"
        )
    return "CapEff has no CAP_IPC_LOCK"


def _raise_limit(case: Case, need: int, limit: process.Limit | None) -> str:
    """Return the nearest way to more locked memory."""
    if limit and limit.allows(need, hard=True) and not limit.allows(need):
        return f"ulimit -l {limit.hard >> 10 if limit.hard >= 0 else 'unlimited'}"
    held = process.capability(case.source, process.CAP_IPC_LOCK)
    if is_kubernetes(case):
        is_root = process.user(case.source) == 0 and held is not None and held.initial
        return "securityContext: {capabilities: {add: [IPC_LOCK]}}" if is_root else CONTAINERD
    if is_container(case):
        return "docker run --ulimit memlock=-1:-1"
    return (
        "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/rdma.conf, and log in again"
    )


@dataclass(frozen=True)
class _Room:
    """A cgroup's memory in bytes; ``most`` is None without a limit."""

    file: str
    most: int | None
    used: int

    @property
    def left(self) -> int:
        return max((self.most or 0) - self.used, 0)


def _rooms(case: Case) -> Iterator[_Room]:
    for folder, second in folders(case.source, "memory"):
        file = f"{folder}/{'memory.max' if second else 'memory.limit_in_bytes'}"
        if not attribute(case.source, file):
            continue
        most = number_in(case.source, file)
        usage = "memory.current" if second else "memory.usage_in_bytes"
        used = (number_in(case.source, f"{folder}/{usage}") or 0) - _cached(case, folder, second)
        yield _Room(file, most if most is not None and most >= 0 else None, max(used, 0))


def _cached(case: Case, folder: str, second: bool) -> int:
    """Return how much of a cgroup's memory is files, which the kernel drops when it needs it."""
    names = ("inactive_file", "active_file")
    wanted = names if second else tuple(f"total_{name}" for name in names)
    lines = (line.split() for line in attribute(case.source, f"{folder}/memory.stat").splitlines())
    return sum(
        int(line[1])
        for line in lines
        if len(line) == 2 and line[0] in wanted and line[1].isdecimal() and len(line[1]) < 19
    )


def _raise_memory(case: Case, file: str, nbytes: int) -> str:
    gib = -(-nbytes // GIB)
    if is_kubernetes(case):
        return f'resources: {{limits: {{memory: "{gib}Gi"}}, requests: {{memory: "{gib}Gi"}}}}'
    if is_container(case):
        return f"docker run --memory {gib}g"
    return f"echo {gib * GIB} | sudo tee {file}"


def _enlarge_shm(case: Case, num_ranks: int) -> str:
    gib = max(2, num_ranks)
    if is_kubernetes(case):
        return (
            f'volumes: [{{name: shm, emptyDir: {{medium: Memory, sizeLimit: "{gib}Gi"}}}}], and '
            "volumeMounts: [{name: shm, mountPath: /dev/shm}]"
        )
    if is_container(case):
        return f"docker run --shm-size {gib}g"
    return f"sudo mount -o remount,size={gib}g /dev/shm"
