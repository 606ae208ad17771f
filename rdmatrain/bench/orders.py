"""How the conductor and the ranks of a contestant talk: JSON lines over a Unix socket.

Each rank connects, says hello, and then answers one order after the other; while it waits it
sleeps, so that contestants whose turn it is not take no CPU. Standard library only, and no import
of ours: ``mpi_rank.py`` loads this file in an environment that has no rdmatrain.

===========  ===========================================  ========================================
order        fields                                       answer
===========  ===========================================  ========================================
(hello)                                                   rank, ranks, host, pid, transport,
                                                          versions (by name), device
prepare      op dtype redop nbytes in_place root check    nwrong (null: unchecked), guess_s
time         calls warmup                                 seconds: list of float, one a call
drop                                                      (nothing)
end                                                       none: the rank ends
===========  ===========================================  ========================================

An answer with ``error`` says why there is none; the rank goes on with the next order.
"""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

# In a rank's environment. Not RDMATRAIN_...: these are no settings.
SOCKET_VARIABLE = "_RDMATRAIN_BENCH_SOCKET"  # path of the conductor's socket
INHERITED = "fd:"  # in its place: the number of a socket that is open already
PIN_VARIABLE = "_RDMATRAIN_BENCH_PIN"  # 1: each rank runs on one CPU
DEVICE_VARIABLE = "_RDMATRAIN_BENCH_DEVICE"  # where tensors are: torch's name of it
TOKEN_VARIABLE = "_RDMATRAIN_BENCH_TOKEN"  # by which ranks of the core know each other
Order = dict[str, Any]
Answer = dict[str, Any]


class Line:
    """One end of the conversation."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("r", encoding="utf-8", newline="\n")

    def say(self, message: dict[str, Any]) -> None:
        """Send one message."""
        self._sock.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """Return the next message; None when the other end has closed."""
        line = self._file.readline()
        if not line.endswith("\n"):
            return None
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._sock.close()


def pin_if_asked(local_rank: int) -> None:
    """Bind this process, and the threads that it will start, to the CPU of its rank."""
    if os.environ.get(PIN_VARIABLE) == "1":
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[local_rank % len(cpus)]})


def serve(hello: Answer, handlers: dict[str, Callable[[Order], Answer]]) -> None:
    """Be a rank: connect to the conductor and answer its orders until it says end or is gone.

    Args:
        hello: what to say first.
        handlers: for each order what answers it; what that raises is answered as an error.

    """
    line = Line(_socket(os.environ[SOCKET_VARIABLE]))
    line.say(hello)
    while True:
        order = line.hear()
        if order is None or order["do"] == "end":
            break
        try:
            answer = handlers[order["do"]](order)
        except Exception as error:  # whatever it is, the conductor tells it
            answer = {"error": f"{type(error).__name__}: {error}"}
        line.say(answer)
    line.close()


def _socket(name: str) -> socket.socket:
    if name.startswith(INHERITED):
        return socket.socket(fileno=int(name.removeprefix(INHERITED)))
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(name)
    return sock
