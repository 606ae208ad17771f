"""What torch calls to make a process group's backend."""

import atexit
import copy
import ctypes
import hashlib
import json
import logging
import pickle
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from rdmatrain import _core
from rdmatrain.comm import recorder
from rdmatrain.comm.bootstrap import Place, Turn, connect, forming
from rdmatrain.comm.facts import facts_of, peers_of
from rdmatrain.comm.trace import Group
from rdmatrain.config import inherited_environment, load_settings, master_addr, unknown_settings
from rdmatrain.secret import load_secret

logger = logging.getLogger(__name__)

# What torch's worker server calls it: a POST to /handler/NAME answers with a trace.
TRACE_HANDLER = "rdmatrain_dump_trace"
# A group forms within this time or not at all, however long its collectives may take.
MAX_CONNECT_TIMEOUT = timedelta(minutes=5)
COUNTERS = ("sent_bytes", "received_bytes", "staged_bytes")


def create_backend(options: Any, pg_options: Any) -> Any:
    """Create the backend of one process group; collective over its ranks.

    Args:
        options: torch's ``_DistributedBackendOptions``.
        pg_options: what the caller gave as ``pg_options``: ``rdmatrain.Options`` or None.

    Returns:
        A ``torch.distributed.Backend``.

    Raises:
        BootstrapError: the group could not form.
        SettingError: an ``RDMATRAIN_*`` variable or an option is wrong.
        ImportError: rdmatrain was built for another torch.
        TypeError: pg_options are of another backend.

    """
    store = _store_of(options)
    with forming(
        store, _place(store, options.group_rank, options.group_size, options.timeout)
    ) as turn:
        extension = load_extension()
        extension.set_factory(_create_derived)
        wanted = extension.Options() if pg_options is None else pg_options
        if not isinstance(wanted, extension.Options):
            raise TypeError(
                f"pg_options of the rdmatrain backend must be rdmatrain.Options, got {wanted!r}"
            )
        chosen = copy.deepcopy(wanted)
        if chosen._timeout < timedelta(0):
            chosen._timeout = options.timeout
        chosen.group_name = options.group_id
        # As torch calls them.
        chosen.group_desc = "undefined" if options.global_ranks_in_group else "default_pg"
        ranks = options.global_ranks_in_group or range(turn.place.world)
        chosen.global_ranks_in_group = list(ranks)
        return _join(turn, store, chosen)


def _store_of(options: Any) -> Any:
    """Part of the store for these ranks alone.

    Each rank counts the groups that it makes, and torch names them so: groups of other ranks, as of
    subgroups that make groups of their own, may have the same name.
    """
    ranks = options.global_ranks_in_group  # torch leaves it empty for the default group
    if not ranks:
        return options.store
    digest = hashlib.sha256(repr(list(ranks)).encode()).hexdigest()[:16]
    return dist.PrefixStore(f"ranks-{digest}", options.store)


def _create_derived(store: Any, rank: int, size: int, options: Any) -> Any:
    """Create the backend of a group that is made from another one; the adaptor calls it."""
    options.group_desc = "undefined"
    with forming(store, _place(store, rank, size, options._timeout)) as turn:
        return _join(turn, store, options)


def _group_of(rank: int, options: Any) -> Group:
    return Group(
        name=options.group_name,
        desc=options.group_desc,
        ranks=tuple(options.global_ranks_in_group),
        rank=rank,
    )


def _offer_traces() -> None:
    with suppress(ValueError):  # it is registered, since an earlier group
        c10d._register_handler(TRACE_HANDLER, _answer_with_trace)
        # torch drops its reference when Python has ended: that must not be the last one.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_answer_with_trace))


def _answer_with_trace(_request: Any, response: Any) -> None:
    try:
        content = pickle.dumps(recorder.trace("worker server"))
    except RuntimeError as error:  # a forked child that has formed no group
        response.set_status(503)
        response.set_content(f"{error}\n", "text/plain")
    else:
        response.set_status(200)
        response.set_content(content, "application/octet-stream")


