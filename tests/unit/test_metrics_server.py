# SPDX-License-Identifier: Apache-2.0
"""The server of metrics: what it answers, and what nobody can do to it."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rdmatrain

pytest.importorskip("prometheus_client", reason="rdmatrain[metrics] is not installed")

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_strictly
from prometheus_client.parser import text_string_to_metric_families as parse

from rdmatrain.metrics.catalog import HISTOGRAM, METRICS
from rdmatrain.metrics.exposition import encode
from rdmatrain.metrics.node import Node
from rdmatrain.metrics.server import MAX_CLIENTS, Server
from rdmatrain.metrics.tally import Tally

ROOT = str(Path(rdmatrain.__file__).parents[1])


class Port:
    """A server in a thread."""

    def __init__(self, folder: Path, client_s: float) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.server = Server(listener, Node(folder, Tally), client_s)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self._thread.start()

    def ask(self, method: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join(timeout=20)
        self.server.server_close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    port = Port(tmp_path, 0.5)
    yield port
    port.close()


def closes(client: socket.socket) -> bool:
    client.settimeout(20)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_it_answers_scrapes_and_nothing_else(port: Port) -> None:
    status, text = port.ask("GET", "/metrics?x=1")
    assert status == 200
    assert [family.name for family in parse(text)] == ["rdmatrain_workers"]
    assert port.ask("HEAD", "/metrics") == (200, "")
    assert port.ask("GET", "/") == (404, "metrics are at /metrics\n")
    assert port.ask("GET", "/../../etc/passwd")[0] == 404
    assert port.ask("POST", "/metrics")[0] == 501


def test_who_takes_too_long_is_cut_and_others_are_answered(port: Port) -> None:
    slow = [socket.create_connection(port.address, 20) for _ in range(3)]
    slow[1].sendall(b"GET /met")
    assert port.ask("GET", "/metrics")[0] == 200
    began = time.monotonic()
    assert all(closes(client) for client in slow)
    assert time.monotonic() - began < 15
    for client in slow:
        client.close()
    assert port.ask("GET", "/metrics")[0] == 200


def test_a_byte_now_and_then_does_not_help(port: Port) -> None:
    with socket.create_connection(port.address, 20) as client:
        end = time.monotonic() + 20
        with pytest.raises(ConnectionError):
            while time.monotonic() < end:
                client.sendall(b"G")
                time.sleep(0.1)


def test_a_crowd_is_turned_away(tmp_path: Path) -> None:
    port = Port(tmp_path, 60)
    try:
        crowd = [socket.create_connection(port.address, 20) for _ in range(MAX_CLIENTS)]
        with socket.create_connection(port.address, 20) as late:
            assert closes(late)
        for client in crowd:
            client.close()
        end = time.monotonic() + 20
        while port.server._until and time.monotonic() < end:
            time.sleep(0.01)
        assert port.ask("GET", "/metrics")[0] == 200
    finally:
        port.close()


def test_nonsense_is_no_end_of_it(port: Port, capfd: pytest.CaptureFixture[str]) -> None:
    for data in (b"\x00\xff\r\n\r\n", b"GET " + b"x" * 100_000, b"GET /metrics HTTP/9.9\r\n\r\n"):
        with socket.create_connection(port.address, 20) as client:
            client.sendall(data)
    assert port.ask("GET", "/metrics")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.fixture
def everything() -> Tally:
    """Every metric of the table, with labels that need quoting."""
    tally = Tally()
    for number, metric in enumerate(METRICS):
        labels = tuple(f'{label} "\\\n{number}' for label in metric.all_labels)
        if metric.kind == HISTOGRAM:
            for seconds in (1e-6, metric.buckets[0], 1e9):
                tally.observe(metric.name, seconds, *labels)
        else:
            tally.set(metric.name, number + 0.5, *labels)
    return tally


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_every_metric_is_read_back_as_it_was(everything: Tally, accept: str) -> None:
    body, content_type = encode(lambda: everything, accept)
    assert content_type.startswith(accept.partition(";")[0])
    families = (parse if accept == "text/plain" else parse_strictly)(body.decode())
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    for metric in METRICS:
        keys = [
            key for key in (*everything.values, *everything.histograms) if key[0] == metric.name
        ]
        labels = dict(zip(metric.all_labels, keys[0][1], strict=True))
        if metric.kind != HISTOGRAM:
            value = everything.values[keys[0]]
            assert found[metric.name, frozenset(labels.items())] == value
            continue
        for bound, count in ((repr(metric.buckets[0]), 2), ("+Inf", 3)):
            key = f"{metric.name}_bucket", frozenset({**labels, "le": bound}.items())
            assert found[key] == count
        assert found[f"{metric.name}_count", frozenset(labels.items())] == 3


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """The launcher is killed: its server follows, and the port is free."""
    program = (
        "import os, socket, subprocess, sys, time\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "fd = listener.fileno()\n"
        "command = [sys.executable, '-m', 'rdmatrain.metrics.server', str(fd), sys.argv[1]]\n"
        "server = subprocess.Popen(command, pass_fds=[fd])\n"
        "print(listener.getsockname()[1], server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert launcher.stdout is not None
    number, pid = map(int, launcher.stdout.readline().split())
    try:
        connection = http.client.HTTPConnection("127.0.0.1", number, timeout=30)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        launcher.kill()
        launcher.wait()
        end = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or " Z " in stat.read_text()
    finally:
        for each in (pid, launcher.pid):
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue
        launcher.stdout.close()
