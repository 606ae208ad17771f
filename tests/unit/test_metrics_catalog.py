# SPDX-License-Identifier: Apache-2.0
"""The table of metrics: by Prometheus' rules, and the README's equal to the code's."""

import ast
import re
from pathlib import Path

import pytest

import rdmatrain
from rdmatrain.metrics import catalog, hca
from rdmatrain.metrics.catalog import COUNTER, GAUGE, HISTOGRAM, METRICS, Metric

PACKAGE = Path(rdmatrain.__file__).parent
README = PACKAGE / "metrics" / "README.md"
OF_PROMETHEUS = {"job", "instance", "namespace", "pod", "container", "endpoint", "node", "le"}
ids = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


@ids
def test_a_name_says_kind_and_unit(metric: Metric) -> None:
    assert re.fullmatch(r"rdmatrain(_[a-z]+)+", metric.name)
    assert metric.kind in {COUNTER, GAUGE, HISTOGRAM}
    assert metric.name.endswith("_total") is (metric.kind == COUNTER)
    assert not re.search(
        r"_(count|sum|bucket|ms|us|ns|kb|mb|minutes|hours|percent)(_|$)", metric.name
    )
    stem = metric.name.removesuffix("_total")
    for unit in ("seconds", "bytes", "ratio"):
        assert f"_{unit}_" not in stem, "the unit is at the end"
    assert bool(metric.buckets) is (metric.kind == HISTOGRAM)
    assert metric.kind != HISTOGRAM or metric.name.endswith("_seconds")


@ids
def test_labels_are_its_own_and_help_is_a_sentence(metric: Metric) -> None:
    assert not OF_PROMETHEUS & {*metric.all_labels}
    assert len({*metric.all_labels}) == len(metric.all_labels)
    assert re.match(r"[A-Z].*\.$", metric.help)
    assert "\n" not in metric.help
    assert not metric.sticky or metric.kind == GAUGE


def test_names_are_unique_and_no_histogram_collides() -> None:
    names = [metric.name for metric in METRICS]
    assert len({*names}) == len(names)
    assert len(catalog.series_names()) == len(names) + 2 * sum(m.kind == HISTOGRAM for m in METRICS)


def test_bounds_of_buckets_grow() -> None:
    for metric in METRICS:
        assert list(metric.buckets) == sorted({*metric.buckets})


def test_the_readme_has_the_same_table() -> None:
    rows = re.findall(
        r"^\| `(rdmatrain_\w+)` \| (\w+) \| (.*) \| (.*) \|$", README.read_text(), re.M
    )
    assert rows == [(m.name, m.kind, ", ".join(m.all_labels), m.help) for m in METRICS]


def test_every_metric_is_made_somewhere_and_no_other() -> None:
    """Names in the code, as strings, are those of the table."""
    said: set[str] = set()
    for folder in ("metrics", "launcher", "train"):
        for path in (PACKAGE / folder).rglob("*.py"):
            if path.name == "catalog.py":
                continue
            tree = ast.parse(path.read_text("utf-8"))
            texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
            said |= {t for t in texts if isinstance(t, str) and re.fullmatch(r"rdmatrain_\w+", t)}
    assert said == {metric.name for metric in METRICS}


def test_no_counter_of_a_port_is_in_two_families() -> None:
    every = [*hca.ERRORS, *hca.CONGESTION, *hca._TRAFFIC]
    assert len({*every}) == len(every)
