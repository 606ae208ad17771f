"""Variables: those that were lost, misspelt, contradict each other, or do not fit this pod."""

import re
from collections.abc import Iterator, Mapping

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.claims.variables import PLUGIN
from rdmatrain.discovery.device_lists import LISTS, Allows, usable_nics, used_nics
from rdmatrain.discovery.gid_index import STEERING, label, port_of
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.doctor.checks.interface_names import WHOLE_NAMES, interfaces_wrong
from rdmatrain.doctor.checks.rdma_case import PODINFO
from rdmatrain.doctor.contradictions import contradictions, nccl_is_off
from rdmatrain.doctor.define import check
from rdmatrain.doctor.facts import (
    NCCL_FILE,
    complaints,
    nccl_file,
    own_variables,
    paid_cpus,
    restart,
    said,
)
from rdmatrain.doctor.job import nodes_of, ranks_of
from rdmatrain.doctor.meeting import options_of
from rdmatrain.doctor.misspelt import misspelt, wrong_values
from rdmatrain.doctor.model import Case, Finding, Verdict, failed, gravest, passed, skipped, warned
from rdmatrain.errors import SettingError
from rdmatrain.launcher.places import OMP, omp_threads
from rdmatrain.launcher.position import find_position
from rdmatrain.launcher.refusal import RefusalError

GROUP = "variables"
_NO_VARIABLES = "the environment of this process cannot be read"
_NO_PLUGIN = f"no device plugin gave this pod variables ({PLUGIN}...)"
# What the container was started with.
_START = "/proc/1/environ"
_IDENTITY = (
    "identity-conflict",
    "rank-out-of-range",
    "stale-hosts",
    "not-a-number",
    "not-in-a-step",
    "not-in-hosts",
    "maybe-jobset",
    "no-subdomain",
)
# The job does not form, or not as one, with these.
_GRAVE = {"rank-out-of-range", "not-in-a-step"}
_BY_HAND = "rdmatrain run --nnodes N --node-rank R --master-addr HOST"
# Others are of one variable.
_FIXES = {
    "rank-out-of-range": "--node-rank R, from 0 to nnodes - 1, and another one on each node",
    "not-in-a-step": "srun rdmatrain run train.py",
    "not-in-hosts": _BY_HAND,
    "maybe-jobset": PODINFO,
    "no-subdomain": "spec: {subdomain: NAME}, and a headless Service of that NAME",
}


@check(
    "env-lost-by-shell",
    GROUP,
    title="no shell dropped variables of the device plugin",
)
def env_lost_by_shell(case: Case) -> Finding:
    """Shells (dash, busybox) drop variables with hyphens: nobody knows then what was granted."""
    lost = complaints(case, "env-lost-by-shell")
    if lost:
        fix = 'command: ["rdmatrain", "run", "train.py"], instead of sh -c "rdmatrain run ..."'
        return warned(said(lost[0]), fix)
    if not _is_read(case):
        return skipped(_NO_VARIABLES)
    names = _of_plugins(case)
    return passed(f"{shown(', '.join(names))} came through") if names else skipped(_NO_PLUGIN)


@check("env-differs", GROUP, title="a device plugin's variables are as the container got them")
def env_differs(case: Case) -> Finding:
    """Where an image or script sets such a variable again, it names devices of another pod."""
    changed = [
        warned(said(each), _as_at_start(each.source.split()[0]))
        for each in complaints(case, "env-differs")
    ]
    if changed or not _is_read(case):
        return gravest(changed, _NO_VARIABLES)
    names = _of_plugins(case)
    if not names:
        return skipped(_NO_PLUGIN)
    start = case.source.text(_START)
    if start is None:
        return skipped(f"{_START} cannot be read: {case.source.failure(_START)}")
    given = {entry.partition("=")[0] for entry in start.split("\0")}
    same = [name for name in names if name in given]
    # With the host's processes in view, process 1 is the host's.
    if not same:
        return skipped(f"{_START} has no {shown(', '.join(names))}")
    return passed(f"{shown(', '.join(same))} as in {_START}")


