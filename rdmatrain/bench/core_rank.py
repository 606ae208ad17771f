"""One rank of the C core, without torch: ``python -m rdmatrain.bench.core_rank``.

Ranks 0 and 1, 2 and 3... are pairs, each joined by one connection of the transport that the
settings name; ``auto`` is shm, as the ranks are on one host. Over verbs that is one RDMA port, as
perftest has. The loops are C (``csrc/coll/pair_run.c``). Rank 0's clock counts, as perftest's
client's does: its partner answers 0 seconds.

Has a launcher's variables, and those of orders.py. What the two of a pair must know of each other
they leave in files beside the conductor's socket.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from rdmatrain import _core
from rdmatrain.bench import orders
from rdmatrain.comm import rdma
from rdmatrain.config import Settings, load_settings, rank_env
from rdmatrain.errors import BootstrapError, RdmatrainError

LOOPBACK = "127.0.0.1"
MEET_S, MEET_POLL_S = 120.0, 0.01  # the conductor has less patience, unless it is told
GUESS_CALLS = 3
# What calls may take: less than the conductor's patience, so that an error says why.
SLOW_S, SLOW_BYTES_PER_S, SLOW_FACTOR = 50.0, 60e6, 15
TOKEN_BYTES = 16


class Rank:
    """Answers the conductor's orders.

    Args:
        rank: its number.
        ranks: how many there are.
        folder: where the files are, empty at first and nobody else's.

    Raises:
        RdmatrainError: it cannot be joined to its partner.

    """

    def __init__(self, rank: int, ranks: int, folder: Path) -> None:
        partner = rank ^ 1
        if partner >= ranks:
            raise BootstrapError(f"rank {rank} of {ranks} has no partner: give an even --ranks")
        settings = load_settings()
        self._rank, self._ranks = rank, ranks
        self._side = rank % 2
        self._transport = "shm" if settings.transport == "auto" else settings.transport
        self._pair = self._join(partner, folder, _argument(self._transport, rank // 2, settings))
        self._op = ""
        self._guess_s = 0.0

    def _join(self, partner: int, folder: Path, argument: str | None) -> _core.Pair:
        """Open the transport and meet the partner; side 0 makes the token."""
        said = _read(folder, partner) if self._side else {"token": os.urandom(TOKEN_BYTES).hex()}
        token = bytes.fromhex(said["token"])
        pair = _core.Pair(self._transport, argument, self._side, token)
        _write(folder, self._rank, {"token": said["token"], "address": pair.address().hex()})
        address = (said if self._side else _read(folder, partner))["address"]
        pair.connect(bytes.fromhex(address), MEET_S)
        return pair

    def hello(self) -> orders.Answer:
        """Return who this is, and what joins it to its partner."""
        return {
            "rank": self._rank,
            "ranks": self._ranks,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "transport": self._transport,
            "versions": {},
        }

    def prepare(self, order: orders.Order) -> orders.Answer:
        """Make the memory for a case, and run it a few times; check the first if asked."""
        self._op = order["op"]
        self._guess_s = order["nbytes"] / SLOW_BYTES_PER_S
        self._pair.reserve(order["nbytes"])
        _, nwrong = self._run(1, check=order["check"])
        seconds, _ = self._run(GUESS_CALLS)
        self._guess_s = sum(seconds) / len(seconds)
        return {"nwrong": nwrong if order["check"] else None, "guess_s": self._guess_s}

    def time(self, order: orders.Order) -> orders.Answer:
        """Make so many calls; seconds of each, or of one of many writes."""
        calls, warmup = order["calls"], order["warmup"]
        if self._op == "pingpong":
            return {"seconds": self._run(warmup + calls)[0][warmup:]}
        if warmup:
            self._run(warmup)
        return {"seconds": self._run(calls)[0]}

    def _run(self, calls: int, check: bool = False) -> tuple[list[float], int]:
        """Run what was prepared: seconds of a call, and how many bytes are wrong."""
        timeout_s = SLOW_S + SLOW_FACTOR * calls * self._guess_s
        if self._op == "pingpong":
            return self._pair.pingpong(calls, timeout_s, check)
        (seconds,), nwrong = self._pair.write(calls, timeout_s, check)
        return [seconds / calls], nwrong

    def drop(self, _order: orders.Order) -> orders.Answer:
        """Free the memory."""
        self._pair.reserve(0)
        return {}

    def end(self) -> None:
        """Leave the partner."""
        self._pair.close()


def _argument(transport: str, pair: int, settings: Settings) -> str | None:
    """Return what the transport of the ranks of a pair is opened with."""
    if transport != "verbs":
        return LOOPBACK if transport == "tcp" else None
    search = rdma.find_rails(settings)
    if not search.rails:
        raise BootstrapError(f"verbs cannot be used: {search.why_not}")
    rail = search.rails[pair % len(search.rails)]
    return rdma.listen_argument([rail], LOOPBACK, settings)


def _write(folder: Path, rank: int, said: dict[str, Any]) -> None:
    """Leave a file for the partner, which finds it whole."""
    part = folder / f"pair.{rank}.part"
    part.touch(mode=0o600)
    part.write_text(json.dumps(said), encoding="utf-8")
    part.rename(folder / f"pair.{rank}")


def _read(folder: Path, rank: int) -> dict[str, Any]:
    """Wait for what a rank leaves."""
    path = folder / f"pair.{rank}"
    deadline = time.monotonic() + MEET_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise BootstrapError(f"rank {rank} has not come within {MEET_S:.0f} s")
        time.sleep(MEET_POLL_S)
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return said


def main() -> int:
    """Serve until the conductor says end."""
    env = rank_env()
    orders.pin_if_asked(env.local_rank or 0)
    folder = Path(os.environ[orders.SOCKET_VARIABLE]).parent
    try:
        rank = Rank(env.rank or 0, env.world_size or 1, folder)
    except (RdmatrainError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the conductor shows it
        return 1
    handlers = {"prepare": rank.prepare, "time": rank.time, "drop": rank.drop}
    orders.serve(rank.hello(), handlers)
    rank.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
