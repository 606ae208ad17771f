"""The entry point that ``import torch`` calls. An exception here would break ``import torch``."""

import logging

from rdmatrain.config import load_settings, watch_page

logger = logging.getLogger(__name__)


def register() -> None:
    """Make ``init_process_group("rdmatrain")`` known to torch; load nothing else until then.

    With ``RDMATRAIN_ARENA=on`` the arena becomes torch's allocator, before the first tensor. A
    worker of ``rdmatrain run`` begins to tell its launcher that it is alive.
    """
    _watch()
    try:
        from torch.distributed import Backend  # noqa: PLC0415
    except ImportError:  # a torch that was built without torch.distributed
        return
    try:
        if "rdmatrain" not in Backend.backend_list:
            Backend.register_backend(
                "rdmatrain", _create, extended_api=True, devices=["cpu", "cuda"]
            )
    except Exception as error:  # a torch whose interface has changed
        logger.warning("the rdmatrain backend cannot be registered with this torch: %s", error)
    try:
        if load_settings().arena == "on":
            from rdmatrain.comm.memory import install_allocator  # noqa: PLC0415

            install_allocator()
    except Exception as error:  # wrong settings too: the backend will raise them
        logger.warning("the arena is not torch's allocator: %s", error)


def _watch() -> None:
    try:
        if page := watch_page():
            from rdmatrain.launcher.watch.beat import start  # noqa: PLC0415

            start(page)
    except Exception as error:  # it is the launcher that misses something, not the program
        logger.warning("the launcher cannot see whether this process hangs: %s", error)


def _create(options: object, pg_options: object) -> object:
    from rdmatrain.comm.backend import create_backend  # noqa: PLC0415

    return create_backend(options, pg_options)
