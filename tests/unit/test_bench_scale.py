# SPDX-License-Identifier: Apache-2.0
import itertools
import json
import os
import signal
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from rdmatrain import _core
from rdmatrain.bench.commands import scale as command
from rdmatrain.bench.machine import context_of
from rdmatrain.bench.scale import command as scale
from rdmatrain.bench.scale import engine, fed, plans, report, setup, simulate
from rdmatrain.bench.scale.command import ScaleOptions, check
from rdmatrain.bench.scale.engine import Stage
from rdmatrain.bench.scale.measured import Measured
from rdmatrain.bench.scale.plans import Costs, Group
from rdmatrain.bench.scale.simulate import Network, Plan, Point
from rdmatrain.bench.scale.threads import RanksError, at_once
from rdmatrain.bench.scale.validate import Check
from rdmatrain.errors import SettingError

COSTS = Costs(1e-6, 1e-7, 1e-6, 1e-7, 1e9)
NETWORK = Network(400.0, 2e-6, 1e-7, 3e-7)
LOOPBACK = "127.0.0.1"
SECONDS = 20.0
COUNT = 1000


def sent_by_plan(group: Group, way: str, count: int) -> np.ndarray:
    """Bytes from each rank to each other one, by what the binding tells of the plan."""
    sent = np.zeros((group.ranks, group.ranks), np.int64)
    for rank in range(group.ranks):
        changes = {"way": 1 + plans.WAYS.index(way)}
        for item in _core.all_reduce_sends(group.ranks, group.hosts, rank, count, changes):
            sent[rank, np.frombuffer(item[3], np.uint32)] += np.frombuffer(item[4], np.int64)
    return sent


