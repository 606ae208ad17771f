"""One rank of the C core, without torch: ``python -m rdmatrain.bench.core_rank``.

Ranks 0 and 1, 2 and 3... are pairs, each joined by one connection of the transport that the
settings name; ``auto`` is shm on one host, and between hosts verbs where both can, else tcp. Over
verbs that is one RDMA port, as perftest has. The loops are C (``csrc/coll/pair_run.c``). Rank 0's
clock counts, as perftest's client's does: its partner answers 0 seconds.

Where the tensors are to be on cuda, what is written is a GPU's memory, of which the NIC has the
dmabuf: that of the local rank's number, whose NIC is by number too.

Has a launcher's variables, and those of orders.py.
"""

import hashlib
import os
import socket
import sys

import numpy as np

from rdmatrain import _core
from rdmatrain.bench import orders
from rdmatrain.bench.cuda_memory import CudaMemory
from rdmatrain.bench.meeting import MEET_S, Meeting
from rdmatrain.comm import rdma
from rdmatrain.comm.host import host_id, route_from
from rdmatrain.config import Settings, load_settings, rank_env
from rdmatrain.errors import BootstrapError, RdmatrainError

GUESS_CALLS = 3
# What calls may take: less than the conductor's patience, so that an error says why.
SLOW_S, SLOW_BYTES_PER_S, SLOW_FACTOR = 50.0, 60e6, 15
TOKEN_BYTES = 16
CPU = "cpu"


class GpuHalves:
    """Memory of a GPU to write between: the first half goes out, what comes is in the second.

    No CPU sees it, so what is compared is copied from there.

    Args:
        nbytes: of each half.
        index: of the GPU.

    Raises:
        CudaError: there is none to be had.

    """

    def __init__(self, nbytes: int, index: int) -> None:
        self._nbytes = nbytes
        self._memory = CudaMemory(2 * nbytes, index)
        self._wanted = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)

    def lend(self, pair: _core.Pair, writes: bool) -> None:
        """Have the pair use it; who is written to has no byte of what should come."""
        self._memory.write(0, self._wanted if writes else ~self._wanted)
        self._memory.write(self._nbytes, ~self._wanted)
        pair.reserve_dmabuf(self._memory.fd, 0, self._memory.address, 2 * self._nbytes)

    def count_wrong(self) -> int:
        """Count the bytes that came and are not what was written."""
        return int(np.count_nonzero(self._memory.read(self._nbytes, self._nbytes) != self._wanted))

    def close(self) -> None:
        """Free it; the pair uses it no more."""
        self._memory.close()


