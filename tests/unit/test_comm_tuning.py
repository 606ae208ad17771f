"""The tuning table, changes to it, and the command that prints it."""

import pytest
from click.testing import CliRunner, Result

from rdmatrain import _core
from rdmatrain.cli import cli
from rdmatrain.comm.pairs import ASSUMED_GBPS
from rdmatrain.comm.tuning import (
    parse_tuning,
    tuning_table,
    tuning_text,
    ways_table,
    whole_table,
)
from rdmatrain.errors import SettingError
from rdmatrain.topo.tuning import Group


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        (" , ", {}),
        ("direct=0", {"direct": 0}),
        ("direct=65", {"direct": 65}),
        ("direct=8K", {"direct": 8192}),
        ("chunk = 1m ,direct=16k", {"direct": 16384, "chunk": 1 << 20}),
        ("one_shot=3G", {"one_shot": 3 << 30}),
        ("direct=1,direct=2", {"direct": 2}),
        ("way=by_host", {"way": 2}),
        ("way=Least", {"way": 0}),
        ("way=3", {"way": 3}),
    ],
)
def test_sizes_are_bytes_and_units_are_powers_of_1024(text: str, changes: dict[str, int]) -> None:
    assert parse_tuning(text) == changes


def test_changes_come_in_the_order_of_the_table_whatever_the_texts() -> None:
    one, other = parse_tuning("block=64,one_shot=1K"), parse_tuning("one_shot=1024,block=64")
    assert list(one) == ["one_shot", "block"]
    assert tuning_text(one) == tuning_text(other) == "one_shot=1024,block=64"
    assert parse_tuning(tuning_text(one)) == one


