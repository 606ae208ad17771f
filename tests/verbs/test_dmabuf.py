# SPDX-License-Identifier: Apache-2.0
"""What is said of dmabufs is what pyverbs hears, and what a registration comes to."""

import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path

import pytest

from rdmatrain import _core
from rdmatrain.comm import rdma
from rdmatrain.config import load_settings

# drm/drm_mode.h, drm/drm.h: memory of a graphics device, and its dmabuf.
CREATE_DUMB, DUMB = 0xC02064B2, "=IIIIIIQ"  # height, width, bpp, flags, handle, pitch, size
HANDLE_TO_FD, PRIME = 0xC00C642D, "=IIi"  # handle, flags, fd
SIDE = 128  # pixels of 4 bytes
NBYTES = 4 * SIDE * SIDE
ADDRESS = 0x7000_0000_0000  # as a GPU has them: no CPU can look there


@pytest.fixture
def dmabuf():
    """The memory of a graphics device that the kernel plays, given as a GPU gives its own."""
    subprocess.run(["modprobe", "vgem"], check=False)
    [*cards] = Path("/sys/devices/platform/vgem/drm").glob("card*")
    if not cards:
        pytest.skip("this kernel has no vgem")
    with Path("/dev/dri", cards[0].name).open("r+b", buffering=0) as card:
        made = fcntl.ioctl(card, CREATE_DUMB, struct.pack(DUMB, SIDE, SIDE, 32, 0, 0, 0, 0))
        handle = struct.unpack(DUMB, made)[4]
        given = fcntl.ioctl(card, HANDLE_TO_FD, struct.pack(PRIME, handle, os.O_CLOEXEC, -1))
    fd = struct.unpack(PRIME, given)[2]
    yield fd
    os.close(fd)


def test_the_probe_agrees_with_pyverbs_and_with_a_registration(device, context, dmabuf):
    mr = pytest.importorskip("pyverbs.mr")
    pd = pytest.importorskip("pyverbs.pd").PD(context)
    error = pytest.importorskip("pyverbs.pyverbs_error").PyverbsRDMAError
    try:
        mr.DmaBufMR(pd, NBYTES, 1, dmabuf).close()
        theirs = ""
    except error as refused:
        theirs = os.strerror(refused.error_code)
    (limits,) = [each for each in _core.rdma_limits() if each["device"] == device]
    assert bool(limits["no_dmabuf"]) == (theirs == os.strerror(errno.EOPNOTSUPP))
    settings = load_settings()
    argument = rdma.listen_argument(rdma.find_rails(settings).rails[:1], "127.0.0.1", settings)
    pair = _core.Pair("verbs", argument, 0, bytes(16))
    if limits["no_dmabuf"]:
        with pytest.raises(ValueError, match=f"the driver of {device} registers no memory of"):
            pair.reserve_dmabuf(dmabuf, 0, ADDRESS, NBYTES)
    else:
        pair.reserve_dmabuf(dmabuf, 0, ADDRESS, NBYTES)
    pair.close()
