"""The entry point that ``import torch`` calls. An exception here would break ``import torch``."""

import logging

logger = logging.getLogger(__name__)


def register() -> None:
    """Make ``init_process_group("rdmatrain")`` known to torch; load nothing else until then."""
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


def _create(options: object, pg_options: object) -> object:
    from rdmatrain.comm.backend import create_backend  # noqa: PLC0415

    return create_backend(options, pg_options)
