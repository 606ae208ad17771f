# SPDX-License-Identifier: Apache-2.0
"""The clock of the cluster, as the API server tells it to who may not ask for anything."""

import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from certificates import make_certificates

from rdmatrain.doctor.probes import cluster, network

Serve = Callable[[float], dict[str, str]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made by openssl, which is not here")
    return make_certificates(tmp_path_factory.mktemp("cluster") / "tls")


@pytest.fixture
def serve(certificates: Path) -> Iterator[Serve]:
    """Start an API server that refuses everybody, by a clock that is ahead of this one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")
    servers: list[HTTPServer] = []

    def start(ahead_s: float) -> dict[str, str]:
        class Api(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(int(time.time() + ahead_s))

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Api)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return variables(server.server_port)

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LIMIT_S", 20.0)


def variables(port: int, host: str = "127.0.0.1") -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}


def test_a_server_of_the_same_clock_is_not_ahead(serve: Serve) -> None:
    assert network.ask_cluster(serve(0)) == {"error": "", "ahead_s": 0.0}


@pytest.mark.parametrize("seconds", [90, -90])
def test_a_clock_that_differs_is_told(serve: Serve, seconds: int) -> None:
    facts = network.ask_cluster(serve(seconds))
    assert facts["error"] == ""
    # A second is lost where it is cut, and the time that the exchange takes.
    assert facts["ahead_s"] * seconds > 0
    assert 70 < abs(facts["ahead_s"]) <= 90


@pytest.mark.parametrize(
    ("asked_s", "said_s", "heard_s", "ahead_s"),
    [
        (100.9, 100, 101.2, 0.0),  # the second was cut
        (100.9, 101, 101.2, 0.0),
        (100.0, 103, 100.2, 2.8),
        (103.5, 100, 103.7, -2.5),
    ],
)
def test_an_exchange_shows_the_least_that_clocks_are_apart(
    asked_s: float, said_s: float, heard_s: float, ahead_s: float
) -> None:
    assert cluster._ahead(asked_s, said_s, heard_s) == ahead_s


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LIMIT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        facts = network.ask_cluster(variables(silent.getsockname()[1]))
    assert facts["error"]
    assert "ahead_s" not in facts


def test_what_says_no_date_is_no_clock(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "send_response", silently)
    assert "ahead_s" not in network.ask_cluster(serve(0))


def silently(handler: BaseHTTPRequestHandler, code: int) -> None:
    handler.send_response_only(code)


def test_outside_of_a_cluster_nobody_is_asked() -> None:
    assert network.ask_cluster({"PATH": "/bin"}) == {"error": "this is no pod of a cluster"}
