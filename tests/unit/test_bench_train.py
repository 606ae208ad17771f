# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain bench train``: its options, its arithmetic, its records, and the demo's model."""

import argparse
import importlib.util
import json
import re
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch
from bench_results import CONTEXT

from rdmatrain.bench import train
from rdmatrain.bench.gpt import GPT, Shape, loss_of
from rdmatrain.bench.train import DEMO, TrainOptions, check_options
from rdmatrain.bench.train_rank import line_up
from rdmatrain.bench.train_results import JobSteps, Model, Training, lines_of, records_of
from rdmatrain.errors import SettingError

SCHEMA = json.loads(files("rdmatrain.bench").joinpath("schemas/train.schema.json").read_text())
SCRIPT = Path(__file__).parents[2] / "launch" / "train_gpt.py"
PLENTY = 1 << 60
NAMES = ("ddp/rdmatrain", "ddp/silent")


def job(ranks, ours, silent, losses=(5.0,), expected=(5.0,)):
    """One round, in which each step takes the same time on all ranks."""
    found = JobSteps(ranks, "shm", [dict.fromkeys(NAMES, loss) for loss in losses], expected)
    found.add([dict(zip(NAMES, (ours, silent), strict=True))] * ranks, warmup=0)
    return found


def strict(schema):
    """Allow no field that the schema does not know."""
    copy = json.loads(json.dumps(schema))
    known = {name for each in copy["$defs"].values() for name in each["properties"]}
    return copy | {"propertyNames": {"enum": sorted(known)}}


def test_a_step_takes_as_long_as_on_its_slowest_rank_and_warm_ups_do_not_count():
    found = JobSteps(2, "shm", [dict.fromkeys(NAMES, 5.0)] * 2, [5.0, 5.0])
    found.add(
        [
            {"ddp/rdmatrain": [9.0, 0.1, 0.4], "ddp/silent": [9.0, 0.1, 0.1]},
            {"ddp/rdmatrain": [9.0, 0.2, 0.3], "ddp/silent": [9.0, 0.1, 0.2]},
        ],
        warmup=1,
    )
    assert found.steps_of("ddp/rdmatrain") == [0.2, 0.4]
    assert found.steps_of("ddp/silent") == [0.1, 0.2]


def test_exposed_is_the_median_of_differences_and_not_of_medians():
    found = job(2, [0.3, 0.5, 0.9], [0.2, 0.1, 0.7])
    ours, silent = found.results(1000, None)
    assert ours.exposed_s == pytest.approx(0.2)  # of 0.1, 0.4, 0.2; medians differ by 0.3
    assert silent.exposed_s == 0
    assert (ours.backend, silent.backend) == ("rdmatrain", "silent")


def test_tokens_count_all_ranks_and_efficiency_one():
    alone, two = job(1, [0.3] * 3, [0.3] * 3), job(2, [0.4] * 3, [0.3] * 3)
    ours = two.results(768, alone)[0]
    assert ours.tokens_per_s == pytest.approx(2 * 768 / 0.4)
    assert ours.efficiency == pytest.approx(0.75)
    assert alone.results(768, alone)[0].efficiency == 1
    assert two.results(768, None)[0].efficiency is None


def test_all_rounds_count():
    found = job(1, [0.3, 0.1], [0.1, 0.1])
    found.add([{"ddp/rdmatrain": [0.5], "ddp/silent": [0.1]}], warmup=0)
    ours = found.results(1, None)[0]
    assert ours.rounds == (0.2, 0.5)
    assert (ours.steps, ours.seconds_p50, ours.seconds_min) == (3, 0.3, 0.1)


def test_the_loss_that_is_farthest_off_is_shown_and_is_wrong():
    ours, silent = job(3, [1.0], [1.0], (5.0, 4.9, 5.0), (5.0, 5.0, 5.01)).results(1, None)
    assert (ours.loss, ours.loss_expected) == (4.9, 5.0)
    assert "ddp over rdmatrain, 3 ranks: the loss is 4.9" in ours.wrong
    assert silent.wrong == ""
    assert job(1, [1.0], [1.0], (5.0001,), (5.0,)).results(1, None)[0].wrong == ""


def test_a_loss_that_is_no_number_is_the_farthest_and_null_in_json():
    results = job(3, [1.0], [1.0], (5.0, float("nan"), 4.0), (5.0,) * 3).results(1, None)
    assert "the loss is nan, and 5.0" in results[0].wrong
    for record in records_of(Training(DEMO, results), CONTEXT):
        read = json.loads(json.dumps(record, allow_nan=False))
        assert read["loss"] is None
        jsonschema.Draft202012Validator(SCHEMA).validate(read)


def test_records_are_as_the_schema_says():
    training = Training(Model(96, 3, 6, 128, 6, 399_000))
    training.results = job(2, [0.4, 0.5], [0.3, 0.3]).results(768, job(1, [0.3], [0.3]))
    training.failures = ["the job of 4 ranks: rank 3 on here was killed by SIGKILL"]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    records = [json.loads(json.dumps(each)) for each in records_of(training, CONTEXT)]
    assert len(records) == 3
    for record in records:
        jsonschema.Draft202012Validator(strict(SCHEMA)).validate(record)
    del records[0]["exposed_s"]
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(records[0])