@check(
    "env-misspelt",
    GROUP,
    title="no variable of NCCL, UCX, torchrun or rdmatrain is misspelt or has a wrong value",
    exit_code=2,
)
def env_misspelt(case: Case) -> Finding:
    """NCCL and UCX pass over what they do not know, without a word; rdmatrain run refuses it."""
    if not _is_read(case):
        return skipped(_NO_VARIABLES)
    environ = own_variables(case)
    found = [*misspelt(environ), *wrong_values(environ)]
    known = [name for name in environ if name.startswith(("NCCL_", "UCX_", "PET_", "RDMATRAIN_"))]
    return gravest(found or [passed(f"{len(known)} variables of these libraries are set")], "")


@check(
    "env-contradicts",
    GROUP,
    title="no two variables contradict each other",
    after="env-misspelt",
    exit_code=64,
)
def env_contradicts(case: Case) -> Finding:
    """Of two variables that cannot both be meant one wins, and it is not the one that was meant."""
    if not _is_read(case):
        return skipped(_NO_VARIABLES)
    found = list(contradictions(case))
    return gravest(found or [passed(f"{len(own_variables(case))} variables agree")], "")


@check(
    "env-rdma-off",
    GROUP,
    title="no variable keeps the job from the NICs that it has",
    after="env-contradicts",
)
def env_rdma_off(case: Case) -> Finding:
    """With a left-over NCCL_IB_DISABLE=1 a job runs over TCP, ten times slower, without a word."""
    if not case.wants_rdma:
        return skipped(f"the job is to run over {case.needs.transport}")
    environ, nics = own_variables(case), usable_nics(case.found.allocation)
    off = [*_turned_off(case), *_off_by_file(case), *_ours_off(environ)] if nics else []
    if off or not _is_read(case):
        return gravest(off, _NO_VARIABLES)
    if not nics:
        what = nccl_is_off(environ)
        return skipped("there is no NIC to use" + (f", so {what} does not matter" if what else ""))
    return passed(f"nothing keeps NCCL and rdmatrain from {', '.join(map(label, nics))}")


@check(
    "env-gid-index",
    GROUP,
    title="no pinned GID index is wrong for one of the HCAs",
    known="nccl#890, nccl#1573: the index of the right GID differs between HCAs and pods",
    exit_code=202,
)
def env_gid_index(case: Case) -> Finding:
    """One number is applied to all HCAs, and GID tables differ: a QP of the others cannot connect.

    NCCL since 2.21 and rdmatrain find the entry by themselves.
    """
    wrong = [failed(said(each), _gid_fix(case, each)) for each in complaints(case, "variable-gid")]
    if wrong or not _is_read(case):
        return gravest(wrong, _NO_VARIABLES)
    nics = [n for n in usable_nics(case.found.allocation) if port_of(n).link_layer == "Ethernet"]
    if not nics:
        return skipped("there is no RoCE port, so no GID index matters")
    environ = own_variables(case)
    pinned = [f"{name}={environ[name]}" for _, _, name in LISTS if name in environ]
    if not pinned:
        return passed("no GID index is pinned")
    return passed(f"{shown(', '.join(pinned))} is right for {', '.join(map(label, nics))}")


@check(
    "env-devices",
    GROUP,
    title="the variables that name RDMA devices name this pod's",
    known="nccl-tests#327: pods of one job have other mlx5 numbers; nccl#925: those of other pods",
)
def env_devices(case: Case) -> Finding:
    """Numbers of devices differ from pod to pod: a fixed list names none, or those of others."""
    found = [
        _device_finding(case, each)
        for each in complaints(case, "variable-device", "variable-prefix")
    ]
    if found or not _is_read(case):
        return gravest(found, _NO_VARIABLES)
    environ = own_variables(case)
    given = [f"{name}={environ[name]}" for name, _, _ in LISTS if name in environ]
    if not given:
        return skipped("no variable names RDMA devices")
    return passed(shown(", ".join(given)))


