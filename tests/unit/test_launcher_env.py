"""The worker's environment, and the endpoint in it."""

import socket
from collections.abc import Iterator

import pytest

from rdmatrain.errors import SettingError
from rdmatrain.launcher.endpoint import Endpoint, choose_endpoint
from rdmatrain.launcher.env import default_omp_threads, new_run_id, overridden, worker_environment
from rdmatrain.launcher.spec import LaunchSpec


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def two_nodes(node_rank: int, port: int = 29500, addr: str = "127.0.0.1") -> LaunchSpec:
    return LaunchSpec(
        script="t.py",
        nproc_per_node=4,
        nnodes=2,
        node_rank=node_rank,
        master_addr=addr,
        master_port=port,
    )


def test_the_second_nodes_worker_sees_its_place_in_the_job() -> None:
    found = worker_environment(two_nodes(1), Endpoint("node-0", 29500), "id", 2, {})
    assert found == {
        "RANK": "6",
        "LOCAL_RANK": "2",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_RANK": "6",
        "ROLE_WORLD_SIZE": "8",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "node-0",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "id",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "PYTHONUNBUFFERED": "1",
        "RDMATRAIN_ARENA": "on",
    }


@pytest.mark.parametrize(("base", "found"), [("off", "off"), ("on", "on"), ("", "on")])
def test_workers_use_the_arena_unless_the_user_decided(base: str, found: str) -> None:
    env = worker_environment(
        two_nodes(1), Endpoint("node-0", 29500), "id", 2, {"RDMATRAIN_ARENA": base}
    )
    assert env["RDMATRAIN_ARENA"] == found


def test_the_base_is_inherited_except_for_an_outer_launchers_rank_and_store() -> None:
    base = {
        "HOME": "/home/me",
        "RANK": "77",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_ERROR_FILE": "/tmp/e",
    }
    found = worker_environment(LaunchSpec(script="t.py"), Endpoint("h", 1), "id", 0, base)
    assert found["HOME"] == "/home/me"
    assert found["RANK"] == "0"
    assert "TORCHELASTIC_USE_AGENT_STORE" not in found
    assert "TORCHELASTIC_ERROR_FILE" not in found
    assert base["RANK"] == "77"


def test_options_win_over_inherited_variables_and_only_a_change_is_told() -> None:
    spec = LaunchSpec(script="t.py", transport="tcp", require="tcp")
    base = {"RDMATRAIN_TRANSPORT": "shm", "RDMATRAIN_REQUIRE": "tcp", "RDMATRAIN_LOG": "info"}
    found = worker_environment(spec, Endpoint("h", 1), "id", 0, base)
    assert (found["RDMATRAIN_TRANSPORT"], found["RDMATRAIN_REQUIRE"]) == ("tcp", "tcp")
    assert found["RDMATRAIN_LOG"] == "info"
    assert overridden(spec, base) == ["--transport tcp replaces RDMATRAIN_TRANSPORT=shm"]
    assert overridden(spec, {"RDMATRAIN_REQUIRE": ""}) == []


def test_without_options_the_variables_are_inherited() -> None:
    base = {"RDMATRAIN_TRANSPORT": "shm"}
    spec = LaunchSpec(script="t.py")
    found = worker_environment(spec, Endpoint("h", 1), "id", 0, base)
    assert found["RDMATRAIN_TRANSPORT"] == "shm"
    assert "RDMATRAIN_REQUIRE" not in found
    assert overridden(spec, base) == []


@pytest.mark.parametrize(
    ("nproc", "num_cpus", "base", "expected"),
    [
        (2, 8, {}, 4),
        (3, 8, {}, 2),
        (4, 2, {}, 1),
        (2, 8, {"OMP_NUM_THREADS": "7"}, None),
        (1, 8, {}, None),
    ],
)
def test_omp_threads_share_the_cpus_unless_the_user_decided(
    nproc: int, num_cpus: int, base: dict[str, str], expected: int | None
) -> None:
    spec = LaunchSpec(script="t.py", nproc_per_node=nproc)
    assert default_omp_threads(spec, base, num_cpus) == expected


def test_run_ids_differ_between_jobs_of_one_node_and_agree_between_nodes() -> None:
    alone = LaunchSpec(script="t.py")
    assert new_run_id(alone) != new_run_id(alone)
    assert new_run_id(two_nodes(0)) == new_run_id(two_nodes(1))


def test_a_free_port_is_chosen_for_one_node() -> None:
    host, port = choose_endpoint(LaunchSpec(script="t.py"))
    assert host == "127.0.0.1"
    with socket.socket() as listener:
        listener.bind((host, port))


def test_a_port_in_use_is_refused_on_node_rank_0(taken_port: int) -> None:
    with pytest.raises(SettingError) as caught:
        choose_endpoint(two_nodes(0, taken_port))
    text = str(caught.value)
    assert f"--master-port {taken_port} is in use on 127.0.0.1" in text
    assert "choose another port with --master-port" in text


def test_a_port_in_use_on_another_address_of_the_host_is_refused(taken_port: int) -> None:
    with pytest.raises(SettingError, match="is in use"):
        choose_endpoint(two_nodes(0, taken_port, "127.0.0.2"))


def test_other_nodes_do_not_look_at_the_port(taken_port: int) -> None:
    assert choose_endpoint(two_nodes(1, taken_port)) == ("127.0.0.1", taken_port)


def test_an_address_that_is_not_ours_is_left_to_the_network() -> None:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
    assert choose_endpoint(two_nodes(0, port, "192.0.2.1")) == ("192.0.2.1", port)


def test_a_master_that_does_not_resolve_is_named() -> None:
    with pytest.raises(SettingError, match=r"--master-addr 'no-such-host.invalid'.*resolve"):
        choose_endpoint(two_nodes(0, addr="no-such-host.invalid"))
