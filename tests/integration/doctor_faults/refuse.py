# SPDX-License-Identifier: Apache-2.0
"""Runs a program that a system call is refused to: refuse.py memfd_create EPERM COMMAND..."""

import ctypes
import errno
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {"memfd_create": 319, "fallocate": 285},
    "aarch64": {"memfd_create": 279, "fallocate": 47},
}
SET_SECCOMP, FILTER = 22, 2  # of prctl
# Of BPF: a word; jump if it is that, or at least that; the end.
LOAD, EQUALS, REACHES, RETURN = 0x20, 0x15, 0x35, 0x06
# Where the lower half of an argument is, and from where on it is refused: the fourth, a length.
LEAST = {"fallocate": (16 + 3 * 8, 512 << 20)}
REFUSE, ALLOW = 0x00050000, 0x7FFF0000


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(call: str, name: str) -> None:
    """Make a system call fail in this process, and in all that it becomes or starts."""
    number = NUMBERS[platform.machine()][call]
    place, least = LEAST.get(call, (0, 0))  # of a call without a length its number, which is enough
    steps = (
        (LOAD, 0, 0, 0),  # the number of the call
        (EQUALS, 0, 3, number),
        (LOAD, 0, 0, place),
        (REACHES, 0, 1, least),
        (RETURN, 0, 0, REFUSE | getattr(errno, name)),
        (RETURN, 0, 0, ALLOW),
    )
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(program)):
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    refuse(*sys.argv[1:3])
    os.execvp(sys.argv[3], sys.argv[3:])