@check(
    "env-interface",
    GROUP,
    title="the network interfaces that variables name are here",
    known="marin#7018: names of interfaces that were copied from another cluster matched none",
    exit_code=78,
)
def env_interface(case: Case) -> Finding:
    """NCCL and gloo end at once where their interface is missing, as after a move to a cluster."""
    if not _is_read(case):
        return skipped(_NO_VARIABLES)
    if not case.found.machine.netdevs:
        return skipped("no network interface can be seen")
    environ = own_variables(case)
    found = interfaces_wrong(case, environ)
    given = [n for n in ("NCCL_SOCKET_IFNAME", *WHOLE_NAMES, "RDMATRAIN_ADDR") if n in environ]
    if found or not given:
        return gravest(found, "no variable names an interface")
    return passed(shown(", ".join(f"{name}={environ[name]}" for name in given)))


@check(
    "identity",
    GROUP,
    title="it is clear which node of how many this is",
    after="env-misspelt env-contradicts",
    exit_code=64,
)
def identity(case: Case) -> Finding:
    """Nodes that count differently wait for each other for ever, or are two jobs without knowing.

    The launcher's own rules are asked.
    """
    who = case.found.identity
    if who is None or not _is_read(case):
        return skipped(_NO_VARIABLES if who else "nothing is known of a pod")
    found = _said_of_identity(case, who)
    if not any(each.verdict is Verdict.FAIL for each in found):
        found += _position(case, who)
    return gravest([*found, passed(_who(case, who))], "")


