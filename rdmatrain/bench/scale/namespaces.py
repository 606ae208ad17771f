"""Hosts of this machine's own: network namespaces at one switch, each by a cable of a known rate.

A token bucket at both ends of each cable is the wire, so that it is what bounds large messages, and
not the CPUs that all the hosts share.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rdmatrain.errors import RdmatrainError

NET = "10.213.79"
CABLE = "cable"
BURST = "3kb"
QUEUE = "16mb"  # of a port: all that the other hosts may send to it at once
COMMAND_S = 30.0


class NoHostsError(RdmatrainError):
    """No namespaces here; the text says why."""


def why_not() -> str:
    """Return why there can be no hosts here; "" where there can."""
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install iproute2"
    return "" if os.geteuid() == 0 else "network namespaces need root"


def address(host: int) -> str:
    """Return the address of a host."""
    return f"{NET}.{host + 1}"


@contextmanager
def hosts(num: int, mbit: int) -> Iterator[list[str]]:
    """Make hosts whose cables carry so many Mbit/s in each direction; yield their namespaces.

    Raises:
        NoHostsError: the kernel has no namespaces, veth or tbf, or this is not root.

    """
    if reason := why_not():
        raise NoHostsError(reason)
    tag = uuid.uuid4().hex[:6]
    switch = f"scale-{tag}"
    names = [f"scale{host}-{tag}" for host in range(num)]
    with ExitStack() as stack:
        for name in (switch, *names):
            _do("ip", "netns", "add", name)
            stack.callback(_do, "ip", "netns", "delete", name)  # what is in it goes with it
        _do("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", switch, "link", "set", "bridge", "up")
        for host, name in enumerate(names):
            port = f"port{host}"
            ends = ["name", CABLE, "netns", name, "type", "veth", "peer", "name", port]
            _do("ip", "link", "add", *ends, "netns", switch)
            _do("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _do("ip", "-n", name, "addr", "add", f"{address(host)}/24", "dev", CABLE)
            _do("ip", "-n", name, "link", "set", CABLE, "up")
            _do("ip", "-n", name, "link", "set", "lo", "up")
            for where, end in ((name, CABLE), (switch, port)):
                rate = ["rate", f"{mbit}mbit", "burst", BURST, "limit", QUEUE]
                _do("tc", "-n", where, "qdisc", "add", "dev", end, "root", "tbf", *rate)
        yield names


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    if done.returncode:
        raise NoHostsError(f"{' '.join(command)}: {done.stderr.strip()}")
