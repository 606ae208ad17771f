"""How ranks without torch tell each other what they must know, wherever they are.

Rank 0 listens where a launcher's variables say that rank 0 is; the others connect, and say the
job's token. What all say then goes to all.
"""

import hmac
import selectors
import socket
import time
from contextlib import ExitStack, suppress
from typing import Any

from rdmatrain.bench.agents import first_line
from rdmatrain.bench.orders import Line
from rdmatrain.errors import BootstrapError

MEET_S, POLL_S = 120.0, 0.02  # the conductor has less patience, unless it is told
HEAR_S = 1.0  # a caller that has begun to speak


class Meeting:
    """A connection of each rank with rank 0.

    Args:
        rank: this one's number.
        ranks: how many there are.
        addr: where rank 0 is: its host's name, or an address of it.
        port: a free one there.
        token: that only these ranks know.

    Raises:
        BootstrapError: some did not come.

    """

    def __init__(self, rank: int, ranks: int, addr: str, port: int, token: str) -> None:
        self._rank = rank
        self._deadline = time.monotonic() + MEET_S
        self._lines: dict[int, Line] = {}  # of the others; of another rank than 0, rank 0's
        if rank == 0:
            self._welcome(set(range(1, ranks)), addr, port, token)
        else:
            self._call(addr, port, token)

    def _welcome(self, missing: set[int], addr: str, port: int, token: str) -> None:
        with ExitStack() as stack:
            listener = stack.enter_context(
                socket.create_server((addr, port), backlog=len(missing) + 1)
            )
            callers = stack.enter_context(selectors.DefaultSelector())
            callers.register(listener, selectors.EVENT_READ)
            while missing:
                left_s = self._deadline - time.monotonic()
                ready = callers.select(max(left_s, 0.001))
                if not ready or left_s <= 0:
                    names = ", ".join(map(str, sorted(missing)))
                    why = f"rank {names} has not come to {addr}:{port} within {MEET_S:.0f} s"
                    raise BootstrapError(why)
                for key, _ in ready:
                    if key.fileobj is listener:
                        # Who says nothing keeps nobody waiting: all are heard together.
                        caller = stack.enter_context(listener.accept()[0])
                        callers.register(caller, selectors.EVENT_READ)
                    else:
                        callers.unregister(key.fileobj)
                        self._hear_out(key.fileobj, missing, token)

    def _hear_out(self, caller: Any, missing: set[int], token: str) -> None:
        """Let a caller say who it is; a missing rank's connection is kept."""
        said = None
        with suppress(OSError, ValueError):
            said = first_line(caller, HEAR_S)
        rank = _rank_of(said, missing, token)
        if rank is None:
            caller.close()
            return
        sock = caller.dup()
        sock.settimeout(MEET_S)
        self._lines[rank] = Line(sock)
        missing.remove(rank)

    def _call(self, addr: str, port: int, token: str) -> None:
        while True:
            left_s = max(self._deadline - time.monotonic(), 0.001)
            try:
                sock = socket.create_connection((addr, port), left_s)
                break
            except OSError as error:  # rank 0 may not be there yet
                if time.monotonic() > self._deadline:
                    raise BootstrapError(f"rank 0, at {addr}:{port}: {error}") from error
                time.sleep(POLL_S)
        sock.settimeout(MEET_S)
        self._lines[0] = Line(sock)
        self._say(0, {"rank": self._rank, "token": token})

    def all_gather(self, said: Any) -> list[Any]:
        """Tell all ranks something, in JSON's types, and return what each says, by rank.

        Raises:
            BootstrapError: a rank has ended, or is late.

        """
        if self._rank:
            self._say(0, {"said": said})
            found: list[Any] = self._hear(0)
            return found
        every = [said, *(self._hear(rank) for rank in sorted(self._lines))]
        for rank in self._lines:
            self._say(rank, {"said": every})
        return every

    def _say(self, rank: int, message: dict[str, Any]) -> None:
        try:
            self._lines[rank].say(message)
        except OSError as error:
            raise BootstrapError(f"rank {rank} hears nothing: {error}") from error

    def _hear(self, rank: int) -> Any:
        try:
            heard = self._lines[rank].hear()
        except OSError as error:
            raise BootstrapError(f"rank {rank} says nothing: {error}") from error
        if heard is None:
            raise BootstrapError(f"rank {rank} has ended")
        return heard["said"]

    def close(self) -> None:
        """Hang up."""
        for line in self._lines.values():
            line.close()


def _rank_of(said: Any, missing: set[int], token: str) -> int | None:
    """Return which of the missing ranks a caller is; None for a stranger."""
    if not isinstance(said, dict) or not isinstance(said.get("rank"), int):
        return None
    known = hmac.compare_digest(str(said.get("token", "")).encode(), token.encode())
    rank: int = said["rank"]
    return rank if known and rank in missing else None