def sent_by_ranks(group: Group, way: str, count: int) -> np.ndarray:
    """The same, as ranks that really reduce count it."""
    token = os.urandom(16)
    hosts = [rank // group.per_host for rank in range(group.ranks)]
    changes = {"way": 1 + plans.WAYS.index(way)}
    comms = [
        _core.Comm(rank, group.ranks, token, hosts=hosts, tuning=changes)
        for rank in range(group.ranks)
    ]
    peers = [("tcp", comm.listen("tcp", LOOPBACK), "") for comm in comms]

    def body(rank: int) -> list[int]:
        comms[rank].connect(peers, SECONDS)
        data = np.full(count, rank + 1, np.float32)
        comms[rank].post("all_reduce", "float32", in_=data, out=data, timeout=SECONDS).wait()
        assert (data == group.ranks * (group.ranks + 1) / 2).all()
        return [peer["sent_bytes"] for peer in comms[rank].stats()]

    try:
        return np.array(at_once(group.ranks, body, SECONDS).given)
    finally:
        at_once(group.ranks, lambda rank: comms[rank].close(), SECONDS)


@pytest.mark.parametrize(
    ("group", "way", "count"),
    [
        (Group(5, 1), "flat", COUNT),
        (Group(6, 2), "flat", 16 * COUNT),
        (Group(6, 2), "by_host", COUNT),
        (Group(8, 4), "by_host", 16 * COUNT + 3),
        (Group(7, 1), "gather", COUNT),
        (Group(6, 1), "halving", COUNT),
        (Group(8, 2), "halving", 16 * COUNT + 3),
    ],
)
def test_the_plan_that_is_simulated_is_what_ranks_send(group, way, count):
    assert (sent_by_plan(group, way, count) == sent_by_ranks(group, way, count)).all()


def test_every_rank_hears_of_every_other_in_a_flat_plan():
    for rank in range(9):
        (stage, *_, to, _, messages), *_ = _core.all_reduce_sends(9, 3, rank, 2, {"way": 1})
        assert stage == 0
        assert set(np.frombuffer(to, np.uint32)) == set(range(9)) - {rank}
        assert (np.frombuffer(messages, np.uint32) >= 1).all()  # an empty one carries the call


def test_a_group_that_is_none_is_refused():
    with pytest.raises(ValueError, match="rank 9 of 9 ranks on 3 hosts"):
        _core.all_reduce_sends(9, 3, 9, 1, {})
    with pytest.raises(ValueError, match="9 ranks on 2 hosts"):
        _core.all_reduce_sends(9, 2, 0, 1, {})


def test_ways_that_do_not_fit_are_left_out():
    assert plans.fits(Group(64, 8), "by_host", 64)
    assert not plans.fits(Group(8, 8), "by_host", 64)  # one host
    assert plans.fits(Group(16384, 8), "gather", 64)
    assert not plans.fits(Group(16384, 8), "gather", 128)  # all inputs: more than 1 MiB
    assert plans.fits(Group(2, 2), "flat", 64)
    assert plans.fits(Group(32, 8), "halving", 64)
    assert not plans.fits(Group(24, 8), "halving", 64)  # 3 hosts: a prime number


@pytest.mark.parametrize("way", plans.WAYS)
def test_merged_messages_carry_the_bytes_of_all(way):
    group, nbytes = Group(64, 8), 4096
    whole, few = (plans.stages(group, way, nbytes, COSTS, merge) for merge in (64, 2))
    for one, other in zip(whole, few, strict=True):
        for a, b in zip(one, other, strict=True):
            assert sum(b.nbytes) == pytest.approx(sum(a.nbytes))
            assert len(b.to) == min(len(a.to), 2)
            assert a.busy_s == b.busy_s  # each message is paid for


def test_merged_messages_come_to_all_ranks_alike():
    ranks = plans.stages(Group(64, 8), "flat", 1 << 20, COSTS, 2)
    assert {stage.arrivals for rank in ranks for stage in rank} == {2}
    arrived = np.zeros(64)
    for rank in ranks:
        np.add.at(arrived, list(rank[0].to), list(rank[0].nbytes))
    assert arrived == pytest.approx(np.full(64, 56 * (1 << 20) / 64))


def test_what_a_rank_pays_itself_is_paid_for_each_message():
    # 8 ranks on 4 hosts: one message to the neighbour, 6 to others, of 4096 bytes each in one shot.
    costs = Costs(1.0, 100.0, 1e4, 1e6, 1e-3)
    ranks = plans.stages(Group(8, 2), "flat", 1024, costs, 8)
    assert ranks[0][0].before_s == 1.0
    near, reduced = 1e4 + 1e6 + 1024 / 1e-3, 6 * 1024 / 1e-3
    assert ranks[0][0].busy_s == pytest.approx(6 * 100.0 + near + reduced)


def test_rails_of_32_hosts_share_a_leaf():
    leaves = [simulate.node_of("rail", rank) // simulate.RADIX for rank in range(512)]
    for rank in range(512):
        host, rail = divmod(rank, simulate.PER_HOST)
        assert leaves[rank] == host // 32 * 8 + rail
    places = {simulate.node_of("rail", rank) for rank in range(1024)}
    assert places == set(range(1024))


def test_switches_are_counted_up_and_down():
    assert [simulate.switches(0, other) for other in (31, 32, 1023, 1024)] == [1, 3, 3, 5]


def test_a_stage_begins_later_by_its_longest_way():
    ranks = [[Stage(1.0, 0.0, 1, [1 - rank], [1.0])] for rank in range(2)]
    job = simulate.place("fat-tree", ranks, 0.25)
    assert [stages[0].before_s for stages in job.ranks] == [1.25, 1.25]


def test_the_bound_is_that_of_all_nics_of_a_host():
    # 50 GB/s a NIC, 8 in a host: 400 MB go out and in, 3/4 of them twice.
    assert simulate.bound_s(NETWORK, Group(32, 8), 400_000_000) == pytest.approx(1.5e-3)
    point = Point("rail", "flat", 32, 4, 400_000_000, 3e-3, 1.5e-3)
    assert point.percent == 50.0
    assert point.busbw == pytest.approx(400e6 / 3e-3 / 1e9 * 2 * 31 / 32)


def options(**given):
    base = {
        "parts": ("simulate",),
        "ranks": (2,),
        "setup_ranks": (2,),
        "kinds": ("eager",),
        "plan": Plan(("rail",), (8,), (64,)),
        "network": NETWORK,
        "json": "",
        "drawings": (),
    }
    return ScaleOptions(**base | given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"ranks": (0,)}, "--ranks: 0 is not between 2"),
        ({"setup_ranks": (5000,)}, "--setup-ranks: 5000 is not between 2 and 4096"),
        ({"plan": Plan(("rail",), (32768,), (64,))}, "--gpus: 32768 is not between 2 and 16384"),
        ({"plan": Plan(("rail",), (12,), (64,))}, "--gpus: 12 are no whole hosts of 8"),
        ({"plan": Plan(("rail",), (8,), (6,))}, "--bytes: 6 is not a multiple of 4"),
        ({"network": Network(0.0, 1e-6, 1e-7, 1e-7)}, "--gbps: 0"),
        ({"drawings": ("a.pdf",)}, "a.pdf: name it .png or .svg"),
        ({"drawings": ("/none/a.svg",)}, "--svg /none/a.svg: there is no folder"),
        ({"parts": ("setup",), "drawings": ("a.svg",)}, "--svg a.svg: what is drawn is the simu"),
        ({"json": "/none/a.jsonl"}, "--json /none/a.jsonl: there is no folder"),
        ({"time_budget_s": -1.0}, "--time-budget -1"),
        ({"time_budget_s": float("nan")}, "--time-budget nan"),
    ],
)
def test_wrong_options_are_named(given, text):
    with pytest.raises(SettingError) as refused:
        check(options(**given), 1 << 40)
    assert text in str(refused.value)


