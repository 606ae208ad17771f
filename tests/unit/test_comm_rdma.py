"""Ports and GIDs are chosen by test; whatever is not chosen has a reason."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_rdma import V1, V2, FakeVerbs, write_port

from rdmatrain.comm import rdma
from rdmatrain.comm.rdma import Search, find_rails, limited, listen_argument, rails_of
from rdmatrain.config import Settings
from rdmatrain.discovery import probes
from rdmatrain.discovery.source import Tree
from rdmatrain.errors import BootstrapError

DEFAULTS = Settings()
USUAL = {  # the table of a NIC with an IPv4 address
    0: ("fe80::1", V1, "eth0"),
    1: ("fe80::1", V2, "eth0"),
    2: ("10.0.0.1", V1, "eth0"),
    3: ("10.0.0.1", V2, "eth0"),
}


def found(root: Path, verbs: FakeVerbs, settings: Settings = DEFAULTS) -> Search:
    return find_rails(settings, verbs, Tree(root))


def chosen(search: Search) -> dict[str, int]:
    return {str(rail.port): rail.gid.index for rail in search.rails}


def one_port(root: Path, gids: dict, **settings: str) -> Search:
    write_port(root, "mlx5_0/1", gids)
    return found(root, FakeVerbs({"mlx5_0/1": {}}), Settings(**settings))


def test_roce_v2_over_ipv4_is_preferred_to_what_comes_first(tmp_path: Path) -> None:
    search = one_port(tmp_path, USUAL)
    assert chosen(search) == {"mlx5_0/1": 3}
    assert str(search.rails[0]) == "mlx5_0/1 gid 3 RoCE v2 10.0.0.1 MTU 4096"
    assert (search.why_not, search.present) == ("", True)


@pytest.mark.parametrize(
    ("gids", "index"),
    [
        ({0: ("fe80::1", V2), 4: ("2001:db8::1", V2), 5: ("fd00::1", V2)}, 4),  # IPv6 only
        ({0: ("fe80::1", V2), 5: ("fd00::1", V2)}, 5),
        ({0: ("fe80::1", V1), 1: ("fe80::1", V2)}, 1),  # link-local only
        ({0: ("169.254.0.9", V2), 1: ("fd00::1", V2)}, 1),
        ({7: ("10.0.0.9", V2), 5: ("10.0.0.5", V2)}, 5),  # of equals the first
        ({200: ("10.0.0.1", V2)}, 200),  # sparse
    ],
)
def test_the_address_that_reaches_furthest_is_chosen(
    tmp_path: Path, gids: dict, index: int
) -> None:
    assert chosen(one_port(tmp_path, gids)) == {"mlx5_0/1": index}


def test_roce_v1_is_not_chosen_even_where_there_is_nothing_else(tmp_path: Path) -> None:
    search = one_port(tmp_path, {0: ("fe80::1", V1), 1: ("10.0.0.1", V1)})
    assert search.rails == () and search.present
    assert "gid 1 RoCE v1 10.0.0.1: RoCE v1 is used only where" in search.why_not
    assert "RDMATRAIN_GID_INDEX" in search.why_not


def test_roce_v1_is_used_when_it_is_asked_for(tmp_path: Path) -> None:
    assert chosen(one_port(tmp_path, USUAL, gid_index="2")) == {"mlx5_0/1": 2}


def test_an_entry_whose_type_cannot_be_read_is_not_even_tested(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", {0: ("10.0.0.1", ""), 1: ("2001:db8::1", V2)})
    verbs = FakeVerbs({"mlx5_0/1": {}})
    assert chosen(found(tmp_path, verbs)) == {"mlx5_0/1": 1}
    assert verbs.tested == [("mlx5_0/1", 1)]


def test_an_entry_of_another_namespace_is_passed_over(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", USUAL)
    verbs = FakeVerbs({"mlx5_0/1": {}}, bad={("mlx5_0/1", 3): "No such device"})
    assert chosen(found(tmp_path, verbs)) == {"mlx5_0/1": 1}
    assert verbs.tested == [("mlx5_0/1", 3), ("mlx5_0/1", 1)]


def test_all_entries_that_work_are_kept_in_order(tmp_path: Path) -> None:
    gids = {i: (f"fe80::{i}", V2) for i in range(12)} | {9: ("10.0.0.9", V2), 4: ("fd00::4", V2)}
    write_port(tmp_path, "mlx5_0/1", gids)
    verbs = FakeVerbs({"mlx5_0/1": {}}, bad={("mlx5_0/1", 0): "No such device"})
    (rail,) = found(tmp_path, verbs).rails
    assert [gid.index for gid in rail.gids] == [9, 4, 1, 2, 3, 5, 6, 7]
    assert listen_argument([rail], "10.0.0.9", DEFAULTS) == (
        "rails=mlx5_0/1/9,4,1,2,3,5,6,7 addr=10.0.0.9"
    )


def test_without_a_usable_gid_each_entry_has_its_reason(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", USUAL)
    bad = {("mlx5_0/1", 3): "No such device", ("mlx5_0/1", 1): "Network is unreachable"}
    search = found(tmp_path, FakeVerbs({"mlx5_0/1": {}}, bad=bad))
    assert search.rails == ()
    assert "mlx5_0/1: no usable GID" in search.why_not
    assert "gid 3 RoCE v2 10.0.0.1 on eth0: No such device" in search.why_not
    assert "gid 1 RoCE v2 fe80::1 on eth0: Network is unreachable" in search.why_not


def test_a_forced_index_that_does_not_work_shows_the_table(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", USUAL)
    verbs = FakeVerbs({"mlx5_0/1": {}}, bad={("mlx5_0/1", 1): "No such device"})
    with pytest.raises(BootstrapError) as caught:
        found(tmp_path, verbs, Settings(gid_index="1"))
    text = str(caught.value)
    assert "RDMATRAIN_GID_INDEX=1, which does not work on mlx5_0/1" in text
    assert "gid 1 RoCE v2 fe80::1 on eth0: No such device" in text
    assert "gid 3 RoCE v2 10.0.0.1 on eth0: usable" in text
    assert "gid 0 RoCE v1 fe80::1 on eth0: RoCE v1 is used only" in text


def test_a_forced_index_that_the_table_does_not_have_says_so(tmp_path: Path) -> None:
    with pytest.raises(BootstrapError, match="RDMATRAIN_GID_INDEX=9, which has no such entry"):
        one_port(tmp_path, USUAL, gid_index="9")


def test_infiniband_takes_its_first_gid(tmp_path: Path) -> None:
    gids = {0: ("fe80::506b:4b03", V1), 1: ("fe80::1", V1)}
    write_port(tmp_path, "mlx5_0/1", gids, link_layer="InfiniBand")
    search = found(tmp_path, FakeVerbs({"mlx5_0/1": {"link_layer": "InfiniBand"}}))
    assert chosen(search) == {"mlx5_0/1": 0}
    assert str(search.rails[0]).startswith("mlx5_0/1 gid 0 InfiniBand fe80::")


# Devices


def write_machine(root: Path, *names: str, **port: str) -> FakeVerbs:
    for number, name in enumerate(names):
        write_port(root, name, {1: (f"10.0.0.{number + 1}", V2)}, **port)
    return FakeVerbs({name: {} for name in names})


def test_without_a_device_nobody_is_asked(tmp_path: Path) -> None:
    verbs = FakeVerbs({}, missing="no libibverbs")
    search = found(tmp_path, verbs)
    assert "there is no RDMA device" in search.why_not and not search.present


def test_without_libibverbs_devices_are_present_but_unusable(tmp_path: Path) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1")
    verbs.missing = "RDMA needs libibverbs"
    assert found(tmp_path, verbs) == Search((), "RDMA needs libibverbs", present=True)


def test_ports_that_are_down_are_named_when_there_are_no_others(tmp_path: Path) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1", "mlx5_1/1")
    verbs.ports["mlx5_0/1"]["state"] = "DOWN"
    assert chosen(found(tmp_path, verbs)) == {"mlx5_1/1": 1}
    verbs.ports["mlx5_1/1"]["state"] = "INIT"
    why_not = found(tmp_path, verbs).why_not
    assert why_not == "mlx5_0/1: the port is DOWN; mlx5_1/1: the port is INIT"


def test_a_device_that_cannot_be_opened_says_why_for_each_of_its_ports(tmp_path: Path) -> None:
    write_machine(tmp_path, "mlx5_0/1", "mlx5_0/2")
    error = "opening RDMA device mlx5_0: Permission denied (may this user open it?)"
    search = found(tmp_path, FakeVerbs({"mlx5_0/0": {"state": "UNKNOWN", "error": error}}))
    assert search.why_not == f"mlx5_0/1: {error}; mlx5_0/2: {error}"


def test_a_device_that_sysfs_alone_shows_says_what_to_do(tmp_path: Path) -> None:
    write_machine(tmp_path, "mlx5_0/1")
    search = found(tmp_path, FakeVerbs({}))
    assert "mlx5_0/1: libibverbs does not list it" in search.why_not
    assert "/dev/infiniband" in search.why_not


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("", ["mlx5_0/1", "mlx5_1/1", "mlx5_1/2"]),
        ("mlx5_1", ["mlx5_1/1", "mlx5_1/2"]),
        ("mlx5_1:2,mlx5_0", ["mlx5_0/1", "mlx5_1/2"]),
        ("^mlx5_0", ["mlx5_1/1", "mlx5_1/2"]),
        ("^mlx5_1:1,mlx5_7", ["mlx5_0/1", "mlx5_1/2"]),
    ],
)
def test_devices_can_be_named_and_excluded(
    tmp_path: Path, devices: str, expected: list[str]
) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1", "mlx5_1/1", "mlx5_1/2")
    assert list(chosen(found(tmp_path, verbs, Settings(devices=devices)))) == expected


@pytest.mark.parametrize(
    ("devices", "missing"), [("mlx5_0,mlx5_9", "no mlx5_9 here"), ("mlx5_0:2", "no port 2 of mlx5")]
)
def test_a_named_device_that_is_not_here_is_an_error(
    tmp_path: Path, devices: str, missing: str
) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1")
    with pytest.raises(BootstrapError) as caught:
        found(tmp_path, verbs, Settings(devices=devices))
    assert f"RDMATRAIN_DEVICES={devices}" in str(caught.value)
    assert missing in str(caught.value) and "the ports are mlx5_0/1" in str(caught.value)


@pytest.mark.parametrize("broken", ["down", "no gid", "closed", "no library"])
def test_a_named_device_that_cannot_be_used_is_an_error(tmp_path: Path, broken: str) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1", "mlx5_1/1")
    if broken == "down":
        verbs.ports["mlx5_1/1"]["state"] = "DOWN"
    elif broken == "no gid":
        verbs.bad["mlx5_1/1", 1] = "No such device"
    elif broken == "closed":
        del verbs.ports["mlx5_1/1"]
    else:
        verbs.missing = "no libibverbs"
    assert found(tmp_path, verbs).present
    with pytest.raises(BootstrapError, match="RDMATRAIN_DEVICES=mlx5_1") as caught:
        found(tmp_path, verbs, Settings(devices="mlx5_1"))
    assert "cannot be used" in str(caught.value)


def test_excluding_everything_says_so(tmp_path: Path) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1")
    search = found(tmp_path, verbs, Settings(devices="^mlx5_0"))
    assert search.why_not == "mlx5_0/1: excluded by RDMATRAIN_DEVICES=^mlx5_0"


def test_ports_of_two_link_layers_do_not_mix_unless_they_are_named(tmp_path: Path) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1", "mlx5_1/1", link_layer="InfiniBand")
    write_port(tmp_path, "mlx5_bond_0/1", {0: ("10.0.0.9", V2)})
    verbs.ports["mlx5_bond_0/1"] = {"speed_gbps": 150.0}
    assert list(chosen(found(tmp_path, verbs))) == ["mlx5_0/1", "mlx5_1/1"]
    named = found(tmp_path, verbs, Settings(devices="mlx5_bond_0"))
    assert list(chosen(named)) == ["mlx5_bond_0/1"]
    both = found(tmp_path, verbs, Settings(devices="mlx5_bond_0,mlx5_1"))
    assert list(chosen(both)) == ["mlx5_1/1", "mlx5_bond_0/1"]


def test_the_search_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.05)
    write_port(tmp_path, "mlx5_0/1", {i: (f"10.0.0.{i}", V2) for i in range(1, 101)}, table=100)

    class Slow(FakeVerbs):
        def rdma_test_gid(self, device: str, port: int, index: int, /) -> str:
            time.sleep(0.03)
            self.tested.append((device, index))
            return "No such device"

    verbs = Slow({"mlx5_0/1": {}})
    search = found(tmp_path, verbs)
    assert 1 <= len(verbs.tested) <= 3
    assert "not tested: 0.05 s were over" in search.why_not
    assert len(search.why_not) <= rdma.MAX_REASON


# Rails


@pytest.mark.parametrize(
    ("num_ports", "local_ranks", "dealt"),
    [
        (1, 1, ["0"]),
        (1, 3, ["0", "0", "0"]),
        (2, 2, ["0", "1"]),
        (4, 2, ["02", "13"]),
        (5, 2, ["024", "13"]),
        (3, 1, ["012"]),
        (2, 3, ["0", "1", "0"]),
        (0, 2, ["", ""]),
        (9, 1, ["0123"]),  # as many as the transport takes
        (9, 2, ["0246", "1357"]),
    ],
)
def test_ports_are_dealt_out_to_the_ranks_of_a_host(
    tmp_path: Path, num_ports: int, local_ranks: int, dealt: list[str]
) -> None:
    verbs = write_machine(tmp_path, *(f"mlx5_{i}/1" for i in range(num_ports)))
    rails = found(tmp_path, verbs).rails
    got = [rails_of(rails, rank, local_ranks) for rank in range(local_ranks)]
    assert ["".join(rail.port.device[-1] for rail in mine) for mine in got] == dealt


def test_a_ranks_own_ports_are_not_dealt_out_again(tmp_path: Path) -> None:
    verbs = write_machine(tmp_path, "mlx5_0/1", "mlx5_1/1", "mlx5_2/1")
    rails = found(tmp_path, verbs, Settings(devices="=mlx5_1,mlx5_2:1")).rails
    got = [rails_of(rails, rank, 8, own=True) for rank in range(8)]
    assert [[str(rail.port) for rail in mine] for mine in got] == [["mlx5_1/1", "mlx5_2/1"]] * 8


def test_the_transport_is_told_rails_address_and_what_is_set(tmp_path: Path) -> None:
    rails = found(tmp_path, write_machine(tmp_path, "mlx5_0/1", "mlx5_2/1")).rails
    plain = "rails=mlx5_0/1/1+mlx5_2/1/1 addr=10.0.0.9"
    assert listen_argument(rails, "10.0.0.9", DEFAULTS) == plain
    marked = Settings(traffic_class="106", service_level="0", pkey="1", mtu="1024", retry_ms="8000")
    assert listen_argument(rails[:1], "fd00::9", marked) == (
        "rails=mlx5_0/1/1 addr=fd00::9 tc=106 sl=0 pkey=1 mtu=1024 retry=8000"
    )


@pytest.mark.parametrize(("wanted", "mtu"), [("", 4096), ("1024", 1024), ("4096", 4096)])
def test_the_mtu_that_is_said_is_no_larger_than_wanted(
    tmp_path: Path, wanted: str, mtu: int
) -> None:
    rails = found(tmp_path, write_machine(tmp_path, "mlx5_0/1")).rails
    assert [rail.mtu for rail in limited(rails, Settings(mtu=wanted))] == [mtu]
    small = [replace(rail, mtu=512) for rail in rails]
    assert [rail.mtu for rail in limited(small, Settings(mtu=wanted))] == [512]