def test_the_text_tells_what_is_missing_and_when_ranks_share_cpus():
    training = Training(Model(96, 3, 6, 128, 6, 399_000), failures=["it failed"])
    training.results = job(4, [0.4], [0.3]).results(768, None)
    text = "\n".join(lines_of(training, replace(CONTEXT, cpus=2)))
    assert "# it failed" in text
    assert "# Incomplete" in text
    assert "4 ranks share 2 CPUs: efficiency is at most 0.5" in text
    assert re.search(
        r"^  ddp +rdmatrain +4 +400\.00 +400\.00 +100\.00 +25\.0 +7680 +-$", text, re.M
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"ranks": "0"}, r"--ranks 0: give numbers from 1 to"),
        ({"ranks": "1,two"}, r"--ranks two"),
        ({"ranks": ""}, r"--ranks "),
        ({"ranks": "65"}, r"--ranks 65"),
        ({"strategy": "fsdp"}, r"--strategy fsdp: unknown: did you mean fsdp2"),
        ({"strategy": ""}, r"--strategy is empty"),
        ({"vs": "glo"}, r"--vs glo: unknown: did you mean gloo"),
        ({"steps": 0}, r"--steps 0: give 1 or more"),
        ({"model": replace(DEMO, batch=-1)}, r"--batch -1: give 1 or more"),
        ({"model": replace(DEMO, seq_len=0)}, r"--seq-len 0: give 1 or more"),
        ({"model": replace(DEMO, width=97)}, r"--width 97: give a multiple of --heads 6"),
        ({"json": "/no/such/folder/x"}, r"--json /no/such/folder/x: there is no folder"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(changes, error):
    with pytest.raises(SettingError, match=error):
        check_options(TrainOptions(**changes), PLENTY)


@pytest.mark.parametrize("model", [DEMO, Model(24, 2, 3, 16, 2), Model(64, 1, 1, 7, 1)])
def test_parameters_are_counted_without_making_them(model):
    fields = {name: getattr(model, name) for name in ("width", "layers", "heads", "seq_len")}
    shape = Shape(batch=1, **fields)
    assert train.parameters_of(model) == sum(each.numel() for each in GPT(shape).parameters())


def test_models_over_memory_are_refused():
    given = TrainOptions(ranks="64", model=replace(DEMO, width=96_000, layers=96))
    with pytest.raises(SettingError, match=r"--ranks 64: training needs .* of memory, and 1 GiB"):
        check_options(given, 1 << 30)
    # Rank by rank: 16 B a parameter of each of ddp's three, of a half of fsdp2's, and of plain
    # training, which keeps the activations of the batches of both.
    state = 16 * train.parameters_of(DEMO)
    kept = 2 * 6 * 128 * 96 * 4 * 3 * train.KEPT
    two = 2 * (train.RANK_BYTES + 3 * state + 3 * state // 2 + state + kept)
    assert train.memory_of(TrainOptions(ranks="2")) == two
    # Jobs are there together.
    alone = train.RANK_BYTES + 6 * state
    assert train.memory_of(TrainOptions(ranks="1,2")) == two + alone
    check_options(TrainOptions(ranks="1,2"), two + alone)
    with pytest.raises(SettingError, match="give fewer ranks"):
        check_options(TrainOptions(ranks="1,2"), two + alone - 1)


@pytest.mark.parametrize("num", range(2, 8))
def test_each_contestant_is_at_every_place_and_after_every_other_equally_often(num):
    names = [str(each) for each in range(num)]
    rows = [line_up(names, step) for step in range(2 * num)]
    assert all(sorted(row) == names for row in rows)
    places = Counter(place for row in rows for place in enumerate(row))
    assert set(places.values()) == {2} and len(places) == num * num
    after = Counter(pair for row in rows for pair in pairwise(row))
    assert set(after.values()) == {2} and len(after) == num * (num - 1)


def test_options_are_read_as_lists():
    options = TrainOptions(ranks="4, 1,2,1", strategy="all", vs="")
    assert options.numbers == [1, 2, 4]
    assert options.strategies == ["ddp", "fsdp2"]
    assert options.backends == ["rdmatrain"]


def test_the_model_is_the_demos():
    spec = importlib.util.spec_from_file_location("train_gpt_beside_bench", SCRIPT)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    fields = {"width": 24, "layers": 2, "heads": 3, "seq_len": 16}
    torch.manual_seed(0)
    theirs = demo.GPT(argparse.Namespace(**fields))
    torch.manual_seed(0)
    ours = GPT(Shape(batch=2, **fields))
    x = torch.randint(256, (2, 17))
    assert torch.equal(ours(x[:, :-1]), theirs(x[:, :-1]))
    assert torch.equal(loss_of(ours, x), demo.loss_of(theirs, x))
    defaults = {name: default for name, default, _ in demo.OPTIONS}
    assert {
        "--width": DEMO.width,
        "--layers": DEMO.layers,
        "--heads": DEMO.heads,
        "--seq-len": DEMO.seq_len,
        "--global-batch": 2 * DEMO.batch,
    }.items() <= defaults.items()


def test_after_the_time_budget_no_round_is_begun(monkeypatch, capsys):
    now, rounds = [100.0], []

    def one_round(run, ranks, steps):
        now[0] += 4.0
        rounds.append(ranks)

    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(train._Run, "_start", lambda run, ranks, *_: run._jobs.update({ranks: run}))
    monkeypatch.setattr(train._Run, "_round", one_round)
    for budget_s, expected in ((10.0, [1, 2] * 2), (0.0, [1, 2] * 5)):
        rounds.clear()
        found = train.measure(TrainOptions(time_budget_s=budget_s))
        said = capsys.readouterr().err.splitlines()
        assert len(said) == len(expected) / 2
        assert re.fullmatch("rdmatrain bench: 0:.. left, round 2 of 5", said[1])
        assert rounds == expected
        assert found.complete == (budget_s == 0.0)
    for budget_s in (-1.0, float("nan")):
        with pytest.raises(SettingError, match=f"--time-budget {budget_s:g}: give 0 or more"):
            check_options(TrainOptions(time_budget_s=budget_s), PLENTY)
