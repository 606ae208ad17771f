"""Rules for Prometheus: what somebody should hear of while a job runs.

Each looks at all jobs of the cluster. ``job`` is the job's name, as its PodMonitor sees to.
"""

from dataclasses import dataclass

from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.spec import Spec

NAME = "rdmatrain"
JOB = "namespace, job"

# Counters that say that a link is bad, and those that say that packets are sent again.
LINK = "symbol_error|link_error_recovery|link_downed|local_link_integrity_errors|port_rcv_errors"
AGAIN = (
    "out_of_sequence|packet_seq_err|implied_nak_seq_err|local_ack_timeout_err|rnr_nak_retry_err"
    "|roce_adp_retrans|port_xmit_discards"
)
_WAIT = "rate(rdmatrain_rank_wait_seconds_total[10m])"


@dataclass(frozen=True)
class Alert:
    """One rule.

    Attributes:
        name: of the alert.
        expr: in PromQL; what it gives is told.
        wait: for how long it must hold.
        severity: ``critical``: the job does nothing; ``warning``: it is slow, or soon will be;
            ``info``: what is told of it is not all.
        summary: what is wrong, with Prometheus' templates.
        remedy: what to do.

    """

    name: str
    expr: str
    wait: str
    severity: str
    summary: str
    remedy: str


ALERTS = (
    Alert(
        "RdmatrainTransportFellBack",
        f"sum by ({JOB}, pod, rank) (rdmatrain_fallback_peers) > 0",
        "1m", "warning",
        "rank {{ $labels.rank }} of {{ $labels.job }} uses tcp towards {{ $value }} ranks",
        "One side has RDMA devices that cannot be used: run rdmatrain doctor in pod "
        "{{ $labels.pod }}, or set RDMATRAIN_REQUIRE=verbs to refuse to start so.",
    ),
    Alert(
        "RdmatrainStraggler",
        # Who is late waits least: the time of all others goes into waiting for it.
        f"avg by ({JOB}, pod, rank) ({_WAIT}) < on ({JOB}) group_left () "
        f"(avg by ({JOB}) ({_WAIT}) - 0.2)",
        "10m", "warning",
        "the other ranks of {{ $labels.job }} wait for rank {{ $labels.rank }}",
        "Compare the GPU's clock and temperature, the CPU's throttling and the data loader of pod "
        "{{ $labels.pod }} with another one's.",
    ),
    Alert(
        "RdmatrainNoProgress",
        # By counters, not by times: no two hosts' clocks are compared. Workers that begin have
        # done none in any window: it is the time below that they have for it.
        f"sum by ({JOB}) (rdmatrain_workers) > 0 unless on ({JOB}) "
        f"sum by ({JOB}) (increase(rdmatrain_collectives_total[5m])) > 0",
        "10m", "critical",
        "{{ $labels.job }} has done no collective for at least 10 minutes",
        "rdmatrain_rank_waiting_seconds says which ranks wait; the one that does not is the one "
        "to look at.",
    ),
    Alert(
        "RdmatrainHcaLinkErrors",
        f"sum by ({JOB}, pod, device, port, counter) "
        f'(increase(rdmatrain_hca_errors_total{{counter=~"{LINK}"}}[10m])) > 0',
        "1m", "warning",
        "{{ $labels.counter }} of {{ $labels.device }} port {{ $labels.port }} grows",
        "Check the cable, the transceiver and the switch port of that link.",
    ),
    Alert(
        "RdmatrainHcaSendsAgain",
        f"sum by ({JOB}, pod, device, port) "
        f'(rate(rdmatrain_hca_errors_total{{counter=~"{AGAIN}"}}[5m])) > 10',
        "5m", "warning",
        "{{ $labels.device }} port {{ $labels.port }} sends packets again",
        "Packets are lost: on RoCE check that PFC or ECN is the same on NICs and switches.",
    ),
    Alert(
        "RdmatrainHcaDown",
        "rdmatrain_hca_up == 0 and max_over_time(rdmatrain_hca_up[1h]) == 1",
        "1m", "critical",
        "{{ $labels.device }} port {{ $labels.port }} is down",
        "It was ACTIVE in the last hour: look at the link; cordon the node of pod "
        "{{ $labels.pod }} if it does not come back.",
    ),
    Alert(
        "RdmatrainRestarts",
        f"max by ({JOB}) (increase(rdmatrain_restarts_total[1h])) >= 3",
        "0m", "warning",
        "{{ $labels.job }} was started again "  # increase() gives fractions
        '{{ $value | printf "%.0f" }} times in an hour',
        "The first line that each launcher prints of a fault says whose it was.",
    ),
    Alert(
        "RdmatrainWorkersMissing",
        f"sum by ({JOB}, pod) (rdmatrain_workers) < sum by ({JOB}, pod) "
        "(rdmatrain_workers_expected)",
        "10m", "warning",
        "{{ $labels.pod }} of {{ $labels.job }} has fewer workers than it should",
        "The gang is not complete: see what its launcher waits for.",
    ),
    Alert(
        "RdmatrainCheckpointFailed",
        f'max by ({JOB}) (increase(rdmatrain_checkpoints_total{{result="failed"}}[30m])) > 0',
        "0m", "warning",
        "a checkpoint of {{ $labels.job }} could not be saved",
        "Its log has path and reason; a fault now costs the steps since the last one.",
    ),
    Alert(
        "RdmatrainLowGoodput",
        f"min by ({JOB}) (rdmatrain_goodput_ratio) < 0.7",
        "30m", "warning",
        "only {{ $value | humanizePercentage }} of the time of {{ $labels.job }} makes progress",
        "rdmatrain_goodput_seconds says where it goes: saving, loading, waiting or lost.",
    ),
    Alert(
        "RdmatrainOperationsMissed",
        f"sum by ({JOB}, pod, rank) (increase(rdmatrain_collectives_missed_total[10m])) > 0",
        "0m", "info",
        "not all operations of rank {{ $labels.rank }} of {{ $labels.job }} are counted",
        "They leave the flight recorder within a second: set RDMATRAIN_RECORDER, the operations "
        "that it holds, higher.",
    ),
)  # fmt: skip


def prometheus_rule(spec: Spec) -> Object:
    """Return the rules as an object, where Prometheus of this spec finds them."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": NAME,
            "namespace": spec.monitoring.namespace,
            "labels": {"app.kubernetes.io/name": NAME, **spec.monitoring.labels},
        },
        "spec": {"groups": [{"name": NAME, "rules": [_rule(alert) for alert in ALERTS]}]},
    }


def _rule(alert: Alert) -> Object:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "description": alert.remedy},
    }
