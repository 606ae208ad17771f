"""What torch calls to make a process group's backend."""

import atexit
import logging
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rdmatrain import _core
from rdmatrain.comm.bootstrap import Place, connect, forming
from rdmatrain.config import load_settings, master_addr, unknown_settings

logger = logging.getLogger(__name__)

# A group forms within this time or not at all, however long its collectives may take.
MAX_CONNECT_TIMEOUT = timedelta(minutes=5)


def create_backend(options: Any, pg_options: Any) -> Any:
    """Create the backend of one process group; collective over its ranks.

    Args:
        options: torch's ``_DistributedBackendOptions``.
        pg_options: what the caller gave as ``pg_options``; rdmatrain has none.

    Returns:
        A ``torch.distributed.Backend``.

    Raises:
        BootstrapError: the group could not form.
        SettingError: an ``RDMATRAIN_*`` variable is wrong.
        ImportError: rdmatrain was built for another torch.
        TypeError: pg_options were given.

    """
    if pg_options is not None:
        raise TypeError(f"the rdmatrain backend takes no pg_options, got {pg_options!r}")
    place = Place(
        rank=options.group_rank,
        world=options.group_size,
        timeout=min(options.timeout, MAX_CONNECT_TIMEOUT).total_seconds(),
        master_addr=master_addr(),
    )
    with forming(options.store, place) as turn:
        extension = load_extension()
        settings = load_settings()
        _set_log_level(settings.log)
        for unknown in unknown_settings():
            logger.warning("%s", unknown)
        comm = connect(turn, settings)
    atexit.register(_close_all)  # however often: closing twice does nothing
    return extension.Backend(place.rank, place.world, comm.detach(), options.timeout)


def _close_all() -> None:
    """Close what the program left open, while Python still runs.

    Later a progress thread that comes upon a callback written in Python would end the process with
    SIGABRT, as it does with other backends.
    """
    for group in list(dist.distributed_c10d._world.pg_map):
        for device in group._device_types:
            backend = group._get_backend(device)
            if isinstance(backend, load_extension().Backend):
                backend.shutdown()


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
    group = group if group is not None else dist.group.WORLD
    if group is None:
        raise ValueError("there is no default process group: call init_process_group first")
    backend = group._get_backend(torch.device("cpu"))
    if not isinstance(backend, load_extension().Backend):
        raise ValueError(f"the group's backend for CPU tensors is {backend}, not rdmatrain")
    return [str(backend.transport(rank)) for rank in range(group.size())]


def _set_log_level(level: str) -> None:
    package = logging.getLogger("rdmatrain")
    package.setLevel(level.upper())
    # Python's last resort writes warnings only; who asks for more is shown it.
    if level in {"info", "debug"} and not package.hasHandlers():
        package.addHandler(logging.StreamHandler())
