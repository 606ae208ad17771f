"""A dashboard for Grafana, in a ConfigMap that its sidecar finds: how a job is, at a glance."""

import json
from dataclasses import dataclass

from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.spec import Spec

NAME = "rdmatrain-dashboard"
UID = "rdmatrain"
# Of Grafana 9 and later.
_SCHEMA = 38
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The variables of the dashboard; every query has them.
SELECTOR = 'namespace="$namespace", job="$job"'


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: what it shows.
        unit: as Grafana calls it.
        queries: PromQL by legend, with ``{}`` for the selector of the job.
        kind: of panel.

    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{@{more}}}[$__rate_interval]))"


def _quantile(share: float, metric: str, by: str) -> str:
    buckets = f"sum by (le, {by}) (rate({metric}_bucket{{@}}[$__rate_interval]))"
    return f"histogram_quantile({share}, {buckets})"


PANELS = (
    Panel("Workers", "short", (
        ("running", "sum(rdmatrain_workers{@})"),
        ("expected", "sum(rdmatrain_workers_expected{@})"),
    ), "stat"),
    Panel("Goodput", "percentunit", (("", "min(rdmatrain_goodput_ratio{@})"),), "stat"),
    Panel("Restarts", "short", (("", "max(rdmatrain_restarts_total{@})"),), "stat"),
    Panel("Step", "short", (("", "max(rdmatrain_step{@})"),)),
    Panel("Where the time goes", "s", (
        ("{{kind}}", "max by (kind) (rdmatrain_goodput_seconds{@})"),
    )),
    Panel("Since the last operation", "s", (
        ("{{rank}}",
         "time() - max by (rank) (rdmatrain_last_progress_timestamp_seconds{@})"),
    )),
    Panel("Operations", "ops", (
        ("{{op}} over {{transport}}", _rate("rdmatrain_collectives_total", "op, transport")),
    )),
    Panel("Failed and uncounted operations", "ops", (
        ("{{op}} {{status}}", _rate("rdmatrain_collective_errors_total", "op, status")),
        ("uncounted", _rate("rdmatrain_collectives_missed_total", "job")),
    )),
    Panel("Bytes", "Bps", (
        ("{{direction}} {{transport}} {{device}}",
         _rate("rdmatrain_bytes_total", "direction, transport, device")),
        ("staged {{transport}}", _rate("rdmatrain_staged_bytes_total", "transport")),
    )),
    Panel("Duration of operations, median", "s", (
        ("{{op}}", _quantile(0.5, "rdmatrain_collective_duration_seconds", "op")),
    )),
    Panel("Duration of operations, 99th percentile", "s", (
        ("{{op}}", _quantile(0.99, "rdmatrain_collective_duration_seconds", "op")),
    )),
    Panel("Waiting: the straggler waits least", "percentunit", (
        ("{{rank}}", _rate("rdmatrain_rank_wait_seconds_total", "rank")),
    )),
    Panel("In the same operation for", "s", (
        ("{{rank}}", "max by (rank) (rdmatrain_rank_waiting_seconds{@})"),
    )),
    Panel("Idle for", "s", (("{{rank}}", "max by (rank) (rdmatrain_rank_idle_seconds{@})"),)),
    Panel("Peers by transport", "short", (
        ("{{transport}}", "sum by (transport) (rdmatrain_peers{@})"),
        ("fell back", "sum(rdmatrain_fallback_peers{@})"),
    )),
    Panel("Checkpoints", "short", (
        ("{{result}}", "max by (result) (rdmatrain_checkpoints_total{@})"),
    )),
    Panel("Waiting for checkpoints, 90th percentile", "s", (
        ("{{job}}", _quantile(0.9, "rdmatrain_checkpoint_duration_seconds", "job")),
    )),
    Panel("Ports: bytes", "Bps", (
        ("sent {{pod}} {{device}}",
         _rate("rdmatrain_hca_transmitted_bytes_total", "pod, device, port")),
        ("received {{pod}} {{device}}",
         _rate("rdmatrain_hca_received_bytes_total", "pod, device, port")),
    )),
    Panel("Ports: packets", "pps", (
        ("sent {{pod}} {{device}}",
         _rate("rdmatrain_hca_transmitted_packets_total", "pod, device, port")),
        ("received {{pod}} {{device}}",
         _rate("rdmatrain_hca_received_packets_total", "pod, device, port")),
    )),
    Panel("Ports: errors", "ops", (
        ("{{pod}} {{device}} {{counter}}",
         _rate("rdmatrain_hca_errors_total", "pod, device, port, counter") + " > 0"),
    )),
    Panel("Ports: congestion", "ops", (
        ("{{pod}} {{device}} {{counter}}",
         _rate("rdmatrain_hca_congestion_total", "pod, device, port, counter") + " > 0"),
    )),
    Panel("Ports that are up", "short", (
        ("{{pod}} {{device}}", "min by (pod, device, port) (rdmatrain_hca_up{@})"),
    )),
)  # fmt: skip


def config_map(spec: Spec) -> Object:
    """Return the dashboard, where Grafana of this spec finds it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": spec.monitoring.namespace,
            "labels": {"app.kubernetes.io/name": "rdmatrain", "grafana_dashboard": "1"},
        },
        "data": {"rdmatrain.json": _text(dashboard())},
    }


def _text(board: Object) -> str:
    """Return it as JSON, a line for each panel: it stands in the manifests of every job."""
    panels = ",\n".join(json.dumps(each) for each in board["panels"])
    return (
        json.dumps({**board, "panels": []}).replace('"panels": []', f'"panels": [\n{panels}\n]')
        + "\n"
    )


def dashboard() -> Object:
    """Return the dashboard as Grafana's JSON model."""
    return {
        "uid": UID,
        "title": "rdmatrain",
        "tags": ["rdmatrain"],
        "editable": True,
        "schemaVersion": _SCHEMA,
        "version": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _variables() -> list[Object]:
    namespaces = "label_values(rdmatrain_job_info, namespace)"
    jobs = 'label_values(rdmatrain_job_info{namespace="$namespace"}, job)'
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource"}
    return [
        {**source, "query": "prometheus", "hide": 0},
        *(
            {
                "name": name,
                "type": "query",
                "datasource": _SOURCE,
                "definition": query,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                "hide": 0,
            }
            for name, query in (("namespace", namespaces), ("job", jobs))
        ),
    ]


def _panel(number: int, panel: Panel) -> Object:
    row, column = divmod(number, _COLUMNS)
    return {
        "id": number + 1,
        "title": panel.title,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query.replace("@", SELECTOR),
                "legendFormat": legend or "__auto",
            }
            for place, (legend, query) in enumerate(panel.queries)
        ],
    }
