"""The entry point that ``import torch`` calls. An exception here would break ``import torch``."""


def register() -> None:
    """Make ``init_process_group("rdmatrain")`` known to torch; load nothing else until it is used."""
    try:
        from torch.distributed import Backend  # noqa: PLC0415
    except ImportError:  # a torch that was built without torch.distributed
        return
    if "RDMATRAIN" in Backend._plugins:
        return
    Backend.register_backend("rdmatrain", _create, extended_api=True, devices=["cpu", "cuda"])


def _create(options: object, pg_options: object) -> object:
    from rdmatrain.comm.backend import create_backend  # noqa: PLC0415

    return create_backend(options, pg_options)
