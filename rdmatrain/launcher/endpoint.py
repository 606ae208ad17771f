"""Where the job's store listens. Node 0 checks that the port is free before anything starts."""

import errno
import socket
from typing import NamedTuple

from rdmatrain.errors import SettingError
from rdmatrain.launcher.spec import LaunchSpec

LOOPBACK = "127.0.0.1"


class Endpoint(NamedTuple):
    """Host and TCP port of the job's store, served by rank 0."""

    host: str
    port: int


def choose_endpoint(spec: LaunchSpec) -> Endpoint:
    """Return where the store will listen: as the options say, else a free port of this host.

    The port is free when this returns, and nothing holds it until rank 0 listens: a process that
    takes it in between makes rank 0 fail.

    Raises:
        SettingError: this is node 0 and the port is taken or the address does not resolve.

    """
    host = spec.master_addr or LOOPBACK
    if spec.master_port is None:
        return Endpoint(host, _free_port())
    if spec.node_rank == 0:
        _require_free(host, spec.master_port, may_omit=spec.nnodes == 1)
    return Endpoint(host, spec.master_port)


def _free_port() -> int:
    # torch's store listens on every address, so a port of one address only is not enough.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


def _require_free(host: str, port: int, *, may_omit: bool) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SettingError(
            f"--master-addr {host!r} does not resolve on node rank 0 ({error.strerror}): "
            "give the address or host name of this node"
        ) from error
    for family in dict.fromkeys(entry[0] for entry in found):
        addresses = [str(entry[4][0]) for entry in found if entry[0] == family]
        anywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
        for address in (*addresses, anywhere):
            if _in_use(family, address, port):
                remedy = ", or leave it out to use a free one" if may_omit else " on every node"
                raise SettingError(
                    f"--master-port {port} is in use on {host}: "
                    f"choose another port with --master-port{remedy}"
                )


def _in_use(family: int, address: str, port: int) -> bool:
    """Try to bind; only "in use" counts: a load balancer's address cannot be bound, yet works."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As torch's store does: a connection in TIME_WAIT does not keep the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False
