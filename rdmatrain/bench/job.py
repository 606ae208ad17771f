"""A contestant that is a job of ranks: starts them, asks them, and leaves none behind."""

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rdmatrain.bench.model import Case
from rdmatrain.bench.orders import SOCKET_VARIABLE, Answer, Line, Order
from rdmatrain.bench.running import ContestantError, Prepared
from rdmatrain.errors import SettingError

if TYPE_CHECKING:
    from rdmatrain.bench.contestants import Start

START_S, START_OF_RANK_S = 60.0, 2.0  # until all ranks have said hello
POLL_S = 0.1
GRACE_S = 5.0  # what the others have once a rank has failed: they may wait for it for ever
END_S = 2.0  # from asking processes to end to a harder way
# What an order may take: a machine with other work to do is not a rank that hangs.
SLOW_S, SLOW_BYTES_PER_S, SLOW_FACTOR = 60.0, 50e6, 20
LAST_LINES, LAST_BYTES = 5, 4096
MAX_SOCKET_PATH = 107
_PR_SET_PDEATHSIG = 1


class _Rank:
    """The other end of a rank: its line, and a handle of its process that cannot be another's."""

    def __init__(self, sock: socket.socket, line: Line, hello: Answer) -> None:
        self.sock = sock
        self.line = line
        self.hello = hello
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4)
        self.pid = int.from_bytes(credentials, sys.byteorder)
        self._process = -1
        with contextlib.suppress(OSError):  # a kernel before 5.3, or a process that has ended
            self._process = os.pidfd_open(self.pid)

    @property
    def name(self) -> str:
        return f"rank {self.hello['rank']} on {self.hello['host']}"

    def kill(self) -> None:
        """Kill a rank that is no child of ours, as mpirun's are."""
        if self._process >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def close(self) -> None:
        self.line.close()
        if self._process >= 0:
            os.close(self._process)


