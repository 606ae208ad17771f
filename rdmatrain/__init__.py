"""Distributed PyTorch training over RDMA on Kubernetes.

Importing this package imports no torch. torch finds the backend by itself when it is imported, by
the entry point ``torch.backends``. Where that is switched off (TORCH_DEVICE_BACKEND_AUTOLOAD=0),
import rdmatrain after torch, or call :func:`register`.
"""

import sys

from rdmatrain.config import device_backend_autoload

__version__ = "0.1.0"
__all__ = ["__version__", "register", "transports"]


def register() -> None:
    """Register the backend with torch. Only needed where torch's autoload is switched off."""
    from rdmatrain.autoload import register as register_backend  # noqa: PLC0415

    register_backend()


def transports(group: object = None) -> list[str]:
    """Which transport joins this rank to each rank of the group.

    Args:
        group: a process group over rdmatrain; None for the default one.

    Returns:
        One name for each rank of the group: ``"shm"``, ``"tcp"``, or ``"self"`` for this rank.

    Raises:
        ValueError: the group has no rdmatrain backend for CPU tensors.

    """
    from rdmatrain.comm.backend import transports_of  # noqa: PLC0415

    return transports_of(group)


# Where nothing calls the entry point, whoever imports rdmatrain for its backend must get it.
if "torch" in sys.modules and not device_backend_autoload():
    register()
