# SPDX-License-Identifier: Apache-2.0
"""A gang over TLS: all of its connections have it, and bad certificates are told at once."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import make_certificates
from fake_gang import SECRET, Agent, job, run, settle, start
from test_launcher_gang_network import free_port

from rdmatrain.errors import SettingError
from rdmatrain.launcher import tls
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.loop import Loop

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made by openssl, which is not here"
)


def node(rank: int, port: int, folder: Path, max_restarts: int = 0) -> Job:
    its = job(
        max_restarts=max_restarts,
        min_nodes=2,
        max_nodes=2,
        node_rank=rank,
        leader="127.0.0.1",
        port=port,
    )
    return dataclasses.replace(its, tls=str(folder))


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    settle(made)


def test_it_forms_and_both_ends_of_its_connection_have_tls(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []

    class Counted(tls.TlsVeil):
        def __init__(self, *args: object, dialed: bool) -> None:
            super().__init__(*args, dialed=dialed)  # type: ignore[arg-type]
            ends.append(dialed)

    monkeypatch.setattr(tls, "TlsVeil", Counted)
    folder, port = make_certificates(tmp_path / "job"), free_port()
    agents = [Agent(), Agent()]
    members = [
        start(loop, node(rank, port, folder), agent, SECRET) for rank, agent in enumerate(agents)
    ]
    run(loop, lambda: all(agent.rounds for agent in agents), within_s=12)
    assert {True, False} == set(ends)
    for member in members:
        member.close()


def test_missing_certificates_are_told_at_once(loop: Loop, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="TLS needs the file"):
        start(loop, node(0, free_port(), tmp_path), Agent(), SECRET)


def test_who_connects_again_has_the_certificates_of_today(loop: Loop, tmp_path: Path) -> None:
    """Of another authority, which does not accept those of before, nor is accepted by them."""
    folder, port = make_certificates(tmp_path / "job"), free_port()
    agents = [Agent(), Agent()]
    jobs = [node(rank, port, folder, max_restarts=2) for rank in (0, 1)]
    members = [start(loop, its, agent, SECRET) for its, agent in zip(jobs, agents, strict=True)]
    run(loop, lambda: all(agent.rounds for agent in agents), within_s=12)
    shutil.copytree(make_certificates(tmp_path / "next"), folder, dirs_exist_ok=True)
    members[1]._wire.abort("cut by the test")  # type: ignore[union-attr]
    run(loop, lambda: all(len(agent.rounds) == 2 for agent in agents), within_s=12)
    members[1].close()
    # Both were old or both were new: a third one tells which.
    agents[1] = Agent()
    members[1] = start(loop, node(1, port, tmp_path / "next"), agents[1], SECRET)
    run(loop, lambda: bool(agents[1].rounds), within_s=12)
    for member in members:
        member.close()
