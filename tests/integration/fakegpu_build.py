"""Compiles the device "fakegpu" for the tests that stage its tensors."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from integration_jobs import WORKERS

SOURCE = WORKERS / "fakegpu.cpp"
BUILD = Path(__file__).parents[2] / "build" / "fakegpu"


def fakegpu_library() -> Path:
    """Build the library unless this source was built for this torch before; skip without g++."""
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = BUILD / f"fakegpu-{key}.so"
    if library.exists():
        return library
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the fake device with")
    BUILD.mkdir(parents=True, exist_ok=True)
    folder = Path(torch.__file__).parent
    unfinished = library.with_suffix(f".{os.getpid()}")
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-std=c++20", "-O1", str(SOURCE), "-o", unfinished),
            *("-isystem", folder / "include"),
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            *(f"-L{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"),
        ],
        check=True,
        timeout=300,
    )
    unfinished.replace(library)
    return library