def test_sizes_that_the_smallest_job_has_no_memory_for_are_refused():
    large = {"plan": Plan(("rail",), (8,), (64, 64 << 30)), "ranks": (2, 4)}
    with pytest.raises(SettingError) as refused:
        check(options(parts=("measure",), **large), 21 << 30)
    assert "--bytes: 64 GiB on 2 ranks needs 256 GiB of memory, and 21 GiB is" in str(refused.value)
    check(options(parts=("simulate",), **large), 21 << 30)
    check(options(parts=("measure",), **large), 257 << 30)


def test_jobs_that_there_is_no_memory_for_are_skipped(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(scale.measured, "measure", lambda ranks, *_: started.append(ranks))
    monkeypatch.setattr(scale, "memory_available", lambda _: 9 << 30)
    shown, plan = [], Plan(("rail",), (8,), (64, 1 << 30))
    given = options(parts=("measure",), ranks=(2, 4, 64), plan=plan, quiet=True)
    assert scale.run_scale(given, "rdmatrain bench scale", shown.append) == 0
    assert started == [2, 4]
    assert "SKIP: 64 ranks need 137 GiB, and 9 GiB are free" in shown


def wire(op, nbytes, seconds, **changed):
    fields = {"backend": "rdmatrain", "transport": "verbs", "op": op, "nbytes": nbytes}
    return fields | {"seconds_p50": seconds, "algbw": nbytes / seconds / 1e9} | changed


WIRE = [
    wire("pingpong", 4096, 9e-6),
    wire("pingpong", 8, 2e-6),
    wire("write", 8, 0.5e-6),
    wire("write", 1 << 20, 1e-4),
    wire("write", 4 << 20, 3.2e-4),
    wire("write", 4 << 20, 1e-9, backend="perftest"),
]


@pytest.fixture
def wired(tmp_path, monkeypatch):
    """Let a file have these results; what a line must have is for test_bench_records to know."""
    return lambda found: monkeypatch.setattr(fed, "read_json", lambda _: found)


def test_a_simulation_is_fed_with_what_the_wire_was_measured_to_do(wired):
    wired(WIRE)
    network, source = fed.network_of(Path("wire.jsonl"), NETWORK)
    assert network == pytest.approx(Network(8 * (4 << 20) / 3.2e-4 / 1e9, 1.5e-6, 0.5e-6, 3e-7))
    assert source == (
        "measured over verbs (write of 4 MiB, pingpong of 8 B) in wire.jsonl, "
        "taken to be without a switch"
    )
    wired([each for each in WIRE if (each["op"], each["nbytes"]) != ("write", 8)])
    network, _ = fed.network_of(Path("wire.jsonl"), NETWORK)
    assert (network.message_s, network.latency_s) == pytest.approx((1e-7, 1.9e-6))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (WIRE[:3], "no write of 64 KiB or more"),
        (WIRE[2:], "no pingpong"),
        ([*WIRE, wire("write", 8, 1e-6, transport="tcp")], "results over tcp, verbs"),
    ],
)
def test_a_file_that_cannot_feed_says_what_it_lacks(wired, found, text):
    wired(found)
    with pytest.raises(SettingError, match=f"--fed wire.jsonl: .*{text}"):
        fed.network_of(Path("wire.jsonl"), NETWORK)


