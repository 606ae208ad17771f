"""Memory of a GPU that a NIC can be given, by CUDA's driver alone: no torch, no CUDA toolkit.

The descriptor is a dmabuf, which takes NVIDIA's open kernel modules (R515 and later) and Linux
5.12; functions and numbers are those of the CUDA Driver API, ``cuda.h``.
"""

import ctypes
import os
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p

import numpy as np
from numpy.typing import NDArray

from rdmatrain.errors import RdmatrainError

LIBRARY = "libcuda.so.1"
# CUdevice_attribute, CUmemRangeHandleType and CUflushGPUDirectRDMAWrites...
_FLUSH_OPTIONS, _DMABUF_SUPPORTED = 117, 124
_FLUSH_FROM_HOST = 1
_DMABUF_FD = 1
_CURRENT_CONTEXT, _TO_OWNER = 0, 100
_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "cuInit": (c_uint,),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuCtxSynchronize": (),
    "cuMemAlloc_v2": (POINTER(c_ulonglong), c_size_t),
    "cuMemFree_v2": (c_ulonglong,),
    "cuMemcpyHtoD_v2": (c_ulonglong, c_void_p, c_size_t),
    "cuMemcpyDtoH_v2": (c_void_p, c_ulonglong, c_size_t),
    "cuMemGetHandleForAddressRange": (c_void_p, c_ulonglong, c_size_t, c_int, c_ulonglong),
    "cuFlushGPUDirectRDMAWrites": (c_int, c_int),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
}


class CudaError(RdmatrainError):
    """CUDA's driver is not there, or refuses."""


class CudaMemory:
    """Memory of a GPU, of the thread that made it.

    Args:
        nbytes: how many; at least 1.
        index: of the GPU, modulo how many there are.

    Attributes:
        fd: its dmabuf.
        address: what the GPU calls it; the start of the dmabuf.

    Raises:
        CudaError: there is none to be had that a NIC could be given.

    """

    def __init__(self, nbytes: int, index: int) -> None:
        self._cuda = _Cuda()
        self._device = _device(self._cuda, index)
        context, allocated, fd = c_void_p(), c_ulonglong(), c_int()
        self._allocated, self.fd = 0, -1
        self._cuda("cuDevicePrimaryCtxRetain", byref(context), self._device)
        try:
            self._cuda("cuCtxSetCurrent", context)
            # The driver gives whole pages away.
            page = os.sysconf("SC_PAGESIZE")
            length = -(-nbytes // page) * page
            self._cuda("cuMemAlloc_v2", byref(allocated), length + page)
            self._allocated = allocated.value
            self.address = -(-self._allocated // page) * page
            where = (self.address, length, _DMABUF_FD, 0)
            self._cuda("cuMemGetHandleForAddressRange", byref(fd), *where)
            self.fd = fd.value
        except CudaError:
            with suppress(CudaError):
                self.close()
            raise

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        """Copy bytes there, from ``offset`` on; a NIC finds them."""
        self._cuda("cuMemcpyHtoD_v2", self.address + offset, data.ctypes.data, data.nbytes)
        # From memory that is not pinned it may return before the GPU has all, and NICs do not wait.
        self._cuda("cuCtxSynchronize")

    def read(self, offset: int, nbytes: int) -> NDArray[np.uint8]:
        """Copy bytes from there, what NICs have written included."""
        # A NIC's writes may be on their way to the GPU when its completion is in the host's memory.
        if _attribute(self._cuda, self._device, _FLUSH_OPTIONS) & _FLUSH_FROM_HOST:
            self._cuda("cuFlushGPUDirectRDMAWrites", _CURRENT_CONTEXT, _TO_OWNER)
        data = np.empty(nbytes, np.uint8)
        self._cuda("cuMemcpyDtoH_v2", data.ctypes.data, self.address + offset, nbytes)
        return data

    def close(self) -> None:
        """Free it; no NIC has it registered any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        try:
            if self._allocated:
                self._cuda("cuMemFree_v2", self._allocated)
        finally:
            self._allocated = 0
            if self._device >= 0:
                self._cuda("cuDevicePrimaryCtxRelease_v2", self._device)
            self._device = -1


def why_not() -> str:
    """Return why no GPU's memory can be given to a NIC here; "" where it can."""
    try:
        _device(_Cuda(), 0)
    except CudaError as error:
        return str(error)
    return ""


class _Cuda:
    """The driver's functions; a call that fails raises, and says what."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError(f"CUDA's driver is not installed: {error}") from error
        self("cuInit", 0)

    def __call__(self, name: str, *args: object) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise CudaError(f"{LIBRARY} has no {name}: it takes CUDA 11.7's driver or a later one")
        function.argtypes, function.restype = _FUNCTIONS[name], c_int
        code = function(*args)
        if code:
            raise CudaError(f"{name}: {self._text(code)}")

    def _text(self, code: int) -> str:
        text = c_char_p()
        self._library.cuGetErrorString.argtypes = _FUNCTIONS["cuGetErrorString"]
        self._library.cuGetErrorString(code, byref(text))
        return text.value.decode() if text.value else f"error {code}"


def _device(cuda: _Cuda, index: int) -> int:
    """Return CUDA's number of a GPU that gives dmabufs of its memory."""
    count, device = c_int(), c_int()
    cuda("cuDeviceGetCount", byref(count))
    if not count.value:
        raise CudaError("CUDA's driver finds no GPU")
    cuda("cuDeviceGet", byref(device), index % count.value)
    if not _attribute(cuda, device.value, _DMABUF_SUPPORTED):
        raise CudaError(
            "the GPU's driver gives no dmabuf of its memory: it takes NVIDIA's open kernel modules "
            "(R515) and Linux 5.12"
        )
    return device.value


def _attribute(cuda: _Cuda, device: int, number: int) -> int:
    """Return one; 0 where the driver is too old to know it."""
    value = c_int()
    with suppress(CudaError):
        cuda("cuDeviceGetAttribute", byref(value), number, device)
    return value.value
