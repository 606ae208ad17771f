# SPDX-License-Identifier: Apache-2.0
"""``--metrics-port`` in the launcher: resolved, refused, and told to the server."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmatrain import __version__, config
from rdmatrain.errors import SettingError
from rdmatrain.launcher import scrape as module
from rdmatrain.launcher.job import Gang, Job, Metrics, Program
from rdmatrain.launcher.messages import RankState
from rdmatrain.launcher.resolve import resolve
from rdmatrain.launcher.scrape import Scrape, listen, own_address
from rdmatrain.metrics.node import NODE_FILE
from rdmatrain.metrics.tally import Tally, read

OPTIONS = {"script": __file__, "nproc_per_node": "1"}


def job(**metrics: object) -> Job:
    return Job(
        program=Program(script="t.py"),
        nproc=2,
        gang=Gang(run_id="llm"),
        metrics=Metrics(**metrics),  # type: ignore[arg-type]
    )


@pytest.fixture
def scrape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scrape]:
    """Without its server, which the tests of a whole job have."""
    monkeypatch.setattr(module, "spawn", lambda *_: 1 << 22)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield Scrape(job(port=port, addr="127.0.0.1"), tmp_path)


def test_options_and_variables_become_the_jobs_own() -> None:
    found = resolve(OPTIONS, {}, None).job.metrics
    assert found == Metrics(port=0, addr="")
    found = resolve(
        {**OPTIONS, "metrics_port": "9400", "metrics_addr": "::1"}, {}, None
    ).job.metrics
    assert found == Metrics(port=9400, addr="::1")
    found = resolve(OPTIONS, {"RDMATRAIN_METRICS_PORT": "9401"}, None)
    assert found.job.metrics == Metrics(port=9401)
    shown = {value.name: value for value in found.values}
    assert shown["metrics_port"].source == "RDMATRAIN_METRICS_PORT"


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "9400.0"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(SettingError, match=f"--metrics-port {port} is not allowed: give"):
        resolve({**OPTIONS, "metrics_port": port}, {}, None)


def test_nobody_asked_so_nothing_is_made(tmp_path: Path) -> None:
    scrape = Scrape(job(), tmp_path)
    assert scrape.environment(0) == {}
    scrape.begin({0: (0, 1)})
    scrape.observe([RankState(rank=0)])
    scrape.close()
    assert list(tmp_path.iterdir()) == []


def test_the_launcher_says_who_its_workers_are(scrape: Scrape, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    files = [Path(scrape.environment(local)[config.METRICS]) for local in (0, 1)]
    assert len({*files}) == 2
    assert {file.parent for file in files} == {folder}
    scrape.begin({0: (6, 100), 1: (7, 101)})
    tally, document = read(folder / NODE_FILE)
    assert document["now"] == {files[0].name: [6, 100], files[1].name: [7, 101]}
    assert tally.values["rdmatrain_restarts_total", ()] == 0
    assert tally.values["rdmatrain_workers_expected", ()] == 2
    assert tally.values["rdmatrain_job_info", ("llm", __version__)] == 1
    scrape.observe([RankState(rank=6, waiting_s=1.5, idle_s=0.5), RankState(rank=7)])
    values = read(folder / NODE_FILE)[0].values
    assert values["rdmatrain_rank_waiting_seconds", ("6",)] == 1.5
    assert values["rdmatrain_rank_waiting_seconds", ("7",)] == 0
    assert values["rdmatrain_rank_idle_seconds", ("6",)] == 0.5


def test_after_a_restart_files_are_others_and_old_ones_are_told_until_they_are_gone(
    scrape: Scrape, tmp_path: Path
) -> None:
    folder = tmp_path / "metrics"
    first = Path(scrape.environment(0)[config.METRICS])
    scrape.begin({0: (0, 100)})
    Tally().write(first)
    second = Path(scrape.environment(0)[config.METRICS])
    assert first != second
    scrape.begin({0: (0, 101)})
    tally, document = read(folder / NODE_FILE)
    assert document["now"] == {second.name: [0, 101]}
    assert document["ranks"] == {first.name: 0, second.name: 0}
    assert tally.values["rdmatrain_restarts_total", ()] == 1
    first.unlink()  # as the server does, once it has taken in what it says
    scrape.environment(0)
    scrape.begin({0: (0, 102)})
    assert first.name not in read(folder / NODE_FILE)[1]["ranks"]


def test_a_full_disk_does_not_harm_the_job(scrape: Scrape, tmp_path: Path) -> None:
    for each in (tmp_path / "metrics").iterdir():
        each.unlink()
    (tmp_path / "metrics").rmdir()
    scrape.environment(0)
    scrape.begin({0: (0, 100)})
    scrape.observe([RankState(rank=0)])


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        SettingError, match=r"--metrics-port 9400 .*pip install 'rdmatrain\[metrics\]'"
    ):
        Scrape(job(port=9400), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_and_an_address_of_another_host_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingError, match=f"--metrics-port {port} cannot be served on 127.0.0.1"
        ):
            listen("127.0.0.1", port)
    with pytest.raises(SettingError, match=r"cannot be served on 192\.0\.2\.1"):
        listen("192.0.2.1", port)
    with pytest.raises(SettingError, match=r"--metrics-addr no\.such\.invalid cannot be resolved"):
        listen("no.such.invalid", port)


def test_the_default_is_one_address_of_this_host_and_never_all() -> None:
    address = own_address()
    assert address not in {"0.0.0.0", "::", ""}
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as own:
        own.bind((address, 0))  # it is of this host


def test_all_addresses_for_who_asks() -> None:
    with listen("0.0.0.0", 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
