"""These tests run inside a guest that has an RDMA device: `make test-rdma`. Elsewhere they skip."""

import os
import sys
from pathlib import Path

import pytest

# Jobs of real processes are started and read in one way.
sys.path.append(str(Path(__file__).parents[1] / "integration"))
# The handshake is every transport's: its second implementation is there.
sys.path.append(str(Path(__file__).parents[1] / "contract"))

DEVICE = os.environ.get("VM_DEVICE", "")


def pytest_collection_modifyitems(items):
    if DEVICE:
        return
    here = Path(__file__).parent
    skip = pytest.mark.skip(reason="needs a guest with an RDMA device: `make test-rdma`")
    for item in items:
        if here in item.path.parents:
            item.add_marker(skip)


def pytest_sessionfinish(session, exitstatus):
    """In a guest, a run in which every test skipped has proved nothing: it fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if DEVICE and exitstatus == pytest.ExitCode.OK and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.fixture(scope="session")
def device() -> str:
    """The guest's RDMA device. A guest that was to have one and has none is a failure."""
    path = Path("/sys/class/infiniband") / DEVICE
    assert path.exists(), f"the guest has no RDMA device {DEVICE}"
    return DEVICE


@pytest.fixture(scope="module")
def context(device):
    """The device as pyverbs opens it, which shares no code with rdmatrain."""
    pyverbs = pytest.importorskip(
        "pyverbs.device", reason="pyverbs is Debian's and loads in its Python's version alone"
    )
    with pyverbs.Context(name=device) as context:
        yield context
