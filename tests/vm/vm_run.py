# SPDX-License-Identifier: Apache-2.0
"""Boots a guest with an RDMA device, runs one command in it, and ends as the command did.

    python tests/vm/vm_run.py [--limit-s 2400] [--memory 6G] [--cpus 2] COMMAND...
    python tests/vm/vm_run.py --shell

The command's output is passed on as it comes. VM_DEVICE in its environment names the RDMA device.
"""

import argparse
import contextlib
import os
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator

from vm_guest import RDMA_DEVICE, Command, GuestLostError, Settings, TimedOutError, booted
from vm_setup import ROOT, UnavailableError, find

TIMED_OUT = 124
GUEST_LOST = 125


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit-s", type=float, default=os.environ.get("VM_LIMIT_S", "2400"))
    parser.add_argument("--memory", default="6G")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--shell", action="store_true", help="a shell on this terminal")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if bool(options.command) == options.shell:
        parser.error("give either a command to run in the guest, or --shell")
    if options.shell:
        # It makes the guest's end of a terminal; the other end is raw_terminal's.
        options.command = ["script", "--quiet", "--return", "--command", "bash -i", "/dev/null"]
    return options


def say(text: str) -> None:
    print(f"-- guest: {text}", file=sys.stderr, flush=True)


def pass_on(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def raw_terminal(command: Command) -> Iterator[None]:
    """What is typed here goes to the command, Ctrl-C too."""

    def forward() -> None:
        while data := os.read(0, 4096):
            command.type(data.decode(errors="replace"))

    before = termios.tcgetattr(0)
    tty.setraw(0)
    threading.Thread(target=forward, daemon=True).start()
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def wait(command: Command, timeout_s: float) -> int:
    """The command's exit status, as a shell would say it."""
    try:
        status = command.wait(timeout_s).status
    except TimedOutError:
        say("the time limit is over")
        return TIMED_OUT
    return status if status >= 0 else 128 - status


def run(options: argparse.Namespace) -> int:
    start = time.monotonic()
    with booted("one", Settings(options.memory, options.cpus)) as guest:
        guest.make_rdma_device("10.9.0.1/24")
        say(f"up with {RDMA_DEVICE} in {time.monotonic() - start:.0f} s")
        env = {"VM_DEVICE": RDMA_DEVICE}
        command = guest.start(options.command, env, pass_on, stdin=options.shell)
        left_s = max(1.0, start + options.limit_s - time.monotonic())
        with raw_terminal(command) if options.shell else contextlib.nullcontext():
            status = wait(command, left_s)
        if status != 0:
            console = guest.console.relative_to(ROOT)
            say(f"the command ended with {status}; the end of the kernel's log, {console}:")
            print(guest.kernel_said(20), file=sys.stderr)
    say(f"done in {time.monotonic() - start:.0f} s")
    return status


def main() -> int:
    options = arguments()
    # SIGTERM unwinds like Ctrl-C does, so that no QEMU stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        find()
    except UnavailableError as why:
        print(f"SKIP: no guests on this machine: {why}", flush=True)
        return 0
    try:
        return run(options)
    except (GuestLostError, OSError) as error:
        say(str(error))
        return GUEST_LOST


if __name__ == "__main__":
    sys.exit(main())