class Rank:
    """Answers the conductor's orders.

    Args:
        rank: its number.
        ranks: how many there are.
        meeting: of all of them.
        token: that only these ranks know.
        addr: where this host is reached by those of others.

    Raises:
        RdmatrainError: it cannot be joined to its partner.

    """

    def __init__(self, rank: int, ranks: int, meeting: Meeting, token: str, addr: str) -> None:
        settings = load_settings()
        self._rank, self._ranks = rank, ranks
        self._transport = _transport(rank, meeting, settings)
        argument = _argument(self._transport, rank // 2, addr, settings)
        secret = hashlib.sha256(f"{token} {rank // 2}".encode()).digest()[:TOKEN_BYTES]
        self._pair = _core.Pair(self._transport, argument, rank % 2, secret)
        addresses = meeting.all_gather(self._pair.address().hex())
        self._pair.connect(bytes.fromhex(addresses[rank ^ 1]), MEET_S)
        self._device = os.environ.get(orders.DEVICE_VARIABLE, CPU)
        self._gpu: GpuHalves | None = None
        self._op = ""
        self._guess_s = 0.0

    def hello(self) -> orders.Answer:
        """Return who this is, and what joins it to its partner."""
        return {
            "rank": self._rank,
            "ranks": self._ranks,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "transport": self._transport,
            "device": self._device,
            "versions": {},
        }

    def prepare(self, order: orders.Order) -> orders.Answer:
        """Make the memory for a case, and run it a few times; check the first if asked."""
        self._op = order["op"]
        self._guess_s = order["nbytes"] / SLOW_BYTES_PER_S
        nwrong = self._prepare(order["nbytes"], order["check"])
        seconds, _ = self._run(GUESS_CALLS)
        self._guess_s = sum(seconds) / len(seconds)
        return {"nwrong": nwrong if order["check"] else None, "guess_s": self._guess_s}

    def time(self, order: orders.Order) -> orders.Answer:
        """Make so many calls; seconds of each, which of writes is their mean."""
        calls, warmup = order["calls"], order["warmup"]
        if self._op == "pingpong":
            return {"seconds": self._run(warmup + calls)[0][warmup:]}
        if warmup:
            self._run(warmup)
        return {"seconds": self._run(calls)[0]}

    def _prepare(self, nbytes: int, check: bool) -> int:
        """Make the memory, and run once; how many bytes are wrong."""
        self._free()
        if self._device == CPU:
            self._pair.reserve(nbytes)
            return self._run(1, check)[1]
        self._gpu = GpuHalves(nbytes, rank_env().local_rank or 0)
        self._gpu.lend(self._pair, writes=self._rank % 2 == 0)
        self._run(1)
        return self._gpu.count_wrong() if check and self._rank % 2 else 0

    def _free(self) -> None:
        self._pair.reserve(0)
        if self._gpu is not None:
            self._gpu.close()
            self._gpu = None

    def _run(self, calls: int, check: bool = False) -> tuple[list[float], int]:
        """Run what was prepared: seconds of a call, and how many bytes are wrong."""
        timeout_s = SLOW_S + SLOW_FACTOR * calls * self._guess_s
        if self._op == "pingpong":
            return self._pair.pingpong(calls, timeout_s, check)
        (seconds,), nwrong = self._pair.write(calls, timeout_s, check)
        return [seconds / calls] * calls, nwrong

    def drop(self, _order: orders.Order) -> orders.Answer:
        """Free the memory."""
        self._free()
        return {}

    def end(self) -> None:
        """Leave the partner."""
        try:
            self._free()
        finally:
            self._pair.close()


def _transport(rank: int, meeting: Meeting, settings: Settings) -> str:
    """Return what joins this rank to its partner."""
    if settings.transport != "auto":
        return settings.transport
    hosts = meeting.all_gather(host_id())
    apart = [hosts[each] != hosts[each ^ 1] for each in range(len(hosts))]
    if not any(apart):
        return "shm"
    can = meeting.all_gather(bool(rdma.find_rails(settings).rails))
    if not apart[rank]:
        return "shm"
    return "verbs" if can[rank] and can[rank ^ 1] else "tcp"


def _argument(transport: str, pair: int, addr: str, settings: Settings) -> str | None:
    """Return what the transport of the ranks of a pair is opened with."""
    if transport != "verbs":
        return addr if transport == "tcp" else None
    search = rdma.find_rails(settings)
    if not search.rails:
        raise BootstrapError(f"verbs cannot be used: {search.why_not}")
    rail = search.rails[pair % len(search.rails)]
    return rdma.listen_argument([rail], addr, settings)


def _join() -> Rank:
    """Meet the other ranks, and be joined to the partner."""
    env = rank_env()
    rank, ranks = env.rank or 0, env.world_size or 1
    if ranks % 2:
        raise BootstrapError(f"rank {ranks - 1} of {ranks} has no partner: give an even --ranks")
    token = os.environ[orders.TOKEN_VARIABLE]
    leader, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    meeting = Meeting(rank, ranks, leader, port, token)
    addr = load_settings().addr or route_from(leader) or leader
    joined = Rank(rank, ranks, meeting, token, addr)
    meeting.close()
    return joined


def main() -> int:
    """Serve until the conductor says end."""
    orders.pin_if_asked(rank_env().local_rank or 0)
    try:
        rank = _join()
    except (RdmatrainError, OSError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the conductor shows it
        return 1
    handlers = {"prepare": rank.prepare, "time": rank.time, "drop": rank.drop}
    orders.serve(rank.hello(), handlers)
    rank.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
