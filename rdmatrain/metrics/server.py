"""Answers scrapes, in a process of its own: ``python -m rdmatrain.metrics.server FD FOLDER``.

Neither a slow client nor a driver that does not answer can hold up the launcher, which made the
listening socket. It ends with the launcher.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any

from rdmatrain.metrics.exposition import encode
from rdmatrain.metrics.hca import CLASS, read_ports
from rdmatrain.metrics.node import Node

PATH = "/metrics"
# Prometheus keeps one connection; whoever else comes is few.
MAX_CLIENTS = 8
# For a request and its answer, all together.
CLIENT_S = 10.0
_POLL_S = 0.5


class Server(ThreadingMixIn, HTTPServer):
    """Answers few clients at a time, each of them for a limited time.

    Args:
        listener: a listening socket.
        node: what it tells of.
        client_s: how long a client may take.

    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, node: Node, client_s: float = CLIENT_S) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.node = node
        self._client_s = client_s
        self._until: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._parent = os.getppid()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn away whoever comes when there are many."""
        with self._lock:
            if len(self._until) >= MAX_CLIENTS:
                return False
            self._until[request] = time.monotonic() + self._client_s
        return True

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, and have room for another."""
        with self._lock:
            self._until.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut who takes too long; end when the launcher has ended."""
        now = time.monotonic()
        with self._lock:
            late = [each for each, until in self._until.items() if until < now]
        for each in late:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        if os.getppid() != self._parent:
            os._exit(0)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone, in the middle of the job's output."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError | ValueError):  # closed while it was read
            print(f"rdmatrain metrics: {error!r}", file=sys.stderr)  # noqa: T201


class Handler(BaseHTTPRequestHandler):
    """Answers ``GET /metrics``."""

    server: Server
    server_version = "rdmatrain"
    sys_version = ""
    timeout = CLIENT_S

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != PATH:
            self._answer(404, f"metrics are at {PATH}\n".encode(), "text/plain")
            return
        body, content_type = encode(self.server.node.collect, self.headers.get("Accept", ""))
        self._answer(200, body, content_type)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape comes every few seconds."""

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main(arguments: list[str]) -> None:
    """Serve on an inherited descriptor until the launcher ends."""
    root = Path(arguments[2]) if len(arguments) > 2 else CLASS
    with socket.socket(fileno=int(arguments[0])) as listener:
        node = Node(Path(arguments[1]), lambda: read_ports(root))
        Server(listener, node).serve_forever(_POLL_S)


if __name__ == "__main__":
    main(sys.argv[1:])
