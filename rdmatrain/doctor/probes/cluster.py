"""A probe of the cluster's clock, which all nodes can be compared with before any of them leads."""

import ssl
from collections.abc import Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from http.client import HTTPSConnection
from time import time
from typing import Any

from rdmatrain.discovery.deadline import in_time

LIMIT_S = 0.3
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"


def ask_clock(environ: Mapping[str, str]) -> dict[str, Any]:
    """Ask the API server for the time, which it says to everybody, with 401 and 403 too.

    Args:
        environ: of this process.

    Returns:
        ``error``; and ``ahead_s``: how far the server's clock is ahead of this one at least, 0
        where they may agree. It tells whole seconds.

    """
    facts: dict[str, Any] = {"error": ""}

    def ask() -> None:
        facts["ahead_s"] = _ahead(*_exchange(environ[HOST], int(environ.get(PORT) or 443)))

    return {"error": why} if (why := in_time(LIMIT_S, ask)) else facts


def _exchange(host: str, port: int) -> tuple[float, float, float]:
    """Return when the server was asked by this clock, what it said, and when that was heard."""
    # Nothing secret is sent, and who could lie about the time could drop the answer as well.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with closing(HTTPSConnection(host, port, timeout=LIMIT_S, context=context)) as server:
        server.connect()
        asked_s = time()
        server.request("GET", "/version")
        date = server.getresponse().headers["Date"]
        heard_s = time()
    return asked_s, parsedate_to_datetime(date).timestamp(), heard_s


def _ahead(asked_s: float, said_s: float, heard_s: float) -> float:
    """Return the least offset that an exchange allows; what was said is cut to a second."""
    return round(max(said_s - heard_s, min(0.0, said_s + 1 - asked_s)), 3)
