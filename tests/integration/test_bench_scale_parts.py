# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys

import pytest

from rdmatrain.bench.scale import engine, namespaces, plans, simulate, validate
from rdmatrain.bench.scale.engine import Job, Stage, Tree
from rdmatrain.bench.scale.plans import Costs, Group

FREE = Costs(0.0, 0.0, 0.0, 0.0, 1e30)  # only the fabric takes time
LIMIT_S = 60.0

needs_engine = pytest.mark.skipif(bool(engine.why_not()), reason=engine.why_not())
needs_hosts = pytest.mark.skipif(bool(namespaces.why_not()), reason=namespaces.why_not())


def bench_scale(*args, **env):
    command = [sys.executable, "-m", "rdmatrain.cli", "bench", "scale", *args]
    return subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )


@pytest.fixture(scope="module")
def program():
    with engine.built() as built:
        yield built


@needs_engine
def test_the_engine_shares_links_and_keeps_stages_apart(program):
    tree = Tree((4,), (1,), 1e9, 0.0)
    # Ranks 1 and 2 both send to 0, so they share its link; then 0 sends to 3 once it has both.
    job = Job(
        range(4),
        [
            [Stage(0.0, 0.0, 2, [], []), Stage(0.5, 0.0, 0, [3], [1e9])],
            [Stage(0.0, 0.0, 0, [0], [1e9]), Stage(0.0, 0.0, 0, [], [])],
            [Stage(0.0, 0.0, 0, [0], [1e9]), Stage(0.0, 0.0, 0, [], [])],
            [Stage(0.0, 0.0, 0, [], []), Stage(0.0, 9.0, 1, [], [])],
        ],
    )
    busy = Job(range(1), [[Stage(1.0, 2.0, 0, [], [])]])
    assert engine.run(program, tree, [job, busy], LIMIT_S) == pytest.approx([9.0, 3.0])
    quick = Job(job.nodes, [*job.ranks[:3], [job.ranks[3][0], Stage(0.0, 0.0, 1, [], [])]])
    assert engine.run(program, tree, [quick], LIMIT_S) == pytest.approx([3.5])


@needs_engine
@pytest.mark.parametrize("way", ["flat", "by_host"])
def test_few_merged_flows_take_as_long_as_every_message(program, way):
    network = simulate.Network(400.0, 0.0, 0.0, 0.0)
    group, nbytes = Group(64, 8), 1 << 24
    jobs = [
        simulate.place(fabric, plans.stages(group, way, nbytes, FREE, merge), 0.0)
        for merge in (64, simulate.MERGE)
        for fabric in simulate.FABRICS
    ]
    tree = simulate.tree_of(network, group.ranks)
    whole, whole_rail, few, few_rail = engine.run(program, tree, jobs, LIMIT_S)
    assert few == pytest.approx(whole, rel=0.01)
    assert few_rail == pytest.approx(whole_rail, rel=0.01)
    # In and out of each NIC at 50 GB/s, in two steps: all but what stays in the host.
    share = 56 / 64 if way == "flat" else 7 / 8 / 8
    assert whole == pytest.approx(2 * nbytes * share / 50e9, rel=0.02)


@needs_engine
def test_a_simulation_is_a_table_lines_and_a_picture(tmp_path):
    lines, picture = tmp_path / "scale.jsonl", tmp_path / "scale.svg"
    done = bench_scale("--simulate", "--gpus", "8,64", "--json", lines, "--svg", picture)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {(r["ranks"], r["way"]) for r in records} == {
        (8, "flat"), (8, "gather"),
        (64, "flat"), (64, "by_host"), (64, "gather"), (64, "halving"),
    }  # fmt: skip
    assert len(records) == 2 * (2 + 1 + 4 + 3)  # two fabrics; a gather is for small messages
    assert len(done.stdout.splitlines()) == 2 + len(records)
    assert "Simulated, not measured" in picture.read_text()


def test_without_the_engine_it_says_how_to_get_it(tmp_path):
    done = bench_scale(
        "--simulate", "--setup", "--setup-ranks", "2", "--kinds", "lazy", PATH="/none"
    )
    assert done.returncode == 0, done.stderr
    assert "SKIP simulate: g++ is not installed: apt-get install libsimgrid-dev" in done.stdout
    assert "\n lazy      2 " in done.stdout  # the rest ran


def test_without_the_engine_a_simulation_alone_is_no_success_and_is_not_drawn(tmp_path):
    done = bench_scale("--simulate", PATH="/none")
    assert done.returncode == 1
    assert "SKIP simulate: g++ is not installed" in done.stdout
    picture = tmp_path / "scale.svg"
    done = bench_scale("--simulate", "--setup", "--svg", picture, PATH="/none")
    assert done.returncode == 2
    assert done.stdout == ""  # before anything was done
    assert f"--svg {picture}: there is no simulation to draw: g++ is not installed" in done.stderr


def test_a_wrong_option_is_one_line():
    done = bench_scale("--gpus", "8,x")
    assert done.returncode == 2
    assert done.stderr == "Error: --gpus: 8,x is no list of numbers with commas between them\n"


def test_ranks_are_measured():
    done = bench_scale("--measure", "--ranks", "2", "--bytes", "4K")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["barrier", "2", "0"], ["reduce", "2", "4096"]]
    assert [row[6] for row in rows] == ["-", "0"]


@needs_engine
@needs_hosts
@pytest.mark.thorough
def test_predictions_are_near_what_hosts_measure(monkeypatch):
    # Where the wire bounds it: other programs make small messages slow, whatever is predicted.
    monkeypatch.setattr(validate, "GROUPS", (Group(4, 1), Group(8, 2)))
    checks = []
    fed = validate.validate((1 << 20,), checks.append)
    assert 5e6 < fed.bytes_per_s < 12.5e6
    found = {(each.ranks, each.way) for each in checks}
    ways = ("flat", "by_host", "halving")
    assert found == {(4, "flat"), (4, "halving"), *((8, way) for way in ways)}
    assert all(-50 < each.error_percent < 25 for each in checks), checks


@needs_hosts
def test_cables_carry_their_rate_and_nothing_is_left():
    with namespaces.hosts(2, 100) as names:
        fed = validate.feed(names)
        assert 5e6 < fed.bytes_per_s < 12.5e6
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert not any(name in listed.stdout for name in names)