class JobOfRanks:
    """The ranks of one contestant; see ``rdmatrain.bench.running.Running``.

    Start it in the main thread, before there are others: ranks die with the thread that forks them.

    Args:
        start: who, and the processes.
        ranks: how many say hello.
        folder: for the socket, and what the ranks write; nothing else is in it.

    Raises:
        ContestantError: a process cannot be started, ended, or a rank did not say hello in time.
        SettingError: the folder's name is too long for a socket.

    """

    def __init__(self, start: "Start", ranks: int, folder: Path) -> None:
        self._start = start
        self._entry = start.entry
        self._num_ranks = ranks
        self._ranks: dict[int, _Rank] = {}
        self._hellos: dict[int, Answer] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._guess_s = 0.0
        self._closed = False
        self._folder = folder
        self._path = str(folder / "orders")
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH:
            raise SettingError(f"TMPDIR: {folder} is too long for a socket: choose a shorter one")
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(self._path)
            self._listener.listen(ranks)
            self._spawn_all()
            self._meet()
        except OSError as error:
            self._give_up(f"cannot be started: {error}")
        except BaseException:
            self._end(polite=False)
            raise

    def _spawn_all(self) -> None:
        commands = self._start.commands(self._num_ranks, self._path)
        # A launcher of ranks ends them when it is asked to.
        last_wish = signal.SIGKILL if len(commands) == self._num_ranks else signal.SIGTERM
        for argv, extra in commands:
            self._spawn(argv, os.environ | {SOCKET_VARIABLE: self._path} | extra, last_wish)

    def _spawn(self, argv: list[str], environment: dict[str, str], last_wish: int) -> None:
        with self._output(len(self._processes)).open("wb") as out:
            process = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=child_setup(last_wish),  # noqa: PLW1509 - no thread yet
            )
        self._processes.append(process)

    def _meet(self) -> None:
        """Wait until all ranks have said hello."""
        patience_s = START_S + START_OF_RANK_S * self._num_ranks
        deadline = time.monotonic() + patience_s
        while len(self._ranks) < self._num_ranks:
            for index, process in enumerate(self._processes):
                if process.poll() is not None:
                    self._give_up(f"{self._how_ended(index)} before it was ready", index)
            if time.monotonic() > deadline:
                missing = sorted(set(range(self._num_ranks)) - set(self._ranks))
                names = ", ".join(map(str, missing))
                self._give_up(f"rank {names} was not ready after {patience_s:.0f} s", missing[0])
            self._listener.settimeout(POLL_S)
            with contextlib.suppress(TimeoutError):
                self._welcome(self._listener.accept()[0])

    def _welcome(self, sock: socket.socket) -> None:
        sock.settimeout(START_S)
        line = Line(sock)
        hello = line.hear()
        if hello is None:  # it has ended, and its exit tells more
            line.close()
            return
        self._ranks[hello["rank"]] = _Rank(sock, line, hello)
        self._hellos[hello["rank"]] = hello

    @property
    def transport(self) -> str:
        """What joins the ranks, by all that any of them says."""
        said = {part for hello in self._hellos.values() for part in hello["transport"].split("+")}
        return "+".join(sorted(said - {""}))

    @property
    def device(self) -> str:
        """Where the tensors are; ranks without torch have them in the host's memory."""
        return "+".join(sorted({hello.get("device", "cpu") for hello in self._hellos.values()}))

    @property
    def hosts(self) -> int:
        """Number of hosts that the ranks are on."""
        return len({hello["host"] for hello in self._hellos.values()})

    @property
    def versions(self) -> dict[str, str]:
        """Versions of libraries, by name."""
        return {
            name: text for each in self._hellos.values() for name, text in each["versions"].items()
        }

    def why_not(self, case: Case) -> str:
        """Return why it has no such case; "" where it has."""
        return self._start.why_not(case)

    def prepare(self, case: Case, check: bool) -> Prepared:
        """Allocate, run the call once, and check it if asked."""
        order = {"do": "prepare", **asdict(case), "check": check}
        bytes_of_all = case.nbytes * self._num_ranks
        answers = self._ask(order, SLOW_S + bytes_of_all / SLOW_BYTES_PER_S)
        wrong = [answer["nwrong"] for answer in answers]
        self._guess_s = max(answer["guess_s"] for answer in answers)
        return Prepared(sum(wrong) if None not in wrong else None, self._guess_s)

    def time(self, calls: int, warmup: int) -> list[list[float]]:
        """Make the calls; seconds of each, by rank."""
        order = {"do": "time", "calls": calls, "warmup": warmup}
        answers = self._ask(order, SLOW_S + SLOW_FACTOR * (calls + warmup) * self._guess_s)
        return [answer["seconds"] for answer in answers]

    def drop(self) -> None:
        """Free the tensors."""
        self._ask({"do": "drop"}, SLOW_S)

    def _ask(self, order: Order, timeout_s: float) -> list[Answer]:
        """Give all ranks an order and return their answers, by rank.

        If a rank fails, the others may wait for it for ever, and the job is given up; if they all
        answer all the same, they are together again, and it goes on.

        """
        if self._closed:
            raise ContestantError(f"{self._entry} has ended", gone=True)
        for number, rank in self._ranks.items():
            rank.sock.settimeout(timeout_s)
            try:
                rank.line.say(order)
            except OSError:
                self._lose(number)
        answers = self._answers(timeout_s)
        failed = [number for number, answer in answers.items() if "error" in answer]
        if failed:
            raise ContestantError(self._error_of(failed[0], answers), gone=False)
        return [answers[number] for number in sorted(answers)]

    def _answers(self, timeout_s: float) -> dict[int, Answer]:
        """Return what all ranks answer, in the order of their answers."""
        deadline = time.monotonic() + timeout_s
        answers: dict[int, Answer] = {}
        failed = -1
        while waiting := sorted(set(self._ranks) - set(answers)):
            ready = self._ready(waiting, deadline)
            if not ready and failed >= 0:
                self._give_up(self._error_of(failed, answers), failed)
            if not ready:
                names = ", ".join(self._ranks[number].name for number in waiting)
                self._give_up(f"{names} did not answer within {timeout_s:.0f} s", waiting[0])
            for number in ready:
                answers[number] = self._hear(number)
                if "error" in answers[number] and failed < 0:
                    failed = number
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        return answers

    def _error_of(self, number: int, answers: Mapping[int, Answer]) -> str:
        return f"{self._ranks[number].name}: {answers[number]['error']}"

    def _ready(self, waiting: Iterable[int], deadline: float) -> list[int]:
        """Wait until some of the ranks have answered; none if the time is over."""
        with selectors.DefaultSelector() as selector:
            for number in waiting:
                selector.register(self._ranks[number].sock, selectors.EVENT_READ, number)
            found = selector.select(max(deadline - time.monotonic(), 0.0))
        return [key.data for key, _ in found]

    def _hear(self, number: int) -> Answer:
        try:
            answer = self._ranks[number].line.hear()
        except (OSError, ValueError):  # it died, or was stopped, within a line
            answer = None
        return answer if answer is not None else self._lose(number)

    def _lose(self, number: int) -> NoReturn:
        """Give up a job of which one rank has ended, or is about to."""
        rank = self._ranks[number]
        for index, process in enumerate(self._processes):
            if process.pid == rank.pid:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_S)
                self._give_up(f"{rank.name} {self._status_of(index)}", index)
        self._give_up(f"{rank.name} has ended")

    def _how_ended(self, index: int) -> str:
        """Return a sentence's begin: rank 1 was killed by SIGKILL."""
        alone = len(self._processes) == self._num_ranks
        argv = self._processes[index].args
        name = f"rank {index}" if alone else str(argv[0] if isinstance(argv, list) else argv)
        return f"{name} on {socket.gethostname()} {self._status_of(index)}"

    def _status_of(self, index: int) -> str:
        status = self._processes[index].poll()
        if status is None:
            return "has hung up"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with exit status {status}"

    def _give_up(self, text: str, index: int = 0) -> NoReturn:
        """End the job and say why, with what the process of that index wrote last."""
        words = self._last_words(min(index, len(self._processes) - 1))
        self._end(polite=False)
        raise ContestantError(f"{text}{words}", gone=True)

    def _output(self, index: int) -> Path:
        return self._folder / f"{index}.out"

    def _last_words(self, index: int) -> str:
        if index < 0:
            return ""
        with contextlib.suppress(OSError), self._output(index).open("rb") as out:
            size = out.seek(0, os.SEEK_END)
            out.seek(max(size - LAST_BYTES, 0))
            lines = out.read().decode(errors="replace").splitlines()
            last = [line.strip() for line in lines if line.strip()][-LAST_LINES:]
            return f"; it wrote: {' | '.join(last)}" if last else ""
        return ""

    def close(self) -> None:
        """End the ranks: ask, then SIGTERM, then SIGKILL."""
        self._end(polite=True)

    def _end(self, *, polite: bool) -> None:
        if self._closed:
            return
        self._closed = True
        self._listener.close()
        if polite:
            for rank in self._ranks.values():
                with contextlib.suppress(OSError):
                    rank.line.say({"do": "end"})
            self._wait_for_end()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes:
                if process.poll() is None:  # else its number may be another's by now
                    os.killpg(process.pid, number)
            if number == signal.SIGKILL:
                for rank in self._ranks.values():
                    rank.kill()
            self._wait_for_end()
        for rank in self._ranks.values():
            rank.close()

    def _wait_for_end(self) -> None:
        deadline = time.monotonic() + END_S
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.0))


def child_setup(last_wish: int) -> Callable[[], None]:
    """Return what a child runs between fork and exec.

    It gets that signal when this process dies, whatever of, and a group of its own, so that Ctrl-C
    in a terminal is for the conductor to handle. It stays in this session: where the kernel
    schedules sessions as groups, a rank in its own could not yield its CPU to another one.

    """
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    parent = os.getpid()

    def in_child() -> None:
        os.setpgid(0, 0)
        prctl(_PR_SET_PDEATHSIG, last_wish, 0, 0, 0)
        if os.getppid() != parent:  # it died before prctl: no signal will come
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child