def _place(store: Any, rank: int, world: int, timeout: timedelta) -> Place:
    seconds = min(timeout, MAX_CONNECT_TIMEOUT).total_seconds()
    address = master_addr() or _host_of(store)
    return Place(rank=rank, world=world, timeout=seconds, master_addr=address)


def _host_of(store: Any) -> str:
    """Return the host that serves the store, for who was given a store and no MASTER_ADDR."""
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store.host if isinstance(store, dist.TCPStore) else ""


def _join(turn: Turn, store: Any, options: Any) -> Any:
    given = {"transport": options.transport, "require": options.require}
    settings = load_settings(given=given, given_as="the argument {}")
    _set_log_level(settings.log)
    for unknown in unknown_settings():
        logger.warning("%s", unknown)
    recorder.start(settings)
    comm = connect(turn, settings, load_secret(inherited_environment()))
    recorder.add_group(comm.number(), _group_of(turn.place.rank, options))
    _offer_traces()
    extension = load_extension()
    # While Python still runs: later a progress thread that comes upon a callback written in Python
    # would end the process with SIGABRT, as it does with other backends.
    atexit.register(extension.close_all)  # however often: closing twice does nothing
    note = json.dumps(facts_of(turn.pairs, turn.rails, comm.number()))
    return extension.Backend(store, turn.place.rank, turn.place.world, comm.detach(), options, note)


def load_extension() -> Any:
    """Import the C++ adaptor, or say in one line why it cannot work with this torch.

    Raises:
        ImportError: this torch is of another minor than the one that the adaptor was built for.

    """
    minor = ".".join(torch.__version__.split("+")[0].split(".")[:2])
    if minor != _core.TORCH_MINOR:
        raise ImportError(
            f"rdmatrain was built for torch {_core.TORCH_MINOR}, this is torch "
            f"{torch.__version__}: reinstall it with `pip install --no-build-isolation "
            "--force-reinstall --no-deps rdmatrain`"
        )
    from rdmatrain import _c10d  # noqa: PLC0415 - must not be loaded under another torch

    return _c10d


def transports_of(group: Any) -> list[str]:
    """See :func:`rdmatrain.transports`."""
    group = _group(group)
    backend = _backend_of(group)
    return [str(backend.transport(rank)) for rank in range(group.size())]


def stats_of(group: Any) -> dict[str, Any]:
    """See :func:`rdmatrain.get_stats`."""
    group = _group(group)
    backend = _backend_of(group)
    peers = peers_of(json.loads(backend.note), backend.stats)
    totals = {name: sum(peer[name] for peer in peers) for name in COUNTERS}
    return {"rank": group.rank(), "world": group.size(), "peers": peers, "totals": totals}


def _backend_of(group: Any) -> Any:
    backend = group._get_backend(torch.device("cpu"))
    backend = getattr(backend, "wrapped_pg", backend)  # under TORCH_DISTRIBUTED_DEBUG=DETAIL
    if not isinstance(backend, load_extension().Backend):
        raise ValueError(f"the group's backend for CPU tensors is {backend}, not rdmatrain")
    return backend


def monitored_barrier(group: Any, timeout: timedelta | None, wait_all_ranks: bool) -> None:
    """See :func:`rdmatrain.monitored_barrier`."""
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        return
    times = () if timeout is None else (timeout,)
    _group(group).monitored_barrier(*times, wait_all_ranks=wait_all_ranks)


def _group(group: Any) -> Any:
    group = group if group is not None else dist.group.WORLD
    if group is None:
        raise ValueError("there is no default process group: call init_process_group first")
    return group


def _set_log_level(level: str) -> None:
    package = logging.getLogger("rdmatrain")
    package.setLevel(level.upper())
    # Python's last resort writes warnings only; who asks for more is shown it.
    if level in {"info", "debug"} and not package.hasHandlers():
        package.addHandler(logging.StreamHandler())
