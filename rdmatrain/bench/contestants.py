"""Which contestants there are, whether they are installed, and what starts their ranks."""

import importlib.util
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from secrets import token_hex

from rdmatrain.bench import mpi
from rdmatrain.bench.footprint import RANK_BYTES, TENSORS_OF_CALL
from rdmatrain.bench.model import OPS, Case, Entry, Failure
from rdmatrain.bench.orders import DEVICE_VARIABLE, SOCKET_VARIABLE, TOKEN_VARIABLE
from rdmatrain.bench.running import Running
from rdmatrain.errors import SettingError
from rdmatrain.spelling import closest

# An argument list, and the variables to add to this process's.
Command = tuple[list[str], dict[str, str]]

RDMATRAIN = "rdmatrain"
PEERS = ("gloo", "nccl", *mpi.PEERS, "perftest")
ONE_SIDED = frozenset({"write"})
# Over verbs these are perftest's calls, so they are the core's, without torch.
OF_CORE = ONE_SIDED | {"pingpong"}
OF_TORCH = frozenset(OPS) - ONE_SIDED
# Ceilings: what moves and adds the bytes alone, and a call that does nothing.
LIMITS = ("limit", "fake")
OF_LIMITS = frozenset({"all_reduce"})
RDMA_DEVICES = Path("/sys/class/infiniband")


@dataclass(frozen=True)
class Start:
    """How the ranks of a contestant are started.

    Attributes:
        entry: who; two that share one have different ``ops``.
        ops: names of the operations that it has.

    """

    entry: Entry
    ops: frozenset[str]

    def why_not(self, case: Case) -> str:
        """Return why it has no such case; "" where it has."""
        return "" if case.op in self.ops else f"{self.entry.backend} has no {case.op}"

    def commands(self, ranks: int, socket_path: str) -> list[Command]:
        """Return the processes to start; those that are ranks answer orders at the socket."""
        return []

    def memory(self, on_host: int, nbytes: int) -> int:
        """Return the bytes that so many ranks take here, for tensors of that size."""
        return on_host * (RANK_BYTES + TENSORS_OF_CALL * nbytes)

    def open(self, ranks: int, folder: Path) -> Running:
        """Start the ranks.

        Args:
            ranks: how many.
            folder: for its socket and what it writes; empty.

        Raises:
            ContestantError: they did not start.

        """
        from rdmatrain.bench.job import JobOfRanks  # noqa: PLC0415 - it is given a Start

        return JobOfRanks(self, ranks, folder)


