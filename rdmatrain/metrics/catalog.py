"""Every metric that is served: name, type, labels, meaning. The README's table is equal to it."""

from dataclasses import dataclass

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
RANK = "rank"

# Upper bounds in seconds; whatever is longer is in +Inf alone.
DURATION_BUCKETS = (
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
SAVE_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@dataclass(frozen=True)
class Metric:
    """One family of time series.

    Attributes:
        name: as PromQL has it, of a histogram without ``_bucket``.
        kind: :data:`COUNTER`, :data:`GAUGE` or :data:`HISTOGRAM`.
        help: what it counts, and its unit.
        labels: without ``rank``.
        per_rank: it has the label ``rank`` too; otherwise it is of the node.
        buckets: of a histogram.
        sticky: of a gauge: its last value stays while the workers are started again.

    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    per_rank: bool = True
    buckets: tuple[float, ...] = ()
    sticky: bool = False

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Its labels as they are served."""
        return (*self.labels, RANK) if self.per_rank else self.labels


# Counted in the workers.
OF_RANKS = (
    Metric("rdmatrain_collectives_total", COUNTER,
           "Operations that ended well, by the transports that join the ranks of their group.",
           ("op", "transport")),
    Metric("rdmatrain_collective_errors_total", COUNTER,
           "Operations that failed, by the status that they ended with.", ("op", "status")),
    Metric("rdmatrain_collectives_missed_total", COUNTER,
           "Operations that left the flight recorder before they were counted."),
    Metric("rdmatrain_collective_duration_seconds", HISTOGRAM,
           "From the start of an operation to its end, of all ranks of the node.", ("op",),
           per_rank=False, buckets=DURATION_BUCKETS),
    Metric("rdmatrain_rank_wait_seconds_total", COUNTER,
           "Seconds in collectives. Who is late waits least: the others wait for it."),
    Metric("rdmatrain_bytes_total", COUNTER,
           "Bytes of data exchanged with other ranks, without headers.",
           ("direction", "transport", "device")),
    Metric("rdmatrain_staged_bytes_total", COUNTER,
           "Bytes of these that the CPU copied between a tensor and memory of the transport.",
           ("transport",)),
    Metric("rdmatrain_peers", GAUGE, "Ranks that this one is joined to, by transport.",
           ("transport",)),
    Metric("rdmatrain_fallback_peers", GAUGE,
           "Ranks that this one is joined to by tcp, though one of the two has RDMA devices."),
    Metric("rdmatrain_last_progress_timestamp_seconds", GAUGE,
           "When an operation last ended well, in seconds since 1970.", sticky=True),
    Metric("rdmatrain_step", GAUGE, "Last step that is done.", sticky=True),
    Metric("rdmatrain_checkpoints_total", COUNTER,
           "Checkpoints that the rank took part in: saved, failed.", ("result",)),
    Metric("rdmatrain_checkpoint_duration_seconds", HISTOGRAM,
           "Seconds that the steps waited for a checkpoint, of all ranks of the node.",
           per_rank=False, buckets=SAVE_BUCKETS),
    Metric("rdmatrain_goodput_ratio", GAUGE,
           "Share of the job's time that made progress which stayed, over all restarts.",
           sticky=True),
    Metric("rdmatrain_goodput_seconds", GAUGE,
           "Where the job's time went: steps, saving, loading, waiting, lost.", ("kind",),
           sticky=True),
)  # fmt: skip

# Known to the launcher, or to the kernel of its node.
OF_NODES = (
    Metric("rdmatrain_job_info", GAUGE, "Always 1; says which job and version this is.",
           ("run_id", "version"), per_rank=False),
    Metric("rdmatrain_restarts_total", COUNTER,
           "How often the workers of this node were started again.", per_rank=False),
    Metric("rdmatrain_workers", GAUGE, "Workers of this node that run.", per_rank=False),
    Metric("rdmatrain_workers_expected", GAUGE, "Workers that this node is to have.",
           per_rank=False),
    Metric("rdmatrain_rank_waiting_seconds", GAUGE,
           "For how long the rank has been in the operation that it is in; 0 if in none."),
    Metric("rdmatrain_rank_idle_seconds", GAUGE,
           "For how long the rank has used no CPU and moved no bytes."),
    Metric("rdmatrain_hca_transmitted_bytes_total", COUNTER,
           "Bytes that the port has sent, whoever sent them.", ("device", "port"), per_rank=False),
    Metric("rdmatrain_hca_received_bytes_total", COUNTER,
           "Bytes that the port has received.", ("device", "port"), per_rank=False),
    Metric("rdmatrain_hca_transmitted_packets_total", COUNTER,
           "Packets that the port has sent.", ("device", "port"), per_rank=False),
    Metric("rdmatrain_hca_received_packets_total", COUNTER,
           "Packets that the port has received.", ("device", "port"), per_rank=False),
    Metric("rdmatrain_hca_errors_total", COUNTER,
           "Errors of the port, by the kernel's name of the counter.",
           ("device", "port", "counter"), per_rank=False),
    Metric("rdmatrain_hca_congestion_total", COUNTER,
           "Marks, notifications and pauses of congestion, by the kernel's name of the counter.",
           ("device", "port", "counter"), per_rank=False),
    Metric("rdmatrain_hca_up", GAUGE, "Whether the port is ACTIVE.", ("device", "port"),
           per_rank=False),
)  # fmt: skip

METRICS = (*OF_RANKS, *OF_NODES)
BY_NAME = {metric.name: metric for metric in METRICS}


def series_names() -> frozenset[str]:
    """Return the names that PromQL can select: a histogram has three."""
    names = set()
    for metric in METRICS:
        if metric.kind == HISTOGRAM:
            names |= {f"{metric.name}_{end}" for end in ("bucket", "sum", "count")}
        else:
            names.add(metric.name)
    return frozenset(names)
