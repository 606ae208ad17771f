"""Probes of what was examined, for who reads the answers."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

from rdmatrain import __version__
from rdmatrain.doctor.model import Needs


def probes(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return them, by name."""
    return {"versions": _versions, "needs": lambda: asdict(needs)}


def _versions() -> dict[str, str]:
    found = {"rdmatrain": __version__, "python": platform.python_version()}
    found["kernel"] = platform.release()
    for name in ("torch", "numpy"):
        try:
            found[name] = metadata.version(name)
        except Exception:  # not installed, or its metadata is damaged
            found[name] = ""
    return found
