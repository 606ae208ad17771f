"""libibverbs is opened when it is asked for, and its absence is an answer."""

import ctypes
from pathlib import Path

import pytest

from rdmatrain import _core
from rdmatrain.errors import CommError


def libibverbs_is_installed() -> bool:
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not libibverbs_is_installed(), reason="libibverbs.so.1 is not installed")
def test_the_devices_of_libibverbs_are_those_of_sysfs():
    assert sorted(_core.rdma_devices()) == sorted(
        path.name for path in Path("/sys/class/infiniband").glob("*")
    )


@pytest.mark.skipif(libibverbs_is_installed(), reason="libibverbs.so.1 is installed")
def test_without_libibverbs_the_error_names_it():
    with pytest.raises(CommError, match="libibverbs") as caught:
        _core.rdma_devices()
    assert caught.value.status == "NO_LIBRARY"
