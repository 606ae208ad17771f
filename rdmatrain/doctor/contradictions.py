"""Variables that cannot both be meant, each pair with what comes of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from rdmatrain.config import load_settings, rank_env
from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.device_lists import usable_nics
from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.doctor.facts import own_variables
from rdmatrain.doctor.misspelt import is_number
from rdmatrain.doctor.model import Case, Finding, failed, warned
from rdmatrain.errors import SettingError
from rdmatrain.launcher.options import BY_FIELD, read

# What is of RDMA alone, and asks NCCL for it.
_OF_VERBS = ("NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_IB_TC", "NCCL_IB_SL", "NCCL_IB_ADDR_RANGE")
_STEERING = ("NCCL_IB_ADDR_FAMILY", "NCCL_IB_ADDR_RANGE", "NCCL_IB_ROCE_VERSION_NUM")
_RDMA_OF_UCX = ("rc", "ud", "dc", "ib", "all", "srd", "gga")
_LIMITS = (("NCCL_MIN_CTAS", "NCCL_MAX_CTAS"), ("NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS"))
_TWICE = (("PET_MASTER_ADDR", "MASTER_ADDR"), ("PET_MASTER_PORT", "MASTER_PORT"))


def contradictions(case: Case) -> Iterator[Finding]:
    """Find them among the variables that ranks inherit."""
    environ = own_variables(case)
    yield from _of_rdmatrain(case, environ)
    yield from _of_nccl(case, environ)
    yield from _of_ucx(environ)
    yield from _of_torchrun(environ, case.found.identity)
    yield from _of_ranks(environ)


def nccl_is_off(environ: Mapping[str, str]) -> str:
    """Return the variable that keeps NCCL from RDMA, with its value; empty if none does."""
    if is_number(environ.get("NCCL_IB_DISABLE", "")):
        return f"NCCL_IB_DISABLE={shown(environ['NCCL_IB_DISABLE'])}"
    if environ.get("NCCL_NET", "").lower() == "socket":
        return f"NCCL_NET={shown(environ['NCCL_NET'])}"
    return ""


def _of_rdmatrain(case: Case, environ: Mapping[str, str]) -> Iterator[Finding]:
    names = ("RDMATRAIN_TRANSPORT", "RDMATRAIN_REQUIRE")
    given = {name: environ[name].strip() for name in names if name in environ}
    if len(given) == len(names) and all(_is_allowed(name, given[name]) for name in names):
        try:
            load_settings(given)
        except SettingError as error:
            yield failed(shown(str(error)), "unset RDMATRAIN_REQUIRE")
    for name, value in given.items():
        if case.needs.transport == "verbs" and value in {"tcp", "shm"}:
            text = f"{name}={value}, and the job is to run over verbs"
            yield failed(text, f"unset {name}")


def _is_allowed(name: str, value: str) -> bool:
    try:
        load_settings({name: value})
    except SettingError:
        return False
    return True


def _of_nccl(case: Case, environ: Mapping[str, str]) -> Iterator[Finding]:
    yield from _off_and_wanted(case, environ)
    index = is_number(environ.get("NCCL_IB_GID_INDEX", ""))
    steering = [name for name in _STEERING if name in environ]
    if index is not None and index >= 0 and steering:
        text = f"NCCL_IB_GID_INDEX={index} makes NCCL overlook {', '.join(steering)}"
        yield warned(text, "unset NCCL_IB_GID_INDEX")
    yield from _limits_of_nccl(environ)
    if all(is_number(environ.get(f"NCCL_{way}_DISABLE", "")) for way in ("P2P", "SHM")):
        text = "NCCL_P2P_DISABLE and NCCL_SHM_DISABLE: GPUs of one host talk over the network"
        yield warned(text, "unset NCCL_P2P_DISABLE NCCL_SHM_DISABLE")


def _off_and_wanted(case: Case, environ: Mapping[str, str]) -> Iterator[Finding]:
    off = nccl_is_off(environ)
    wanted = [name for name in _OF_VERBS if name in environ and _says_something(environ[name])]
    if off and wanted:
        text = f"{off} keeps NCCL from RDMA, and {', '.join(wanted)} is only for RDMA"
        found = case.found.allocation
        grave = all((case.wants_rdma, found.gpus, usable_nics(found)))
        yield (failed if grave else warned)(text, f"unset {off.partition('=')[0]}")
    if off.startswith("NCCL_IB_DISABLE") and environ.get("NCCL_NET", "").lower() == "ib":
        yield failed(f"{off} and NCCL_NET=IB: NCCL finds no network", "unset NCCL_IB_DISABLE")


def _limits_of_nccl(environ: Mapping[str, str]) -> Iterator[Finding]:
    for low, high in _LIMITS:
        least, most = (is_number(environ.get(name, "")) for name in (low, high))
        if least is not None and most is not None and least > most:
            yield warned(f"{low}={least} is above {high}={most}", f"unset {low} {high}")


def _says_something(value: str) -> bool:
    number = is_number(value)
    return number is None or number > 0


def _of_ucx(environ: Mapping[str, str]) -> Iterator[Finding]:
    tls, devices = environ.get("UCX_TLS", ""), environ.get("UCX_NET_DEVICES", "")
    rdma = any(item.startswith(_RDMA_OF_UCX) for item in tls.split(","))
    named = [item for item in devices.split(",") if ":" in item]
    if tls and named and not rdma and not tls.startswith("^"):
        text = f"UCX_TLS={shown(tls)} has no RDMA, and UCX_NET_DEVICES names {shown(named[0])}"
        yield warned(text, "unset UCX_TLS")


def _of_torchrun(environ: Mapping[str, str], identity: Identity | None) -> Iterator[Finding]:
    for ours, other in _TWICE:
        if environ.get(ours, environ.get(other)) != environ.get(other, environ.get(ours)):
            text = f"{ours}={shown(environ[ours])} counts, and {other}={shown(environ[other])}"
            yield warned(f"{text} does not", f"unset {other}")
    yield from _nodes_of_torchrun(environ, identity)


def _nodes_of_torchrun(environ: Mapping[str, str], identity: Identity | None) -> Iterator[Finding]:
    nodes = _value("nnodes", environ)
    if nodes and nodes.most > 1 and _value("standalone", environ):
        text = f"PET_STANDALONE is a job of one node, and PET_NNODES={nodes} is of several"
        yield failed(text, "unset PET_STANDALONE")
    known = identity.nnodes if identity else None
    if not identity or not nodes or not known or nodes.least <= known <= nodes.most:
        return
    text = f"PET_NNODES={nodes}, and {identity.orchestrator} started {known} nodes"
    text += f" ({identity.decided_by['nnodes']})"
    # One node of several, by itself, is sometimes meant.
    yield (warned if nodes.most == 1 else failed)(text, "unset PET_NNODES")


def _value(field: str, environ: Mapping[str, str]) -> Any:
    """Return what an option's variable says; None if nothing, or nothing that is allowed."""
    option = BY_FIELD[field]
    try:
        text = environ.get(option.variable, "")
        return read(option, f"{option.variable}=", text) if text else None
    except SettingError:
        return None


def _of_ranks(environ: Mapping[str, str]) -> Iterator[Finding]:
    ranks = rank_env(environ)
    pairs = (
        ("RANK", ranks.rank, "WORLD_SIZE", ranks.world_size),
        ("LOCAL_RANK", ranks.local_rank, "LOCAL_WORLD_SIZE", ranks.local_world_size),
    )
    for name, rank, total, size in pairs:
        if rank is not None and size is not None and rank >= size:
            text = f"{name}={rank} is not below {total}={size}"
            yield failed(text, f"unset {name} {total}: rdmatrain run sets them")
    world, local = ranks.world_size, ranks.local_world_size
    if world is not None and local is not None and local > world:
        text = f"LOCAL_WORLD_SIZE={local} is more than WORLD_SIZE={world}"
        yield failed(text, "unset WORLD_SIZE LOCAL_WORLD_SIZE: rdmatrain run sets them")
