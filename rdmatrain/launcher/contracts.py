"""What the parts of a gang need of each other, so that tests can put others in their place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.messages import EndRound, Finish, Round, StopWorkers

CONTROL, STORE = 1, 2
Note = Callable[[str], None]


class Wire(Protocol):
    """What the gang needs of a :class:`rdmatrain.launcher.channel.Channel`."""

    @property
    def peer(self) -> str: ...  # noqa: D102
    @property
    def idle_s(self) -> float: ...  # noqa: D102
    @property
    def num_pending_bytes(self) -> int: ...  # noqa: D102
    def send(self, kind: int, payload: bytes) -> None: ...  # noqa: D102
    def close(self, reason: str = "") -> None: ...  # noqa: D102


class Room(Protocol):
    """What the leader needs of a :class:`rdmatrain.launcher.tunnel.StoreRoom`."""

    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def pid(self) -> int: ...  # noqa: D102
    @property
    def alive(self) -> bool: ...  # noqa: D102
    def attach(  # noqa: D102
        self, key: int, send: Callable[[bytes], None], num_pending: Callable[[], int]
    ) -> None: ...
    def receive(self, key: int, payload: bytes) -> None: ...  # noqa: D102
    def detach(self, key: int) -> None: ...  # noqa: D102
    def reset(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Door(Protocol):
    """What a member needs of a :class:`rdmatrain.launcher.tunnel.StoreDoor`."""

    @property
    def port(self) -> int: ...  # noqa: D102
    def receive(self, payload: bytes) -> None: ...  # noqa: D102
    def reset(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class WireHandler(Protocol):
    """What a channel calls."""

    def on_open(self, wire: Wire) -> None: ...  # noqa: D102
    def on_message(self, wire: Wire, kind: int, payload: bytes) -> None: ...  # noqa: D102
    def on_close(self, wire: Wire, reason: str) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Parts:
    """How a member makes what it owns.

    Attributes:
        room: the store, on the leader's node.
        door: the way to it, on the others.
        pair: both ends of the channel of the leader's own node: the leader's first.

    """

    room: Callable[[Loop, Note], Room]
    door: Callable[[Loop, Callable[[bytes], None], Callable[[], int], Note], Door]
    pair: Callable[[Loop, WireHandler, WireHandler], tuple[Wire, Wire]]


class GangHandler(Protocol):
    """What a node's agent does when the gang says so. Never called from within ``join``."""

    def on_round(self, round: Round) -> None:
        """Start the workers."""

    def on_end_round(self, end: EndRound) -> None:
        """Kill the workers, and say ``Stopped``."""

    def on_stop_workers(self, stop: StopWorkers) -> None:
        """Send the workers the signal, and say ``Stopped`` when none is left, however it ended."""

    def on_finish(self, finish: Finish) -> None:
        """Exit; comes once, also when the gang refused this node, was lost or never complete."""

    def on_note(self, text: str) -> None:
        """Show the user a line."""
