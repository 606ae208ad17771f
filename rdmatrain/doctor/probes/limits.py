"""Probes of limits: what the RDMA devices say they can have at most."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from rdmatrain.doctor.model import Needs


def probes(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return them, by name: ``device_limits``."""
    del needs
    return {"device_limits": ask_devices}


def ask_devices() -> dict[str, Any]:
    """Ask all RDMA devices that can be opened.

    Returns:
        ``error``, and ``devices``: each as ``rdma_limits`` of ``rdmatrain._core`` has it.

    """
    try:
        return {"error": "", "devices": import_module("rdmatrain._core").rdma_limits()}
    except Exception as error:
        return {"error": str(error), "devices": []}
