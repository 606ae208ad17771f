# SPDX-License-Identifier: Apache-2.0
"""Guests: booted by virtme-ng from the live root, and told by the host what to run.

    with booted("one", Settings(memory="2G")) as guest:
        guest.make_rdma_device("10.9.0.1/24")
        ended = guest.run(["ibv_devinfo"], timeout_s=60)

`two_hosts()` boots two that share a cable.
"""

import contextlib
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from vm_setup import PATH, ROOT, Kit, find

HERE = Path(__file__).resolve().parent
# The one folder that a guest can write to so that it stays, under the same name on both sides.
OUT = ROOT / "out" / "vm"
RDMA_DEVICE = "rxe0"
# QEMU emulates `rep movsb` and `rep stosb` a byte at a time: the kernel, and libc, have other ways.
CPU = "max,-erms"
BOOT_TIMEOUT_S = 300.0
KILL_TIMEOUT_S = 20.0


class GuestLostError(ConnectionError):
    """The guest is gone or does not answer; what its kernel said last is in the text."""


class TimedOutError(TimeoutError):
    """A command in a guest took too long and was killed; its output so far is in the text."""


@dataclass(frozen=True)
class Cable:
    """A guest's end of a cable to another one."""

    end: socket.socket
    mac: str


@dataclass(frozen=True)
class Settings:
    """What a guest has."""

    memory: str = "6G"
    cpus: int = 2
    cable: Cable | None = None


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, negative for a signal; stdout and stderr as one."""

    status: int
    output: str


@dataclass
class Command:
    """A command that was started in a guest."""

    guest: "Guest"
    number: int
    argv: Sequence[str]
    on_output: Callable[[str], object] | None
    _parts: list[str] = field(default_factory=list)
    _status: int | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def output(self) -> str:
        """What it has written so far."""
        return "".join(self._parts)

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def type(self, text: str) -> None:
        """To the stdin of a command that was started with one."""
        self.guest.send(id=self.number, input=text)

    def signal(self, which: int = signal.SIGKILL) -> None:
        self.guest.send(id=self.number, signal=which)

    def wait(self, timeout_s: float) -> Ended:
        """Wait for the end. A command that takes longer is killed: TimedOutError."""
        if not self._over.wait(timeout_s):
            self.signal()
            if not self._over.wait(KILL_TIMEOUT_S):
                raise self.guest.lost(f"does not answer: {' '.join(self.argv)}")
            raise TimedOutError(f"over {timeout_s:.0f} s: {' '.join(self.argv)}\n{self.output}")
        if self._status is None:
            raise self.guest.lost(f"died under {' '.join(self.argv)}, which said:\n{self.output}")
        return Ended(self._status, self.output)

    def take(self, answer: dict) -> None:
        """An answer of the agent; the guest's reader thread calls this."""
        if "output" in answer:
            self._parts.append(answer["output"])
            if self.on_output is not None:
                self.on_output(answer["output"])
        else:
            self._status = answer["status"]
            self._over.set()

    def give_up(self) -> None:
        self._over.set()


class Guest:
    """A guest that has booted. Any number of commands can run in it at once, from any thread."""

    def __init__(self, name: str, settings: Settings, kit: Kit) -> None:
        OUT.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.console = OUT / f"{name}.console.log"
        self._pidfile = OUT / f"{name}.qemu.pid"
        self._pidfile.unlink(missing_ok=True)
        self._commands: dict[int, Command] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._gone = False
        self._ready = threading.Event()
        cable = settings.cable
        self._mac = "veth" if cable is None else cable.mac
        self._process = subprocess.Popen(
            [*command_line(name, settings, kit), "-pidfile", str(self._pidfile)],
            env={**os.environ, "PATH": PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[] if cable is None else [cable.end.fileno()],
            start_new_session=True,
        )
        if cable is not None:
            cable.end.close()  # QEMU has it now, alone: when it dies, the other end finds out
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        self._stdin = stdin
        self._threads = [
            threading.Thread(target=self._keep_console, args=(stderr,)),
            threading.Thread(target=self._read_answers, args=(stdout,)),
        ]
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self) -> None:
        if not self._ready.wait(BOOT_TIMEOUT_S):
            raise self.lost(f"did not boot in {BOOT_TIMEOUT_S:.0f} s")
        if self._gone:
            raise self.lost("died while it booted")

    def start(
        self,
        argv: Sequence[str],
        env: dict[str, str] | None = None,
        on_output: Callable[[str], object] | None = None,
        stdin: bool = False,
    ) -> Command:
        """Start a command in the checkout's root; on_output gets its output as it comes."""
        command = Command(self, next(self._numbers), argv, on_output)
        with self._lock:
            if self._gone:
                raise self.lost(f"is gone: cannot run {' '.join(argv)}")
            self._commands[command.number] = command
        self.send(id=command.number, argv=list(argv), env=env or {}, stdin=stdin)
        return command

    def run(
        self, argv: Sequence[str], timeout_s: float, env: dict[str, str] | None = None
    ) -> Ended:
        return self.start(argv, env).wait(timeout_s)

    def check(self, argv: Sequence[str], timeout_s: float = 60) -> str:
        """Run a command that must succeed, and return its output."""
        ended = self.run(argv, timeout_s)
        if ended.status != 0:
            raise OSError(f"{self.name}: {' '.join(argv)}: {ended.status}\n{ended.output}")
        return ended.output

    def make_rdma_device(self, address: str) -> None:
        """Make RDMA_DEVICE on the cable's NIC, eth0, or without a cable on veth0."""
        self.check(["bash", str(HERE / "guest_rxe.sh"), RDMA_DEVICE, self._mac, address], 120)

    def power_cut(self) -> None:
        """Kill QEMU: from one moment to the next the host is not there any more.

        virtme-run sees that, tidies up and ends; there is no QEMU yet if it is killed early.
        """
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int(self._pidfile.read_text()), signal.SIGKILL)
            self._process.wait(KILL_TIMEOUT_S)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(KILL_TIMEOUT_S)

    def close(self) -> None:
        """End the guest and whatever runs in it. Nothing in it is worth an orderly end."""
        self.power_cut()
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        for thread in self._threads:
            thread.join(KILL_TIMEOUT_S)

    def kernel_said(self, lines: int = 40) -> str:
        """The end of the kernel's log, which is whole in self.console, on the host."""
        text = self.console.read_text("utf-8", errors="replace") if self.console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def lost(self, what: str) -> GuestLostError:
        return GuestLostError(f"guest {self.name} {what}\nIts kernel:\n{self.kernel_said()}")

    def send(self, **request: object) -> None:
        line = json.dumps(request).encode() + b"\n"
        # A guest that is gone shows in the commands' ends.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._stdin.write(line)
            self._stdin.flush()

    def _keep_console(self, stream: IO[bytes]) -> None:
        with stream, self.console.open("wb", buffering=0) as log:
            while data := stream.read1(1 << 16):  # type: ignore[attr-defined]
                log.write(data)

    def _read_answers(self, stream: IO[bytes]) -> None:
        try:
            with stream:
                for line in stream:
                    answer = json.loads(line)
                    if "ready" in answer:
                        self._ready.set()
                    else:
                        self._commands[answer["id"]].take(answer)
        finally:
            with self._lock:
                self._gone = True
            self._ready.set()
            for command in self._commands.values():
                command.give_up()


