"""Probes of software: versions by their metadata, and libraries that are loaded; torch never is."""

import ctypes
import importlib.util
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from rdmatrain.doctor.model import Needs

IBVERBS = "libibverbs.so.1"
# A package of its own for each major of CUDA; all have the same files.
NCCL = tuple(f"nvidia-nccl-cu{major}" for major in (11, 12, 13, 14))
_ASSIGNED = re.compile(r"^(__version__|cuda)\b[^=\n]*= *['\"]([^'\"\n]+)['\"]", re.MULTILINE)


def probes(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return them, by name: ``python``, ``core``, ``torch``, ``ibverbs``."""
    return {"python": ask_python, "core": ask_core, "torch": ask_torch, "ibverbs": ask_ibverbs}


def ask_python() -> dict[str, Any]:
    """Return which Python this is, and what rdmatrain wants of it."""
    found = _distribution("rdmatrain")
    wants = found.metadata["Requires-Python"] if found else ""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "machine": platform.machine(),
        "requires": wants or "",
    }


def ask_core() -> dict[str, Any]:
    """Return whether the compiled core can be loaded.

    Returns:
        ``error``, ``rdmatrain``: its version; ``torch_minor`` that it was built for; ``suffix`` of
        this Python's extensions, ``built``: the files that are there; ``store_server``: whether the
        program beside it can be run.

    """
    found = _distribution("rdmatrain")
    facts: dict[str, Any] = {
        "error": "",
        "rdmatrain": found.version if found else "",
        "torch_minor": "",
        "suffix": sysconfig.get_config_var("EXT_SUFFIX") or "",
    }
    try:
        facts["torch_minor"] = str(import_module("rdmatrain._core").TORCH_MINOR)
    except Exception as error:
        facts["error"] = f"{type(error).__name__}: {error}"
    folders = _folders("rdmatrain")
    facts["built"] = sorted(each.name for folder in folders for each in folder.glob("_core.*so"))
    servers = [folder / "_store_server" for folder in folders]
    facts["store_server"] = any(each.is_file() and os.access(each, os.X_OK) for each in servers)
    return facts


def ask_torch() -> dict[str, Any]:
    """Return which torch there is, without importing it.

    Returns:
        ``metadata``: its version as pip has it; ``file``: as its own file has it, which counts;
        ``place``, ``cuda``, ``requires``: what rdmatrain wants; ``nccl``: versions by package.

    """
    found, own = _distribution("torch"), _distribution("rdmatrain")
    wants = next((each for each in (own.requires if own else None) or () if _is_torch(each)), "")
    facts = {
        "metadata": found.version if found else "",
        "requires": wants,
        "file": "",
        "cuda": "",
        "place": "",
        "nccl": {name: each.version for name in NCCL if (each := _distribution(name))},
    }
    for folder in _folders("torch"):
        facts["place"] = str(folder)
        with suppress(OSError, ValueError):
            said = dict(_ASSIGNED.findall((folder / "version.py").read_text("utf-8")))
            facts |= {"file": said.get("__version__", ""), "cuda": said.get("cuda", "")}
    return facts


def ask_ibverbs() -> dict[str, Any]:
    """Return which libibverbs is loaded here: ``error``, ``path``, ``dmabuf``: it has that call."""
    try:
        library = ctypes.CDLL(IBVERBS)
    except OSError as error:
        return {"error": str(error), "path": "", "dmabuf": False}
    path = ""
    with suppress(OSError, ValueError):
        maps = Path("/proc/self/maps").read_text("utf-8").splitlines()
        path = next((line.split()[-1] for line in maps if "/libibverbs.so" in line), "")
    dmabuf = hasattr(library, "ibv_reg_dmabuf_mr")
    return {"error": "", "path": str(Path(path).resolve()) if path else "", "dmabuf": dmabuf}


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _folders(package: str) -> list[Path]:
    """Return where a package's files are; it is not imported."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    return [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []


def _is_torch(requirement: str) -> bool:
    return bool(re.match(r"torch\b(?![-_.])", requirement))
