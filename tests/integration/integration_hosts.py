# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces joined by a cable: two hosts that share nothing but the kernel."""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from integration_jobs import RUN, Ended, finish, free_port, start

SECRET = "a secret of the tests, long enough"
PORT = 29541  # in namespaces that nobody else is in


@dataclass(frozen=True)
class TwoHosts:
    names: tuple[str, str]
    addresses: tuple[str, str]
    cables: tuple[str, str]  # names of their network interfaces

    def command(self, host: int, command: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.names[host], *command]

    def run(self, *worker: str, env: dict[str, str], timeout_s: float = 90) -> list[Ended]:
        """Run one rank on each host; the store is at the first one."""
        port = str(free_port())
        options = ["--nnodes", "2", "--master-addr", self.addresses[0], "--master-port", port]
        commands = [
            self.command(host, [*RUN, "--node-rank", str(host), *options, *worker])
            for host in range(2)
        ]
        own = env | {"RDMATRAIN_SECRET": SECRET}
        return finish([start(command, own) for command in commands], timeout_s)


def ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(args)}: {done.stderr.strip()}")


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Make them; skips the test that asks where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (package iproute2) to make network namespaces with")
    tag = uuid.uuid4().hex[:6]
    cables = (f"v{tag}0", f"v{tag}1")
    two = TwoHosts((f"host0-{tag}", f"host1-{tag}"), ("10.213.77.1", "10.213.77.2"), cables)
    with contextlib.ExitStack() as cleanup:
        try:
            for name in two.names:
                ip("netns", "add", name)
                cleanup.callback(ip, "netns", "delete", name)  # the cable goes with it
            ends = ["name", cables[0], "netns", two.names[0], "type", "veth"]
            ip("link", "add", *ends, "peer", "name", cables[1], "netns", two.names[1])
            for name, cable, address in zip(two.names, cables, two.addresses, strict=True):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
                ip("-n", name, "link", "set", cable, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except OSError as error:
            pytest.skip(f"this machine gives no network namespaces: {error}")
        yield two