def command_line(name: str, settings: Settings, kit: Kit) -> list[str]:
    """What boots a guest whose script is the agent.

    Never with KVM: there are machines whose /dev/kvm is there and hangs. The root is the host's,
    read-only; /etc, /tmp and /var can be written, and what is written is gone with the guest.
    """
    qemu = ["-cpu", CPU, *share("host", Path("/"), "readonly=on"), *share("out", OUT)]
    if settings.cable is not None:
        nic = f"virtio-net-pci,netdev=cable,host_mtu=9000,mac={settings.cable.mac}"
        qemu += ["-netdev", f"socket,id=cable,fd={settings.cable.end.fileno()}", "-device", nic]
    agent = [sys.executable, str(HERE / "vm_agent.py"), *map(str, cached_folders())]
    return [
        str(kit.virtme_run),
        *("--kimg", str(kit.kernel), "--mods", "auto"),
        *("--disable-kvm", "--disable-microvm", "--force-9p"),
        *("--memory", settings.memory, "--cpus", str(settings.cpus), "--name", name),
        *(f"--overlay-rwdir={path}" for path in ("/etc", "/tmp", "/var")),
        *("--show-boot-console", "--verbose"),
        *("--script-sh", f"exec {shlex.join(agent)}"),
        *("--qemu-opts", *qemu),
    ]


def cached_folders() -> list[Path]:
    """The checkout, and where else Python and its packages are: all that guests read often."""
    folders = {ROOT, Path(sys.base_prefix), *map(Path, sys.path)}
    found = {path for path in folders if path.is_absolute() and path.is_dir()}
    outside = {path for path in found if not path.is_relative_to("/usr")}
    return sorted(path for path in outside if not any(up in outside for up in path.parents))


def share(tag: str, path: Path, *options: str) -> list[str]:
    """QEMU's options for a folder of the host that the agent mounts."""
    fsdev = ("local", f"id={tag}", f"path={path}", "security_model=none", "multidevs=remap")
    device = f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"
    return ["-fsdev", ",".join((*fsdev, *options)), "-device", device]


@contextlib.contextmanager
def booted(name: str, settings: Settings) -> Iterator[Guest]:
    guest = Guest(name, settings, find())
    try:
        guest.wait_until_ready()
        yield guest
    finally:
        guest.close()


@contextlib.contextmanager
def two_hosts(memory: str = "2G") -> Iterator[tuple[Guest, Guest]]:
    """Two guests, "left" at 10.9.0.1 and "right" at 10.9.0.2, with an RDMA device each.

    The cable is a pair of connected sockets: no port that another might take, no order of booting.
    """
    ends = socket.socketpair()
    with contextlib.ExitStack() as stack, ends[0], ends[1]:

        def boot(index: int) -> Guest:
            cable = Cable(ends[index], f"52:54:00:09:00:0{index + 1}")
            settings = Settings(memory=memory, cpus=1, cable=cable)
            guest = Guest(("left", "right")[index], settings, kit)
            stack.callback(guest.close)
            return guest

        kit = find()
        guests = boot(0), boot(1)
        for index, guest in enumerate(guests):
            guest.wait_until_ready()
            guest.make_rdma_device(f"10.9.0.{index + 1}/24")
        yield guests
