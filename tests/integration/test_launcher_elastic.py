# SPDX-License-Identifier: Apache-2.0
"""torchrun over our gang: --rdzv-backend=rdmatrain. Two torchruns play two nodes."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from integration_jobs import TORCHRUN, Ended, finish, free_port, nothing_left_behind, start
from torch.distributed.elastic.rendezvous import RendezvousParameters, RendezvousTimeoutError

from rdmatrain.errors import SettingError
from rdmatrain.launcher.elastic import GangRendezvous, get_handler

SECRET = {"RDMATRAIN_SECRET": "sixteen bytes or more"}
WORKER = """
import json, os, sys, time
RANK, ATTEMPT = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
import torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(3) * (RANK + 1)
dist.all_reduce(x)
if RANK == 1 and ATTEMPT < int(sys.argv[1]):
    dist.destroy_process_group()
    time.sleep(0.3)  # by then rank 0 has failed, and its node has said so
    sys.exit(7)
dist.barrier()
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_ADDR",
         "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID")
facts = {name: os.environ[name] for name in names} | {"sum": x[0].item()}
os.write(1, f"\\ntorchrun:{RANK}│ @{json.dumps(facts)}\\n".encode())
dist.destroy_process_group()
"""


def torchruns(
    folder: Path,
    failures: int,
    *options: str,
) -> list[Ended]:
    """Run two nodes of one rank each, of which rank 1 fails so many times."""
    worker = folder / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    gang = ["--nnodes", "2", "--rdzv-backend", "rdmatrain", "--rdzv-id", "job"]
    gang += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command = [*TORCHRUN, *gang, *options, str(worker), str(failures)]
    with nothing_left_behind() as env:
        return finish([start(command, SECRET | env) for _ in range(2)])


def facts_by_rank(nodes: list[Ended]) -> list[dict[str, object]]:
    found = {rank: facts for node in nodes for rank, facts in node.facts.items()}
    assert sorted(found) == [0, 1], "\n".join(node.out for node in nodes)
    return [found[0], found[1]]


def test_a_rank_that_fails_brings_a_new_round_on_both_nodes(tmp_path: Path) -> None:
    nodes = torchruns(tmp_path, 1, "--max-restarts", "2")
    assert [node.code for node in nodes] == [0, 0], nodes
    for rank, facts in enumerate(facts_by_rank(nodes)):
        assert facts == {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "GROUP_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            # Who only follows has not failed, so torchrun does not count it.
            "TORCHELASTIC_RESTART_COUNT": facts["TORCHELASTIC_RESTART_COUNT"],
            "TORCHELASTIC_RUN_ID": "job",
            "sum": 3.0,
        }


def test_a_rank_that_fails_for_good_ends_both_nodes(tmp_path: Path) -> None:
    began = time.monotonic()
    nodes = torchruns(tmp_path, 9)
    assert all(node.code != 0 for node in nodes), nodes
    assert time.monotonic() - began < 45
    assert any("exitcode  : 7" in node.out for node in nodes), "\n".join(n.out for n in nodes)


def handler(
    monkeypatch: pytest.MonkeyPatch, secret: str, port: int = 0, nodes: int = 2, **conf: object
) -> GangRendezvous:
    monkeypatch.setenv("RDMATRAIN_SECRET", secret)
    monkeypatch.delenv("RDMATRAIN_SECRET_FILE", raising=False)
    endpoint = f"127.0.0.1:{port}" if port else ""
    params = RendezvousParameters("rdmatrain", endpoint, "job", nodes, nodes, **conf)
    return get_handler()(params)


def errors_of(handlers: list[GangRendezvous]) -> list[Exception | None]:
    with ThreadPoolExecutor(len(handlers)) as pool:
        found = [each.exception(30) for each in [pool.submit(h.next_rendezvous) for h in handlers]]
    for each in handlers:
        each.shutdown()
    return found


def test_a_node_with_another_secret_does_not_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    first = handler(monkeypatch, "sixteen bytes or more", port, join_timeout=2)
    other = handler(monkeypatch, "another of sixteen bytes", port, join_timeout=2)
    errors = errors_of([first, other])
    assert [type(error) for error in errors] == [RendezvousTimeoutError] * 2
    assert any("another secret" in str(error) for error in errors)


def test_several_nodes_without_a_secret_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="needs a secret"):
        handler(monkeypatch, "", free_port()).next_rendezvous()


def test_several_nodes_without_an_endpoint_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match="--rdzv-endpoint"):
        handler(monkeypatch, "sixteen bytes or more")


def test_a_job_of_one_node_needs_neither_and_its_rounds_have_stores_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = handler(monkeypatch, "", nodes=1)
    try:
        ports = set()
        for _ in range(3):
            info = alone.next_rendezvous()
            assert (info.rank, info.world_size) == (0, 1)
            assert info.bootstrap_store_info.master_addr == "127.0.0.1"
            assert not info.store.check(["old"])
            info.store.set("old", "1")
            assert alone.num_nodes_waiting() == 0
            ports.add(info.bootstrap_store_info.master_port)
        assert len(ports) == 3
    finally:
        assert alone.shutdown()
    assert alone.is_closed()
    assert alone.shutdown()
