# SPDX-License-Identifier: Apache-2.0
"""Prometheus itself evaluates the alerts: which samples they fire at, when, and what they say."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from k8s_specs import small

from rdmatrain.k8s import dashboard
from rdmatrain.k8s.alerts import ALERTS, prometheus_rule

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool: install Debian's prometheus, which brings it"
)

JOB = {"namespace": "ml", "job": "llm"}
MINUTES = 120
Samples = dict[str, str]  # by series; in promtool's notation, one a minute


def promtool(*words: str) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *words], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of(metric: str, pod: int = 0, job: str = "llm", **labels: object) -> str:
    """A series as it is scraped."""
    own = {**JOB, "job": job, "pod": f"{job}-{pod}", **labels}
    text = ",".join(f'{name}="{value}"' for name, value in own.items())
    return f"rdmatrain_{metric}{{{text}}}"


@dataclass(frozen=True)
class Case:
    """When an alert fires, and when it does not.

    Attributes:
        fires: samples at which it does.
        at: the first minute in which it does.
        labels: of the alert, besides its severity and :data:`JOB`.
        summary: what it says then.
        silent: samples at which it never does.

    """

    fires: Samples
    at: int
    labels: dict[str, str]
    summary: str
    silent: Samples


POD, RANK = {"pod": "llm-0"}, {"pod": "llm-0", "rank": "0"}
PORT = {"device": "mlx5_0", "port": "1"}
FAILED = {"rank": 0, "result": "failed"}
CASES = {
    "RdmatrainTransportFellBack": Case(
        {of("fallback_peers", rank=0): "0x9 3x20", of("fallback_peers", rank=1): "0x30"},
        11, RANK, "rank 0 of llm uses tcp towards 3 ranks",
        {of("fallback_peers", rank=0): "0x120"},
    ),
    "RdmatrainStraggler": Case(
        # 33 seconds a minute, of which the rate is full after ten; another job, without waits.
        {of("rank_wait_seconds_total", rank=0): "0x60"}
        | {of("rank_wait_seconds_total", 1, rank=rank): "0+33x60" for rank in (1, 2)}
        | {of("rank_wait_seconds_total", job="other", rank=rank): "0x60" for rank in (0, 1)},
        16, RANK, "the other ranks of llm wait for rank 0",
        {of("rank_wait_seconds_total", rank=0): "0+25x120"}
        | {of("rank_wait_seconds_total", 1, rank=rank): "0+30x120" for rank in (1, 2)},
    ),
    "RdmatrainNoProgress": Case(
        {of("workers"): "1x60", of("collectives_total", rank=0): "0+100x20 2000x40"}
        | {of("workers", job="other"): "1x60",
           of("collectives_total", job="other", rank=0): "0+1x60"},
        35, {}, "llm has done no collective for at least 10 minutes",
        # One rank goes on, an operation a minute; others have ended, or begin nine minutes late.
        {of("workers"): "2x120", of("collectives_total", rank=0): "9x120"}
        | {of("collectives_total", rank=1): "0+1x120"}
        | {of("workers", job="other"): "0x120",
           of("collectives_total", job="other", rank=0): "9x120"}
        | {of("workers", job="late"): "1x120",
           of("collectives_total", job="late", rank=0): "_x8 1+1x110"},
    ),
    "RdmatrainHcaLinkErrors": Case(
        {of("hca_errors_total", **PORT, counter="symbol_error"): "5x10 6x60"},
        12, {**POD, **PORT, "counter": "symbol_error"}, "symbol_error of mlx5_0 port 1 grows",
        {of("hca_errors_total", **PORT, counter="symbol_error"): "5x120"}
        | {of("hca_errors_total", **PORT, counter="out_of_buffer"): "0+9x120"},
    ),
    "RdmatrainHcaSendsAgain": Case(
        {of("hca_errors_total", **PORT, counter="out_of_sequence"): "0+360x30"}
        | {of("hca_errors_total", **PORT, counter="local_ack_timeout_err"): "0+360x30"},
        10, {**POD, **PORT}, "mlx5_0 port 1 sends packets again",
        {of("hca_errors_total", **PORT, counter="out_of_sequence"): "0+360x120"}
        | {of("hca_errors_total", **PORT, counter="symbol_error"): "0+3600x120"},
    ),
    "RdmatrainHcaDown": Case(
        {of("hca_up", **PORT): "1x10 0x40"},
        12, {**POD, **PORT}, "mlx5_0 port 1 is down",
        {of("hca_up", **PORT): "0x120", of("hca_up", device="mlx5_1", port=1): "1x120"},
    ),
    "RdmatrainRestarts": Case(
        {of("restarts_total", pod): "0 1 1 2 2 3 3x60" for pod in (0, 1)},
        5, {}, "llm was started again 3 times in an hour",
        {of("restarts_total", pod): "0x9 1x30 2x30 3x50" for pod in (0, 1)},
    ),
    "RdmatrainWorkersMissing": Case(
        {of("workers"): "8x5 7x30", of("workers", 1): "8x36"}
        | {of("workers_expected", pod): "8x36" for pod in (0, 1)},
        16, POD, "llm-0 of llm has fewer workers than it should",
        {of("workers"): "8x5 7x8 8x106", of("workers_expected"): "8x120"},
    ),
    "RdmatrainCheckpointFailed": Case(
        {of("checkpoints_total", **FAILED): "0x9 1x40"},
        10, {}, "a checkpoint of llm could not be saved",
        {of("checkpoints_total", **FAILED): "0x120"}
        | {of("checkpoints_total", rank=0, result="saved"): "0+1x120"},
    ),
    "RdmatrainLowGoodput": Case(
        {of("goodput_ratio", rank=0): "0.9x9 0.65x60"},
        40, {}, "only 65% of the time of llm makes progress",
        {of("goodput_ratio", rank=0): "0.9x9 0.5x25 0.75x85"},
    ),
    "RdmatrainOperationsMissed": Case(
        {of("collectives_missed_total", rank=0): "0x9 40x20"},
        10, RANK, "not all operations of rank 0 of llm are counted",
        {of("collectives_missed_total", rank=0): "0x120"},
    ),
}  # fmt: skip


def write(folder: Path, name: str, document: Any) -> str:
    (folder / name).write_text(json.dumps(document), "utf-8")  # which is YAML as well
    return str(folder / name)


def write_rules(folder: Path) -> str:
    return write(folder, "rules.yaml", prometheus_rule(small())["spec"])


def test_prometheus_reads_the_alerts_and_the_dashboard(tmp_path: Path) -> None:
    queries = [query for panel in dashboard.PANELS for _, query in panel.queries]
    rules = [
        {
            "record": f"panel:{place}",
            "expr": each.replace("@", dashboard.SELECTOR).replace("$__rate_interval", "5m"),
        }
        for place, each in enumerate(queries)
    ]
    panels = write(tmp_path, "panels.yaml", {"groups": [{"name": "panels", "rules": rules}]})
    said = promtool("check", "rules", write_rules(tmp_path), panels)
    assert re.findall(r"SUCCESS: (\d+) rules", said) == [str(len(ALERTS)), str(len(queries))]


def test_every_alert_has_a_case() -> None:
    assert [*CASES] == [alert.name for alert in ALERTS]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_fires_when_it_should_and_not_otherwise(alert: Any, tmp_path: Path) -> None:
    case = CASES[alert.name]
    labels = {**JOB, **case.labels}
    remedy = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], alert.remedy)
    told = {
        "exp_labels": {**labels, "severity": alert.severity},
        "exp_annotations": {"summary": case.summary, "description": remedy},
    }
    document = {
        "rule_files": [write_rules(tmp_path)],
        "evaluation_interval": "1m",
        "tests": [
            group(alert.name, case.silent, {minute: [] for minute in range(MINUTES + 1)}),
            group(alert.name, case.fires, {case.at - 1: [], case.at: [told]}),
        ],
    }
    promtool("test", "rules", write(tmp_path, "test.yaml", document))


def group(alert: str, samples: Samples, expected: dict[int, list[Any]]) -> dict[str, Any]:
    """One of promtool's tests: what fires in each minute."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in samples.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": alerts}
            for minute, alerts in expected.items()
        ],
    }