@dataclass(frozen=True)
class TorchRanks(Start):
    """Ranks of torch.distributed: processes that find each other through its store.

    Attributes:
        device: where their tensors are, by torch's name.

    """

    device: str = field(default="cpu", kw_only=True)
    module = "rdmatrain.bench.rank"

    def why_not(self, case: Case) -> str:
        """Add what torch has only in one place, and what Gloo cannot divide."""
        place = OPS[case.op].in_place
        if place != "both" and case.in_place != (place == "in"):
            how = "in place" if place == "in" else "out of place"
            return f"torch.distributed has {case.op} only {how}"
        if self.entry.backend == "gloo" and case.redop == "AVG" and "int" in case.dtype:
            return f"Gloo has no AVG of {case.dtype}"
        return super().why_not(case)

    def commands(self, ranks: int, socket_path: str) -> list[Command]:
        """Return one process a rank."""
        argv = [sys.executable, "-m", self.module, self.entry.backend]
        common = {
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "OMP_NUM_THREADS": "1",
            # The old names of some collectives warn in torch 2.13.
            "PYTHONWARNINGS": "ignore::FutureWarning",
            SOCKET_VARIABLE: socket_path,
            DEVICE_VARIABLE: self.device,
            **self._settings(),
        }
        return [
            (list(argv), {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(ranks)
        ]

    def _settings(self) -> dict[str, str]:
        if self.entry.backend != RDMATRAIN:
            return {}
        asked = self.entry.asked
        chosen = {} if asked in ("", "auto") else {"RDMATRAIN_TRANSPORT": asked}
        return {"RDMATRAIN_ARENA": "on", **chosen}


class CoreRanks(TorchRanks):
    """Ranks of the C core, without torch."""

    module = "rdmatrain.bench.core_rank"

    def why_not(self, case: Case) -> str:
        """Leave out what is true of torch only, and add what cannot be on a GPU."""
        if self.device != "cpu" and case.op == "pingpong":
            return "a pingpong is seen by a CPU that looks at its memory, not at a GPU's: see write"
        if self.device != "cpu" and self.entry.asked != "verbs":
            return "only verbs writes into memory of GPUs: give --transport verbs"
        return Start.why_not(self, case)

    def _settings(self) -> dict[str, str]:
        return {**super()._settings(), TOKEN_VARIABLE: token_hex(16)}


class MpiRanks(Start):
    """Ranks that mpirun starts."""

    def why_not(self, case: Case) -> str:
        """Ask MPI."""
        return mpi.why_not(case)

    def commands(self, ranks: int, socket_path: str) -> list[Command]:
        """Return one mpirun."""
        argv, env = mpi.command(self.entry.backend, ranks)
        return [(argv, {**env, SOCKET_VARIABLE: socket_path})]


class Perftest(Start):
    """``ib_write_bw`` and ``ib_write_lat``: programs that are run anew for each case."""

    def memory(self, on_host: int, nbytes: int) -> int:
        """Count the buffers of both ends; the programs are small."""
        return 2 * TENSORS_OF_CALL * nbytes

    def open(self, ranks: int, folder: Path) -> Running:
        """Return what runs them."""
        from rdmatrain.bench.perftest import PerftestWire  # noqa: PLC0415 - seldom there

        return PerftestWire(self, ranks, folder)


class Memory(Start):
    """Starts the memory limit, whose program knows what it cannot do."""

    def memory(self, on_host: int, nbytes: int) -> int:
        """Count a tensor of each of its two processes, which are small."""
        return 2 * nbytes

    def open(self, ranks: int, folder: Path) -> Running:
        """Start its processes."""
        from rdmatrain.bench.memory import MemoryLimit  # noqa: PLC0415 - seldom there

        return MemoryLimit(ranks)


class FakeRank(TorchRanks):
    """Starts the one rank of a group that does nothing."""

    module = "rdmatrain.bench.fake_rank"

    def memory(self, on_host: int, nbytes: int) -> int:
        """Count one rank."""
        return super().memory(1, nbytes)

    def open(self, ranks: int, folder: Path) -> Running:
        """Start one rank, however many the others have."""
        return super().open(1, folder)


def find(names: Sequence[str], transports: Sequence[str]) -> tuple[list[Start], list[Failure]]:
    """Find the contestants of a sweep: rdmatrain for each transport, then its peers, in order.

    Args:
        names: of peers, from ``PEERS`` and ``LIMITS``.
        transports: auto, shm, tcp, verbs.

    Returns:
        What can be started, and what cannot, with how to get it.

    Raises:
        SettingError: there is no such peer.

    """
    starts: list[Start] = []
    failures: list[Failure] = []
    for asked in dict.fromkeys(transports):
        starts += _of_rdmatrain(Entry(RDMATRAIN, asked))
    for name in dict.fromkeys(names):
        if name not in (*PEERS, *LIMITS):
            raise SettingError(unknown(name, (*PEERS, *LIMITS)))
        start = _start(Entry(name))
        why = missing(name)
        if why:
            failures.append(Failure(start.entry, None, why))
        else:
            starts.append(start)
    return starts, failures


def on_device(starts: Sequence[Start], device: str, operations: Sequence[str]) -> list[Start]:
    """Choose where rdmatrain's tensors are.

    Args:
        starts: the contestants.
        device: cpu; cuda; auto: cuda where NCCL takes part, so that both have the same to do, but
            for ranks without torch.
        operations: of the sweep.

    Raises:
        SettingError: there is no such device.

    """
    kinds = (TorchRanks, CoreRanks) if device == "cuda" else (TorchRanks,)
    if device == "auto":
        device = "cuda" if any(start.entry.backend == "nccl" for start in starts) else "cpu"
    if device == "cuda" and (why := _no_gpu_for(starts, operations)):
        raise SettingError(f"--device cuda: {why}")
    return [_placed(start, device) if type(start) in kinds else start for start in starts]


def _no_gpu_for(starts: Sequence[Start], operations: Sequence[str]) -> str:
    """Return why there is none; who needs no torch for these operations need not have it."""
    needs_torch = any(type(start) is TorchRanks and start.ops & {*operations} for start in starts)
    return _no_cuda() if needs_torch else _no_gpu_memory()


def _placed(start: Start, device: str) -> Start:
    if isinstance(start, TorchRanks) and start.entry.backend == RDMATRAIN:
        return replace(start, device=device)
    return start


def missing(name: str) -> str:
    """Return why a peer cannot run here, and how to get it; "" where it can."""
    checks: dict[str, Callable[[], str]] = {"nccl": _no_nccl, "perftest": _no_perftest}
    if name in mpi.PEERS:
        return mpi.missing(name)
    return checks[name]() if name in checks else ""


def overview() -> list[str]:
    """Say of each peer its version and where it is, or why it is not there."""
    lines = []
    for name in PEERS:
        found = mpi.environment(name) if name in mpi.PEERS else None
        here = f"{found.version:<10} {found.folder}" if found else _where(name)
        lines.append(f"{name:<10} {missing(name) or here}")
    return lines


def _where(name: str) -> str:
    if name == "perftest":
        return str(shutil.which("ib_write_bw"))
    return f"with torch {metadata.version('torch')}"


def _of_rdmatrain(entry: Entry) -> list[Start]:
    of_core = OF_CORE if entry.asked == "verbs" else ONE_SIDED
    return [TorchRanks(entry, OF_TORCH - of_core), CoreRanks(entry, of_core)]


def _start(entry: Entry) -> Start:
    if entry.backend in mpi.PEERS:
        return MpiRanks(entry, mpi.OPS_OF_MPI)
    if entry.backend == "perftest":
        return Perftest(entry, OF_CORE)
    if entry.backend in LIMITS:
        return (Memory if entry.backend == "limit" else FakeRank)(entry, OF_LIMITS)
    return TorchRanks(entry, OF_TORCH, device="cuda" if entry.backend == "nccl" else "cpu")


def unknown(name: str, known: Sequence[str]) -> str:
    """Say that a name is none of those that there are, and which was meant."""
    guess = closest(name, known)
    hint = f"did you mean {guess}?" if guess else f"the peers are {', '.join(known)}"
    return f"{name!r} is no peer: {hint}"


def _no_nccl() -> str:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch  # noqa: PLC0415 - takes seconds

    if not torch.distributed.is_nccl_available():
        return f"torch {torch.__version__} has no NCCL: install torch's build for CUDA"
    why = _no_cuda()
    return f"{why}: NCCL needs GPUs" if why else ""


def _no_cuda() -> str:
    import torch  # noqa: PLC0415 - takes seconds

    return "" if torch.cuda.device_count() else "torch finds no CUDA device"


def _no_gpu_memory() -> str:
    from rdmatrain.bench import cuda_memory  # noqa: PLC0415 - seldom needed

    return cuda_memory.why_not()


def _no_perftest() -> str:
    if shutil.which("ib_write_bw") is None:
        return "there is no ib_write_bw in PATH: install the package perftest"
    if not (RDMA_DEVICES.is_dir() and any(RDMA_DEVICES.iterdir())):
        return f"there is no RDMA device: {RDMA_DEVICES} is empty"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