@pytest.mark.parametrize("pair", ["direct", "direct=", "direct=8KB", "direct=-1", "direct=1.5K"])
def test_a_size_that_is_none_is_quoted_and_a_right_one_shown(pair: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_tuning(f"block=64,{pair}")
    assert str(caught.value) == (
        f"RDMATRAIN_TUNING: {pair!r} has no size: write direct=65536 or direct=64K"
    )


def test_a_name_that_resembles_one_of_the_table_is_corrected() -> None:
    with pytest.raises(SettingError, match=r"'oneshot' is not .*: did you mean one_shot\?"):
        parse_tuning("oneshot=8K")


def test_a_name_that_resembles_none_gets_the_list_of_names() -> None:
    with pytest.raises(SettingError) as caught:
        parse_tuning("zzz=8K")
    assert f"names are {', '.join(_core.TUNING)}" in str(caught.value)


def rows(table: str) -> dict[str, list[str]]:
    """Cells of the table by name: the value, and the first word of where it comes from."""
    return {line.split()[0]: line.split()[1:3] for line in table.splitlines()[1:]}


def test_the_table_has_every_name_with_its_bytes_source_and_meaning() -> None:
    table = tuning_table(5, 1, 0.0, {"direct": 12345})
    found = rows(table)
    assert found.pop("direct") == ["12345", "RDMATRAIN_TUNING"]
    defaults = _core.default_tuning(5)
    sources = {name: "tcp" if name.startswith("net_") else "5" for name in defaults}
    assert found == {
        name: [str(defaults[name]), sources[name]] for name in defaults if name != "direct"
    }
    for meaning in _core.TUNING.values():
        assert meaning in table


def test_the_default_depends_on_the_ranks_where_all_of_them_are_sent_to() -> None:
    assert _core.default_tuning(5)["one_shot"] * 4 == _core.default_tuning(2)["one_shot"]


NET = ("net_latency", "net_message", "net_bandwidth")


def test_two_ranks_over_verbs_send_all_at_once_up_to_64_kib() -> None:
    tcp, verbs = whole_table(2, 2, 0.0, {}), whole_table(2, 2, 200.0, {})
    assert {name for name in tcp if tcp[name] != verbs[name]} == {"one_shot", "chunk", *NET}
    assert verbs["one_shot"] == 64 << 10 > tcp["one_shot"]
    assert rows(tuning_table(2, 2, 200.0, {}))["one_shot"] == ["65536", "verbs"]


def test_over_verbs_only_what_the_network_costs_is_another() -> None:
    tcp, verbs = whole_table(6, 1, 0.0, {}), whole_table(6, 1, 200.0, {})
    assert {name for name in tcp if tcp[name] != verbs[name]} == set(NET)
    # Of 200 Gbit/s, 25,000 MB/s, perftest finds 98 %.
    assert [verbs[name] for name in NET] == [2500, 400, 24_500]
    assert tcp == _core.default_tuning(6)


def test_a_way_that_there_is_not_is_told_with_those_that_there_are() -> None:
    ways = "least, flat, by_host, gather, halving"
    with pytest.raises(SettingError, match=f"'way=halvin' has no way: ways are {ways}"):
        parse_tuning("way=halvin")


def test_messages_are_larger_where_tcp_joins_hosts() -> None:
    one, two = whole_table(4, 1, 0.0, {}), whole_table(4, 2, 0.0, {})
    assert {name for name in one if one[name] != two[name]} == {"chunk"}
    assert (one["chunk"], two["chunk"]) == (128 << 10, 512 << 10)
    assert whole_table(4, 2, 100.0, {})["chunk"] == 128 << 10
    assert rows(tuning_table(4, 2, 0.0, {}))["chunk"] == ["524288", "tcp"]


def test_what_is_set_of_the_network_goes_over_what_verbs_has() -> None:
    table = whole_table(6, 6, 100.0, {"net_latency": 7, "chunk": 1 << 20})
    assert [table[name] for name in NET] == [7, 400, 12_250]
    assert rows(tuning_table(6, 6, 100.0, {"net_latency": 7}))["net_latency"] == [
        "7",
        "RDMATRAIN_TUNING",
    ]


def way_of(ranks: int, hosts: int, nbytes: int, verbs_gbps: float, coll: str = "all_reduce") -> str:
    table = whole_table(ranks, hosts, verbs_gbps, {})
    ways = _core.collective_ways(coll, ranks, hosts, nbytes, table)
    return next(name for name, _, chosen in ways if chosen)


@pytest.mark.parametrize(
    ("ranks", "hosts", "nbytes", "ways"),
    [
        # 2 x 2 levels of 3 messages, or 4 stages of 2 with 15 times the bytes: only 400 Gbit/s pay.
        (16, 16, 4096, ("halving", "halving", "gather")),
        # 2 phases of 6 messages: 7 hosts are no grid.
        (7, 7, 1 << 20, ("flat", "flat", "flat")),
        # 2 x 1 exchange with 3 messages in place of 2 x 2 with one each.
        (4, 4, 1 << 20, ("flat", "flat", "flat")),
        (128, 128, 64 << 10, ("halving", "halving", "halving")),
        # 8 messages over the network are dear, or cheaper than two more exchanges in the host.
        (16, 2, 256, ("by_host", "flat", "flat")),
        # 2 ranks of a host move less memory if both talk to both of the other: 49 GB/s have room.
        (4, 2, 1 << 20, ("by_host", "by_host", "flat")),
        (128, 16, 1 << 20, ("halving", "halving", "halving")),
        (104, 13, 1 << 20, ("by_host", "by_host", "by_host")),
    ],
)
def test_the_way_of_an_all_reduce_follows_the_network(
    ranks: int, hosts: int, nbytes: int, ways: tuple[str, ...]
) -> None:
    assert tuple(way_of(ranks, hosts, nbytes, gbps) for gbps in (0.0, 100.0, 400.0)) == ways


@pytest.mark.parametrize(
    "tuning", [{"chunk": 100}, {"chunk": 0}, {"block": 63}, {"way": 5}, {"net_bandwidth": 0}]
)
def test_the_core_refuses_what_it_cannot_run_with(tuning: dict[str, int]) -> None:
    ((name, size),) = tuning.items()
    with pytest.raises(Exception, match=f"{name}={size}"):
        _core.Comm(0, 2, bytes(16), tuning=tuning)


# -- rdmatrain topo --tuning --


def topo(*args: str, tuning: str = "") -> Result:
    return CliRunner().invoke(cli, ["topo", *args], env={"RDMATRAIN_TUNING": tuning})


def test_the_command_prints_the_table_of_so_many_ranks() -> None:
    assert topo("--tuning").output == tuning_table(2, 1, 0.0, {}) + "\n"
    assert topo("--tuning", "--ranks", "7").output == tuning_table(7, 1, 0.0, {}) + "\n"


def test_the_command_shows_what_the_variable_changes() -> None:
    ended = topo("--tuning", tuning="chunk=64K")
    assert ended.exit_code == 0
    assert rows(ended.output)["chunk"] == ["65536", "RDMATRAIN_TUNING"]


def test_a_wrong_variable_is_one_line_and_exit_code_2() -> None:
    ended = topo("--tuning", tuning="chunks=64K")
    assert ended.exit_code == 2
    assert ended.output == (
        "Error: RDMATRAIN_TUNING: 'chunks' is not in the tuning table: did you mean chunk?\n"
    )


def test_the_command_shows_the_way_of_each_size_where_there_are_hosts() -> None:
    ended = topo("--tuning", "--ranks", "8", "--hosts", "2")
    assert ended.output == f"{tuning_table(8, 2, 0.0, {})}\n\n{ways_table(8, 2, 0.0, {})}\n"
    ways = ways_of(ways_table(8, 2, 0.0, {}))
    assert ways[8] == "flat" and ways[max(ways)] == "by_host"
    assert "by_host" not in ways_of(ways_table(8, 3, 0.0, {})).values()


def ways_of(table: str) -> dict[int, str]:
    """Which way an all_reduce takes, by bytes."""
    lines = table.split("\n\n")[0].splitlines()[1:]
    return {int(line.split()[0]): line.split()[1] for line in lines}


def test_the_command_shows_what_joins_hosts_by_verbs_cost() -> None:
    asked = ("--tuning", "--ranks", "16", "--hosts", "16", "--transport")
    assert topo(*asked, "tcp").output == topo(*asked[:-1]).output
    table, ways, gathers, scatters = topo(*asked, "verbs").output.split("\n\n")
    assert table == tuning_table(16, 16, 100.0, {})
    assert rows(table)["net_bandwidth"] == ["12250", "verbs"]
    assert "  verbs 100 Gbit/s  ns: an exchange between hosts," in table
    fast = topo(*asked, "verbs", "--gbps", "400").output.split("\n\n")[1]
    assert (ways_of(ways)[4096], ways_of(fast)[4096]) == ("halving", "gather")
    assert gathers.split()[:2] == ["all_gather", "way"]
    assert scatters.split()[:2] == ["reduce_scatter", "way"]
    assert set(ways_of(gathers).values()) == set(ways_of(scatters).values()) == {"halving"}
    assert [each.splitlines()[1].split()[4] for each in (gathers, scatters)] == ["13.2", "-"]


def test_a_rate_that_nobody_says_is_the_one_that_a_group_assumes() -> None:
    assert Group.gbps == ASSUMED_GBPS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tuning", "--gbps", "400"], "--gbps is of RDMA ports: add --transport verbs"),
        (["--transport", "verbs"], "are of the tuning table: add --tuning"),
        (["--tuning", "--json"], "--ranks, --hosts, --transport and --gbps, with nothing else"),
        (["--tuning", "--transport", "verbs", "--gbps", "0"], "0 is not in the range"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: list[str], said: str) -> None:
    ended = topo(*options)
    assert ended.exit_code == 2
    assert said in ended.output


def test_the_costs_are_the_core_s_and_the_way_that_is_said_is_taken() -> None:
    name, cost, chosen = _core.collective_ways("all_reduce", 8, 2, 1 << 20, {"way": 1})[0]
    assert (name, chosen) == ("flat", True)
    assert cost is not None
    row = ways_table(8, 2, 0.0, {"way": 1}).split("\n\n")[0].splitlines()[-3].split()
    again = dict(
        (n, ns) for n, ns, _ in _core.collective_ways("all_reduce", 8, 2, int(row[0]), {"way": 1})
    )
    assert row[1:3] == ["flat", f"{again['flat'] / 1000:.1f}"]  # type: ignore[operator]


def test_more_hosts_than_ranks_are_refused() -> None:
    ended = topo("--ranks", "2", "--hosts", "3")
    assert ended.exit_code == 2
    assert ended.output == "Error: --hosts 3 is more than --ranks 2\n"


@pytest.mark.parametrize("ranks", ["0", "4097", "99999999999999999999"])
def test_the_command_refuses_a_world_that_no_group_has(ranks: str) -> None:
    ended = topo("--ranks", ranks)
    assert ended.exit_code == 2
    assert ranks in ended.output


@pytest.mark.parametrize("text", ["chunk=100", "chunk=0", "block=1", "one_shot=999999999999G"])
def test_a_table_that_a_job_would_refuse_is_refused_at_once(text: str) -> None:
    with pytest.raises(SettingError, match="RDMATRAIN_TUNING"):
        parse_tuning(text)
    assert topo("--tuning", tuning=text).exit_code == 2