@check(
    "env-omp",
    GROUP,
    title="OpenMP's threads fit the CPUs of this pod",
    known="llvm-project#225493: OpenMP counts the host's CPUs, not those that the cgroup pays for",
)
def env_omp(case: Case) -> Finding:
    """More threads than CPUs are stopped for most of each period, and all ranks wait for them."""
    cpus, ranks, environ = paid_cpus(case), ranks_of(case), own_variables(case)
    if not cpus or not _is_read(case):
        return skipped("it is not known on which CPUs this process may run")
    share = max(1, int(cpus // ranks))
    if OMP not in environ:
        threads, _ = omp_threads(ranks, len(case.found.machine.cpus), cpus, environ)
        return passed(f"{OMP} is not set: rdmatrain run gives each rank {threads or share}")
    first = environ[OMP].split(",")[0].strip()
    fix = f"export {OMP}={share}"
    if not (first.isascii() and first.isdecimal() and int(first[:9]) > 0):
        return warned(f"{OMP}={shown(environ[OMP])} is no number of threads", fix)
    text = f"{OMP}={int(first[:9])} for {ranks} ranks and {cpus:g} CPUs"
    fits = int(first[:9]) * ranks <= max(cpus, ranks)
    return passed(text) if fits else warned(text, fix)


def _is_read(case: Case) -> bool:
    # A redacted snapshot may have no variable left.
    return case.source.text("/proc/self/environ") is not None


def _of_plugins(case: Case) -> list[str]:
    return [name for name in own_variables(case) if name.startswith(PLUGIN)]


def _variable(complaint: Complaint) -> str:
    return complaint.source.partition("=")[0]


def _as_at_start(name: str) -> str:
    start = f"tr '\\0' '\\n' < {_START} | sed -n 's/^{name}=//p'"
    return f'export {name}="$({start})", or do not set it in the image or the script'


def _identity_fix(case: Case, each: Complaint) -> str:
    """Return what to do about a place in the job that is not clear."""
    if each.id == "stale-hosts":
        return f"{restart(case)}, which then has the hosts of now"
    variable = re.fullmatch("[A-Z_][A-Z0-9_]*", _variable(each))
    return _FIXES.get(each.id) or (f"unset {variable[0]}, if it is wrong" if variable else _BY_HAND)


def _said_of_identity(case: Case, who: Identity) -> list[Finding]:
    # What a resolved job was told goes before what the pod says.
    grave = () if case.needs.nnodes else _GRAVE
    found = [
        (failed if each.id in grave else warned)(said(each), _identity_fix(case, each))
        for each in complaints(case, *_IDENTITY)
    ]
    fix = "--master-addr HOST, the name or address of node 0"
    unreadable = (each for each in who.complaints if each.id == "unreadable")
    return [*found, *(warned(said(each), fix) for each in unreadable)]


def _turned_off(case: Case) -> list[Finding]:
    """NCCL matters where there are GPUs."""
    found = failed if case.found.allocation.gpus else warned
    return [
        found(said(each), f"unset {_variable(each)}")
        for each in complaints(case, "variable-rdma-off")
    ]


def _off_by_file(case: Case) -> list[Finding]:
    """Look where nobody looks."""
    off = nccl_is_off({**nccl_file(case), **own_variables(case)})
    if not off or nccl_is_off(own_variables(case)):
        return []
    name, found = off.partition("=")[0], failed if case.found.allocation.gpus else warned
    nics = ", ".join(each.nic.name for each in usable_nics(case.found.allocation))
    text = f"{NCCL_FILE}: {off}: NCCL will use sockets, though {nics} can be used"
    return [found(text, f"sed -i '/^ *{name}/d' {NCCL_FILE}")]


def _ours_off(environ: Mapping[str, str]) -> Iterator[Finding]:
    for name in ("RDMATRAIN_TRANSPORT", "RDMATRAIN_REQUIRE"):
        if environ.get(name, "").strip() in {"tcp", "shm"}:
            yield warned(
                f"{name}={environ[name].strip()}, though NICs can be used", f"unset {name}"
            )


def _gid_fix(case: Case, each: Complaint) -> str:
    """Say what to set instead, where something else than nothing helps."""
    name, chosen = _variable(each), case.found.environment
    common = chosen.common if chosen else ()
    steering = [f"{c.name}={c.mine}" for c in common if c.name in STEERING and c.mine]
    if name == "NCCL_IB_GID_INDEX" and steering:
        return f"unset {name}; export {' '.join(steering)}, with NCCL >= 2.21"
    return f"unset {name}: the right entry of each HCA is found without it"


def _device_finding(case: Case, each: Complaint) -> Finding:
    """Tell how bad it is: a list that leaves no NIC, or takes one of another pod, ends the job."""
    name = _variable(each)
    allows = next((allows for listed, allows, _ in LISTS if listed == name), None)
    names = ",".join(map(label, usable_nics(case.found.allocation)))
    mark = "=" if name == "NCCL_IB_HCA" else ""
    fix = f"export {name}={mark}{names}" if names else f"unset {name}"
    if each.id == "variable-prefix" or allows is None:
        return warned(said(each), fix)
    return (failed if _ends_job(case, name, allows) else warned)(said(each), fix)


def _ends_job(case: Case, name: str, allows: Allows) -> bool:
    """Tell whether a list ends the job: it leaves no NIC, takes a foreign one, or is ours."""
    value, allocation = own_variables(case).get(name, ""), case.found.allocation
    foreign = any(
        allows(value, nic.name, port)
        for nic, _ in allocation.others
        for port in [port.number for port in nic.ports] or [1]
    )
    none = not used_nics(allocation, value, allows)
    unasked = none and not allocation.nics and not foreign
    return (foreign or none or name == "RDMATRAIN_DEVICES") and not unasked


def _position(case: Case, who: Identity) -> list[Finding]:
    """Ask the launcher for this node's position, as it will be asked."""
    environ = dict(own_variables(case))
    try:
        find_position(options_of(case.needs, who, environ), who, environ)
    except RefusalError as error:
        # What is missing, an option of rdmatrain run may still say.
        known: dict[str, object] = {
            "--nnodes N": nodes_of(case) or None,
            "--node-rank R": who.node_rank,
            "--master-addr HOST": case.needs.leader or who.leader or None,
        }
        lacking = [option for option, value in known.items() if value is None]
        fix = f"rdmatrain run {' '.join(lacking or known)}"
        return [(warned if lacking else failed)(shown(str(error)), fix)]
    except SettingError:
        return []  # It is the matter of env-misspelt.
    return []


def _who(case: Case, who: Identity) -> str:
    needs, nodes = case.needs, nodes_of(case)
    rank = needs.node_rank if needs.nnodes else who.node_rank
    place = f"node {'?' if rank is None else rank} of {nodes}"
    if nodes != who.nnodes and nodes < 2:
        place = "one node" + ("" if nodes else ", as nobody says of how many")
    # What is usual, and rdmatrain run deals with.
    notes = [said(each) for each in complaints(case, "elastic-nodes", "misleading-rank")]
    return "; ".join([f"{who.orchestrator}: {place}", *notes])
