"""libibverbs is opened when it is asked for, and its absence is an answer."""

import contextlib
import ctypes
from pathlib import Path
from unittest.mock import ANY

import pytest

from rdmatrain import _core
from rdmatrain.errors import CommError


def libibverbs_is_installed() -> bool:
    try:
        ctypes.CDLL("libibverbs.so.1")
    except OSError:
        return False
    return True


needs_libibverbs = pytest.mark.skipif(
    not libibverbs_is_installed(), reason="libibverbs.so.1 is not installed"
)
needs_none = pytest.mark.skipif(libibverbs_is_installed(), reason="libibverbs.so.1 is installed")


def devices_of_sysfs() -> list[str]:
    return sorted(path.name for path in Path("/sys/class/infiniband").glob("*"))


@needs_libibverbs
def test_the_devices_of_libibverbs_are_those_of_sysfs():
    assert sorted(_core.rdma_devices()) == devices_of_sysfs()


@needs_libibverbs
def test_each_device_has_ports_or_says_why_not():
    ports = _core.rdma_ports()
    assert sorted({port["device"] for port in ports}) == devices_of_sysfs()
    for port in ports:
        folder = Path("/sys/class/infiniband", port["device"], "ports", str(port["port"]))
        if port["port"] == 0:
            assert port["device"] in port["error"]
            continue
        assert port["error"] == ""
        assert folder.joinpath("state").read_text().split() == [ANY, port["state"]]
        assert folder.joinpath("link_layer").read_text().strip() == port["link_layer"]
        assert len(list(folder.joinpath("gids").iterdir())) == port["gids"]
        assert port["active_mtu"] in {256, 512, 1024, 2048, 4096}


@needs_libibverbs
def test_a_device_that_is_not_there_has_no_gid():
    assert _core.rdma_test_gid("nosuch0", 1, 0) == "there is no RDMA device nosuch0"
    assert _core.rdma_test_gid("nosuch0", 0, 0) == "nosuch0 has no port 0"


@pytest.mark.parametrize("args", [("a", -1, 0), ("a", 1, 2**32), (1, 1, 1), ("a", 1)])
def test_bad_arguments_are_refused(args):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        _core.rdma_test_gid(*args)


@needs_libibverbs
def test_each_device_tells_its_limits_or_why_not():
    limits = _core.rdma_limits()
    assert sorted(each["device"] for each in limits) == devices_of_sysfs()
    for each in limits:
        told = [each[name] > 0 for name in ("max_qp", "max_cq", "max_cqe", "max_mr", "max_mr_size")]
        assert all(told) if each["error"] == "" else not any(told)


@needs_libibverbs
def test_what_a_device_registers_is_bounded_by_what_is_wanted():
    with pytest.raises(ValueError, match="there is no RDMA device nosuch0"):
        _core.rdma_test_register("nosuch0", 4096)
    for device in devices_of_sysfs():
        with contextlib.suppress(CommError):  # of a device that is not for us
            assert _core.rdma_test_register(device, 4096) == (4096, "")


@pytest.mark.parametrize("args", [("a", -1), ("a", 2**64), ("a", "1"), (1, 1), ("a",)])
def test_bad_numbers_of_bytes_are_refused(args):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        _core.rdma_test_register(*args)


@needs_none
@pytest.mark.parametrize(
    "ask",
    [
        _core.rdma_devices,
        _core.rdma_ports,
        _core.rdma_limits,
        lambda: _core.rdma_test_gid("mlx5_0", 1, 0),
        lambda: _core.rdma_test_register("mlx5_0", 4096),
    ],
)
def test_without_libibverbs_the_error_names_it(ask):
    with pytest.raises(CommError, match="libibverbs") as caught:
        ask()
    assert caught.value.status == "NO_LIBRARY"
