"""``torchrun --rdzv-backend=rdmatrain``: torch's own launcher over our gang.

torchrun starts and watches the workers; the gang, whose loop is in a thread, says who takes part,
and serves the store. ``--rdzv-endpoint HOST:PORT`` names the leader: the node that has HOST's
address. The secret is in ``RDMATRAIN_SECRET_FILE`` or ``RDMATRAIN_SECRET``.
What ``--rdzv-conf`` may say:

=====================  =============================================================================
``node_rank=N``        this node's rank; on all nodes or none
``join_timeout=S``     longest wait for the gang to be complete, in seconds (600)
``last_call_timeout``  once the fewest nodes are there, how long to wait for more (30)
``insecure=1``         several nodes may do without a secret
=====================  =============================================================================

A node that comes after the start waits for the next round: it does not make the others start again.

Only torch imports this module, so this one may import torch.
"""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NoReturn

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from rdmatrain.config import inherited_environment, set_default
from rdmatrain.errors import SettingError
from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.channel import LINGER_S
from rdmatrain.launcher.gang import join
from rdmatrain.launcher.job import Gang, Job, Limits, Program
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.member import Member
from rdmatrain.launcher.messages import (
    EndRound,
    Fault,
    Finish,
    Report,
    Round,
    StopAsked,
    Stopped,
    StopWorkers,
)
from rdmatrain.launcher.store import LOOPBACK
from rdmatrain.secret import load_secret

logger = logging.getLogger(__name__)

NAME = "rdmatrain"
# torchrun counts the restarts, and takes 30 s to kill a worker that ignores SIGTERM.
LIMITS = Limits(max_restarts=1 << 30, shutdown_s=40.0, grace_s=40.0, hang_s=0.0)
FAREWELL_S = 60.0
# An agent that hears of the end before its own worker has exited would not tell its exit code: the
# peers of a rank that fails see its connections close before its process is gone. In seconds.
HEED_S = 2.0
CALL_S = 30.0
DEFAULT_PORT = 29400  # torchrun's


def get_handler() -> Callable[[RendezvousParameters], RendezvousHandler]:
    """Return what makes a handler; torchrun finds it by the entry point ``torchrun.handlers``."""
    return GangRendezvous


class GangRendezvous(RendezvousHandler):  # type: ignore[misc] # torch is skipped, so it is Any
    """A node of the gang, as torchrun's agent sees it.

    Args:
        params: what torchrun was told.

    Raises:
        SettingError: an endpoint, a secret or a parameter is missing or wrong.

    """

    def __init__(self, params: RendezvousParameters) -> None:
        self._run_id: str = params.run_id
        self._job = job_of(params)
        self._secret = load_secret(inherited_environment())
        self._changed = threading.Condition()
        self._thread: _LoopThread | None = None
        # What follows changes in the loop's thread alone.
        self._member: Member | None = None
        self._round: Round | None = None  # that the agent has workers of, or is to start them
        self._number = 0  # of the last round
        self._ended = False  # the round has, and the agent has still to stop its workers
        self._finish: Finish | None = None
        self._closed = False
        self._heed_at = 0.0  # when the agent is to know of the end; monotonic, in seconds

    # What torchrun's agent asks.

    def get_backend(self) -> str:
        """Return the name of the backend."""
        return NAME

    def get_run_id(self) -> str:
        """Return ``--rdzv-id``."""
        return self._run_id

    @property
    def use_agent_store(self) -> bool:
        """Workers use the gang's store: each round has a new one."""
        return True

    def is_closed(self) -> bool:
        """Tell whether the job is over."""
        return self._closed

    def set_closed(self) -> None:
        """End the job on all nodes."""
        self._closed = True
        if self._thread is not None:
            self._thread.call(self._ask_for_the_end)

    def num_nodes_waiting(self) -> int:
        """Return 1 if the agent is to stop its workers and come again, else 0."""
        return int((self._ended or self._closed) and time.monotonic() >= self._heed_at)

    def next_rendezvous(self) -> RendezvousInfo:
        """Take part in the next round; the agent has stopped the workers of the one before.

        Raises:
            RendezvousClosedError: the job is over.
            RendezvousTimeoutError: the gang was not complete in time; says who was missing.
            RendezvousConnectionError: the gang refused this node, or was lost.

        """
        if self._thread is None:
            self._join()
        else:
            self._thread.call(self._leave_round)
        with self._changed:
            self._changed.wait_for(lambda: self._round or self._finish)
        if self._finish is not None or self._round is None or self._member is None:
            _raise(self._finish)
        port = self._member.store_port
        if not self._job.gang.alone:
            set_default("RDMATRAIN_ADDR", self._round.node.address)  # MASTER_ADDR is a door
        return RendezvousInfo(
            PrefixStore("torchrun", TCPStore(LOOPBACK, port)),
            self._round.mine,
            len(self._round.nodes),
            RendezvousStoreInfo(LOOPBACK, port),
        )

    def shutdown(self) -> bool:
        """End the job everywhere, and wait until no node has workers any more."""
        if self._thread is None:
            return True
        if self._finish is None:
            self.set_closed()
            self._thread.call(self._leave_round)
        with self._changed:
            self._changed.wait_for(lambda: self._finish, FAREWELL_S)
        self._thread.close(self._hang_up)
        self._thread = None
        return self._finish is not None

    def _join(self) -> None:
        thread = _LoopThread()

        def begin() -> None:
            self._member = join(thread.loop, self._job, self._secret, self)

        try:
            thread.call(begin)
        except SettingError:
            thread.close(self._hang_up)
            raise
        self._thread = thread

    # In the loop's thread: what the agent wants of the gang.

    def _leave_round(self) -> None:
        """Say that no worker of the round is left."""
        if self._round is None or self._member is None:
            return
        self._round = None
        if self._ended or self._closed:
            self._ended = False
            self._member.say(Stopped(round=self._number))
        else:
            host = socket.gethostname()
            fault = Fault(kind="exit", host=host, detail="its workers failed")
            self._member.say(Report(round=self._number, fault=fault))

    def _ask_for_the_end(self) -> None:
        if self._member is not None:
            self._member.say(StopAsked(signal="SIGTERM"))

    def _hang_up(self) -> None:
        if self._member is not None:
            self._member.close()

    # In the loop's thread: what the gang wants of the agent.

    def on_round(self, round: Round) -> None:
        """Let the agent start its workers."""
        with self._changed:
            self._round, self._number, self._ended = round, round.number, False
            self._changed.notify_all()

    def on_end_round(self, end: EndRound) -> None:
        """Let the agent stop its workers; it asks for the next round then."""
        self.on_note(f"another round follows this one: {end.fault.host}: {end.fault.detail}")
        self._stop_workers()

    def on_stop_workers(self, stop: StopWorkers) -> None:
        """Let the agent stop its workers, for good."""
        self._closed = True
        self._stop_workers()

    def on_finish(self, finish: Finish) -> None:
        """Let the agent end."""
        with self._changed:
            self._finish, self._closed = finish, True
            self._changed.notify_all()

    def on_note(self, text: str) -> None:
        """Tell the user, as torchrun does."""
        logger.warning("%s", text)

    def _stop_workers(self) -> None:
        self._ended = self._round is not None
        self._heed_at = time.monotonic() + HEED_S
        if not self._ended and self._member is not None:  # the agent has stopped them, and waits
            self._member.say(Stopped(round=self._number))


