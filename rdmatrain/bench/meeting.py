"""How ranks without torch tell each other what they must know, wherever they are.

Rank 0 listens where a launcher's variables say that rank 0 is; the others connect, and say the
job's token. What all say then goes to all.
"""

import contextlib
import hmac
import socket
import time
from typing import Any

from rdmatrain.bench.agents import first_line
from rdmatrain.bench.orders import Line
from rdmatrain.errors import BootstrapError

MEET_S, POLL_S = 120.0, 0.02  # the conductor has less patience, unless it is told


class Meeting:
    """A connection of each rank with rank 0.

    Args:
        rank: this one's number.
        ranks: how many there are.
        addr: where rank 0 is: a numeric address of its host.
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
        with socket.create_server((addr, port), backlog=len(missing) + 1) as listener:
            while missing:
                listener.settimeout(max(self._deadline - time.monotonic(), 0.001))
                try:
                    sock = listener.accept()[0]
                except TimeoutError as late:
                    names = ", ".join(map(str, sorted(missing)))
                    why = f"rank {names} has not come to {addr}:{port} within {MEET_S:.0f} s"
                    raise BootstrapError(why) from late
                said = None
                with contextlib.suppress(OSError, ValueError):
                    said = first_line(sock)
                rank = _rank_of(said, missing, token)
                if rank is None:
                    sock.close()
                    continue
                sock.settimeout(MEET_S)
                self._lines[rank] = Line(sock)
                missing.remove(rank)

    def _call(self, addr: str, port: int, token: str) -> None:
        while True:
            try:
                sock = socket.create_connection((addr, port), MEET_S)
                break
            except OSError as error:  # rank 0 may not be there yet
                if time.monotonic() > self._deadline:
                    raise BootstrapError(f"rank 0, at {addr}:{port}: {error}") from error
                time.sleep(POLL_S)
        self._lines[0] = Line(sock)
        self._lines[0].say({"rank": self._rank, "token": token})

    def all_gather(self, said: Any) -> list[Any]:
        """Tell all ranks something, in JSON's types, and return what each says, by rank.

        Raises:
            BootstrapError: a rank has ended, or is late.

        """
        if self._rank:
            self._lines[0].say({"said": said})
            found: list[Any] = self._hear(0)
            return found
        every = [said, *(self._hear(rank) for rank in sorted(self._lines))]
        for line in self._lines.values():
            line.say({"said": every})
        return every

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
