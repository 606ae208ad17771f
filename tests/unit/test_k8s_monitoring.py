# SPDX-License-Identifier: Apache-2.0
"""Objects for Prometheus and Grafana: valid, and about metrics and labels that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from k8s_specs import small

from rdmatrain.k8s import alerts, dashboard
from rdmatrain.k8s.alerts import ALERTS, Alert
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import METRICS
from rdmatrain.k8s.dashboard import PANELS, config_map
from rdmatrain.k8s.monitoring import cluster_monitoring, monitoring
from rdmatrain.k8s.render import render
from rdmatrain.k8s.spec import Monitoring, Spec
from rdmatrain.metrics import hca
from rdmatrain.metrics.catalog import BY_NAME, HISTOGRAM, series_names

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = Cluster()
WATCHED = Monitoring(port=9401, namespace="observability", labels={"release": "prom"})
# What Prometheus itself adds to all that it scrapes of a pod.
OF_TARGET = {"namespace", "job", "pod", "instance", "container"}
# Functions and words of PromQL that are used; a misspelt one is not among them.
WORDS = {
    "sum", "avg", "min", "max", "by", "on", "group_left", "rate", "increase", "time", "unless",
    "and", "max_over_time", "histogram_quantile",
}  # fmt: skip


@pytest.fixture
def spec() -> Spec:
    return small(monitoring=WATCHED)


def alert_of(name: str) -> Alert:
    return next(alert for alert in ALERTS if alert.name == name)


def test_the_monitor_finds_the_pods_and_their_port(spec: Spec) -> None:
    (monitor,) = monitoring(spec, CLUSTER).objects
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["metadata"]["namespace"] == spec.namespace
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert monitor["spec"]["selector"] == {"matchLabels": spec.labels}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == (METRICS, "/metrics")
    seconds = [int(endpoint[key].removesuffix("s")) for key in ("scrapeTimeout", "interval")]
    assert seconds == sorted(seconds), "Prometheus refuses a timeout above the interval"
    # "job" is the job's name: the value of this label.
    assert spec.labels[monitor["spec"]["jobLabel"]] == spec.name


@pytest.mark.parametrize("name", ["volcano", "jobset", "indexed-job", "pytorchjob"])
def test_pods_of_a_target_are_scraped_once(spec: Spec, name: str) -> None:
    objects = render(spec, name, CLUSTER).objects
    kinds = [each["kind"] for each in objects]
    assert (kinds.count("PodMonitor"), kinds.count("ServiceMonitor")) == (1, 0)
    assert "PrometheusRule" not in kinds
    text = json.dumps([each for each in objects if each["kind"] != "PodMonitor"])
    assert '"--metrics-port", "9401"' in text
    assert "prometheus.io/scrape" not in text


def test_an_administrator_applies_rules_and_dashboard_once(spec: Spec) -> None:
    objects = render(spec, "jobset", CLUSTER, with_cluster=True).objects
    found = {each["kind"]: each["metadata"] for each in objects}
    for kind in ("PrometheusRule", "ConfigMap"):
        assert found[kind]["namespace"] == "observability"
    assert found["PrometheusRule"]["labels"]["release"] == "prom"
    assert found["ConfigMap"]["labels"]["grafana_dashboard"] == "1"
    one, other = (cluster_monitoring(small(name=n, monitoring=WATCHED), CLUSTER) for n in "ab")
    assert one == other, "they are of all jobs"


def test_without_metrics_nobody_is_told_to_scrape() -> None:
    without = small(monitoring=Monitoring(port=0))
    assert monitoring(without, CLUSTER).objects == ()
    assert cluster_monitoring(without, CLUSTER).objects == ()
    assert [note.field for note in monitoring(without, CLUSTER).notes] == ["monitoring.port"]


def test_notes_say_what_each_field_became(spec: Spec) -> None:
    notes = [*monitoring(spec, CLUSTER).notes, *cluster_monitoring(spec, CLUSTER).notes]
    fields = ["monitoring.port", "monitoring.labels", "monitoring.namespace"]
    assert [note.field for note in notes] == fields
    assert notes[0].became == "PodMonitor/llm spec.podMetricsEndpoints[0].port: metrics"


# -- against the schema of the Prometheus operator: ServiceMonitor's, as PodMonitor's is not there


def _unknown(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for key, each in value.items():
            if key in known:
                yield from _unknown(known[key], each, f"{path}.{key}")
            elif not isinstance(schema.get("additionalProperties"), dict):
                yield f"{path}.{key}"
    elif isinstance(value, list):
        for each in value:
            yield from _unknown(schema["items"], each, path)
    elif (pattern := schema.get("pattern")) and not re.search(pattern, str(value)):
        yield f"{path}: {value}"


def test_the_monitor_has_the_fields_of_its_sibling(spec: Spec) -> None:
    path = (
        ROOT.parent / "shared/crds/prometheus-operator/monitoring.coreos.com_servicemonitors.yaml"
    )
    if not path.is_file():
        pytest.skip("../shared/crds is not there")
    import yaml  # noqa: PLC0415

    crd = yaml.safe_load(path.read_text("utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    body = dict(monitoring(spec, CLUSTER).objects[0]["spec"])
    body["endpoints"] = body.pop("podMetricsEndpoints")
    assert list(_unknown(schema, body, "spec")) == []
    assert {*schema["required"]} <= {*body}


# -- expressions


def _code(expr: str) -> str:
    return re.sub(r'"[^"]*"', '""', expr)


def _metrics(expr: str) -> list[str]:
    return re.findall(r"\brdmatrain_\w+", _code(expr))


def _labels_of(name: str) -> set[str]:
    plain = re.sub(r"_(bucket|sum|count)$", "", name)
    metric = BY_NAME.get(name) or BY_NAME[plain]
    return {*metric.all_labels, *OF_TARGET, *(["le"] if metric.kind == HISTOGRAM else [])}


EXPRESSIONS = {
    **{alert.name: alert.expr for alert in ALERTS},
    **{
        f"{panel.title} {place}": query.replace("@", dashboard.SELECTOR)
        for panel in PANELS
        for place, (_, query) in enumerate(panel.queries)
    },
}
every = pytest.mark.parametrize("expr", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())


@every
def test_an_expression_is_about_metrics_that_exist(expr: str) -> None:
    assert _metrics(expr)
    assert {*_metrics(expr)} <= series_names()


@every
def test_an_expression_uses_labels_that_its_metrics_have(expr: str) -> None:
    known = set.intersection(*(_labels_of(name) for name in _metrics(expr)))
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", _code(expr))
    assert {label for each in grouped for label in each.split(", ")} <= known
    for name, inside in re.findall(r"(rdmatrain_\w+)\{([^}]*)\}", expr):
        matchers = re.findall(r'(\w+)(?:=~|!~|!=|=)"[^"]*"', inside)
        assert {*matchers} <= _labels_of(name)


@every
def test_an_expression_is_well_formed(expr: str) -> None:
    code = _code(expr)
    for open_, close in ("()", "[]", "{}"):
        assert code.count(open_) == code.count(close)
    code = re.sub(r"rdmatrain_\w+|\{[^}]*\}|\[[^\]]*\]|\b(by|on) \([^)]*\)", r"\1", code)
    assert {*re.findall(r"[A-Za-z_]\w*", code)} <= WORDS


@every
def test_counters_are_looked_at_by_their_growth_and_gauges_are_not(expr: str) -> None:
    code = _code(expr)
    for name in _metrics(expr):
        metric = BY_NAME.get(name)
        grows = bool(re.search(rf"(rate|increase)\({name}\b", code))
        if metric is None or metric.kind != "gauge":
            shown = name in {"rdmatrain_restarts_total", "rdmatrain_checkpoints_total"}
            assert grows or (shown and "rate" not in code)
        else:
            assert not grows


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_tells_what_to_do_with_labels_that_it_has(alert: Alert) -> None:
    assert re.fullmatch(r"Rdmatrain([A-Z][a-z]+)+", alert.name)
    assert re.fullmatch(r"\d+m", alert.wait)
    assert alert.severity in {"critical", "warning", "info"}
    kept = re.findall(r"\b(?:by|on) \(([^)]*)\)", alert.expr)
    labels = {*kept[0].split(", ")} if kept else _labels_of(_metrics(alert.expr)[0])
    used = re.findall(r"\$labels\.(\w+)", alert.summary + alert.remedy)
    assert {*used} <= labels
    assert "job" in labels


def test_what_the_issue_asks_for_has_its_alert() -> None:
    about = {
        "RdmatrainTransportFellBack": "rdmatrain_fallback_peers",
        "RdmatrainStraggler": "rdmatrain_rank_wait_seconds_total",
        "RdmatrainNoProgress": "rdmatrain_collectives_total",
        "RdmatrainHcaLinkErrors": "rdmatrain_hca_errors_total",
        "RdmatrainHcaSendsAgain": "rdmatrain_hca_errors_total",
        "RdmatrainRestarts": "rdmatrain_restarts_total",
    }
    for name, metric in about.items():
        assert metric in _metrics(alert_of(name).expr)
    assert {*alerts.LINK.split("|"), *alerts.AGAIN.split("|")} <= {*hca.ERRORS}
    assert not {*alerts.LINK.split("|")} & {*alerts.AGAIN.split("|")}


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for panel in PANELS for _, query in panel.queries for name in _metrics(query)}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert {*BY_NAME} - {*plain, *shown} == {"rdmatrain_job_info"}, "that one fills the variables"


def test_the_dashboard_is_what_grafana_loads(spec: Spec) -> None:
    model = json.loads(config_map(spec)["data"]["rdmatrain.json"])
    assert [each["name"] for each in model["templating"]["list"]] == [
        "datasource",
        "namespace",
        "job",
    ]
    assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"]) == len(PANELS)
    places = [tuple(panel["gridPos"].values()) for panel in model["panels"]]
    assert len({*places}) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in model["panels"])
    for panel in model["panels"]:
        for query in panel["targets"]:
            assert dashboard.SELECTOR in query["expr"]
            assert "@" not in query["expr"]
            legend = {*re.findall(r"\{\{(\w+)\}\}", query["legendFormat"])}
            kept = re.findall(r"\bby \(([^)]*)\)", query["expr"])
            assert legend <= {label for each in kept for label in each.split(", ")}
    assert len(config_map(spec)["data"]["rdmatrain.json"]) < 1 << 19