class _LoopThread:
    """The gang's loop, in a thread of its own that ends with the process."""

    def __init__(self) -> None:
        self.loop = Loop()
        self._done = False
        self._calls: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._waker, self._woken = socket.socketpair()
        self.loop.watch(self._woken.fileno(), self._take_calls)
        self._thread = threading.Thread(target=self._run, name="rdmatrain gang", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Call in the thread, and raise here what it raises."""
        future: Future[None] = Future()
        self._calls.append((function, future))
        self._waker.send(b"c")
        future.result(CALL_S)

    def close(self, last: Callable[[], None]) -> None:
        """Call in the thread, and end it when the gang's channels have said farewell."""

        def end() -> None:
            last()
            self.loop.later(LINGER_S + 0.1, self._stop)

        self.call(end)
        self._thread.join(CALL_S)

    def _stop(self) -> None:
        self._done = True

    def _run(self) -> None:
        self.loop.run(lambda: self._done)
        self.loop.close()
        self._waker.close()
        self._woken.close()

    def _take_calls(self) -> None:
        for _ in self._woken.recv(64):
            function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)


def job_of(params: RendezvousParameters) -> Job:
    """Return this node's job, as far as the gang is concerned.

    Raises:
        SettingError: there are several nodes and no endpoint.

    """
    host, port = parse_rendezvous_endpoint(params.endpoint, default_port=DEFAULT_PORT)
    if not params.endpoint and params.max_nodes > 1:
        raise SettingError("--rdzv-endpoint is missing: give HOST:PORT of the node that leads")
    gang = Gang(
        min_nodes=params.min_nodes,
        max_nodes=params.max_nodes,
        node_rank=params.get_as_int("node_rank"),
        leader=host,
        port=0 if params.max_nodes == 1 else port,  # alone, nothing listens but the store
        local_addr=params.local_addr or "",
        run_id=params.run_id,
        join_s=float(params.get_as_int("join_timeout", 600)),
        last_call_s=float(params.get_as_int("last_call_timeout", 30)),
    )
    # Which program it is, torchrun does not say.
    program = Program(script="torchrun", no_python=True)
    insecure = bool(params.get_as_bool("insecure", False))
    return Job(program=program, gang=gang, limits=LIMITS, insecure=insecure)


def _raise(finish: Finish | None) -> NoReturn:
    """Raise what torch has for a gang that has ended."""
    fault = finish.fault if finish else None
    if finish is None or fault is None:
        raise RendezvousClosedError("the job has ended on another node")
    if finish.exit_code == exit_codes.GANG_TIMEOUT:
        raise RendezvousTimeoutError(fault.detail)
    raise RendezvousConnectionError(fault.detail)