@pytest.mark.parametrize("option", ["--gbps", "--latency-us", "--message-us"])
def test_options_that_contradict_a_file_are_refused(wired, option):
    wired(WIRE)
    done = CliRunner().invoke(command.command, ["--fed", "x.jsonl", option, "200"])
    assert (done.exit_code, done.output) == (
        2,
        f"Error: {option} and --fed contradict each other: give one of them\n",
    )


def test_a_simulation_costs_what_our_table_says_of_verbs():
    said = {param.name: param.default for param in command.command.params}
    table = _core.default_tuning(2, 1, 1000)
    assert said["latency_us"] * 1000 == pytest.approx(table["net_latency"])
    assert said["message_us"] * 1000 == pytest.approx(table["net_message"])


def test_a_message_is_given_beside_a_file_without_a_small_write(wired, monkeypatch):
    wired([each for each in WIRE if (each["op"], each["nbytes"]) != ("write", 8)])
    told = []
    monkeypatch.setattr(scale, "run_scale", lambda options, *_: told.append(options) or 0)
    done = CliRunner().invoke(command.command, ["--fed", "x.jsonl", "--message-us", "0.7"])
    assert done.exit_code == 0, done.output
    assert told[0].network.message_s == pytest.approx(0.7e-6)


def run(monkeypatch, tmp_path, form, **given):
    """Run the set-up part of scale, groups of 2, 3 and 4, which ``form`` stands for."""
    monkeypatch.setattr(setup, "measure", form)
    shown, file = [], tmp_path / "out.jsonl"
    given = {"parts": ("setup",), "setup_ranks": (2, 3, 4), "json": str(file)} | given
    code = scale.run_scale(options(**given), "rdmatrain bench scale", shown.append)
    ranks = [json.loads(line)["ranks"] for line in file.read_text().splitlines()]
    return code, ranks, "\n".join(shown)


def formed(kind, ranks, rounds):
    return setup.Setup(kind, ranks, 0.1, 0.2, 0.3, 0.4, 1.0, 0.0)


def met_in_levels(ranks, sizes):
    """Pairs of ranks whose places differ at one level alone."""
    met, apart = set(), 1
    for size in sizes:
        for rank, turn in itertools.product(range(ranks), range(1, size)):
            place = rank // apart % size
            met.add(frozenset((rank, rank + ((place + turn) % size - place) * apart)))
        apart *= size
    return met


@pytest.mark.parametrize(
    ("ranks", "log", "pairs", "sizes"), [(64, 6, 352, (8, 8)), (128, 7, 832, (8, 4, 4))]
)
def test_ranks_meet_few_for_a_small_all_reduce_and_for_training(ranks, log, pairs, sizes):
    found = setup.measure("lazy", ranks, rounds=1)
    # In stages each rank sends to whom is 1, 2, 4, ... behind it.
    met = {frozenset((r, (r + (1 << i)) % ranks)) for r in range(ranks) for i in range(log)}
    assert found.pairs == len(met) == pairs
    # Then in levels, of which an all_reduce has the largest first, and a reduce_scatter last.
    met |= met_in_levels(ranks, sizes) | met_in_levels(ranks, sizes[::-1])
    # A socket may be on its way.
    assert found.large_pairs == pytest.approx(len(met), abs=1)
    assert report.setup_line(found).split()[6:8] == [str(pairs), f"{found.large_pairs:.0f}"]


def test_all_meet_where_hosts_are_a_prime_number_and_there_are_files(monkeypatch):
    assert setup.measure("lazy", 17, rounds=1).large_pairs == pytest.approx(17 * 16 / 2, abs=1)
    monkeypatch.setattr(setup, "_allow_files", lambda needed: min(needed, 20000))
    assert setup.measure("lazy", 127, rounds=1).large_pairs is None  # 32260 files


def test_a_large_all_reduce_that_was_left_out_is_no_number():
    assert setup.measure("verbs", 2, rounds=1).large_pairs is None
    line = report.setup_line(formed("verbs", 2, 1))
    assert line.split()[6:] == ["1", "-", "0"]
    assert [len(line), line.index("-") + 1] == [
        len(report.HEADERS["setup"]),
        report.HEADERS["setup"].index("training") + len("training"),
    ]


def test_what_was_found_is_in_the_file_at_once_and_survives_ctrl_c(monkeypatch, tmp_path, capsys):
    def stopped(kind, ranks, rounds):
        if ranks == 4:
            lines = (tmp_path / "out.jsonl").read_text().splitlines()
            assert [json.loads(line)["ranks"] for line in lines] == [2, 3]
            os.kill(os.getpid(), signal.SIGINT)
        return formed(kind, ranks, rounds)

    monkeypatch.setattr(scale.engine, "why_not", lambda: "")
    given = {"parts": ("setup", "simulate"), "drawings": (str(tmp_path / "none.svg"),)}
    code, ranks, text = run(monkeypatch, tmp_path, stopped, **given)
    assert (code, ranks) == (130, [2, 3])
    assert "0:00 left, forming eager groups of 3 ranks" in capsys.readouterr().err
    assert text.endswith("# Incomplete: stopped by SIGINT")


def test_a_simulation_that_fails_leaves_nothing_to_draw_and_says_so(monkeypatch, tmp_path):
    def fails(*_):
        raise engine.EngineError("it does not build")

    monkeypatch.setattr(scale.engine, "why_not", lambda: "")
    monkeypatch.setattr(simulate, "simulate", fails)
    given = {"parts": ("setup", "simulate"), "drawings": (str(tmp_path / "none.svg"),)}
    code, ranks, text = run(monkeypatch, tmp_path, formed, **given)
    assert (code, ranks) == (1, [2, 3, 4])
    assert text.endswith(
        "SKIP simulate: it does not build\n# Nothing is drawn: there is no simulation"
    )


def test_after_the_time_budget_nothing_more_is_begun(monkeypatch, tmp_path, capsys):
    now = [100.0]
    monkeypatch.setattr(scale, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(kind, ranks, rounds):
        now[0] += 6.0
        return formed(kind, ranks, rounds)

    given = {"time_budget_s": 10.0, "quiet": True}
    code, ranks, text = run(monkeypatch, tmp_path, slow, **given)
    assert (code, ranks) == (0, [2, 3])
    assert text.endswith("# Incomplete: time is up before forming eager groups of 4 ranks")
    assert not capsys.readouterr().err


def test_lines_fit_their_schema():
    schema = json.loads((files("rdmatrain.bench") / "schemas/scale.schema.json").read_text())
    context = context_of("rdmatrain bench scale", False, {}, None)
    found = {
        "measured": Measured("barrier", 2, 0, "shm", 1e-6, 2e-6, 0.0, None),
        "setup": setup.Setup("lazy", 2, 0.1, 0.2, 0.3, 0.4, 1.0, 0.0),
        "validated": Check("flat", 4, 4, 64, 1e-4, 2e-4),
        "simulated": Point("rail", "flat", 32, 4, 64, 3e-3, 1.5e-3),
    }
    for part, one in found.items():
        (line,) = report.records(part, [one], context)
        if part == "simulated":
            line["fed_from"] = "assumed"
            line["fed"] = report.fed_with(NETWORK, COSTS)
        jsonschema.validate(line, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**line, "part": "guessed"}, schema)
    assert report.records("validated", [found["validated"]], context)[0]["error_percent"] == 100.0


def test_a_compiler_that_hangs_is_named(tmp_path, monkeypatch):
    for name, text in (("g++", "exec sleep 60"), ("pkg-config", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(engine, "BUILD_SECONDS", 0.1)
    with pytest.raises(engine.EngineError, match=r"g\+\+ needed more than 0.1 s"), engine.built():
        pass


def test_threads_that_fail_or_hang_are_named():
    with pytest.raises(RanksError, match="rank 1 of 3 failed: no"):
        at_once(3, fail_on_rank_1)
    done = at_once(3, lambda rank: rank * 10)
    assert done.given == [0, 10, 20]


def fail_on_rank_1(rank):
    if rank == 1:
        raise ValueError("no")
    return rank


def test_a_group_forms_and_each_pair_of_ranks_connects():
    one = setup.measure("lazy", 4, 1)
    assert (one.ranks, one.pairs, one.asks) == (4, 6.0, 0)
    assert one.largest_s == one.form_s + one.first_s > 0
