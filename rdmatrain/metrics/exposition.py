"""Values as Prometheus reads them; the one module that needs prometheus-client."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from rdmatrain.metrics import catalog
from rdmatrain.metrics.tally import Tally


class _Values(Collector):
    def __init__(self, collect: Callable[[], Tally]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        """Yield every family of the catalog that has values."""
        tally = self._collect()
        for metric in catalog.METRICS:
            family = _family(metric, tally)
            if family.samples:
                yield family


def _family(metric: catalog.Metric, tally: Tally) -> Metric:
    if metric.kind == catalog.HISTOGRAM:
        return _histogram(metric, tally)
    of_kind = CounterMetricFamily if metric.kind == catalog.COUNTER else GaugeMetricFamily
    family = of_kind(metric.name, metric.help, labels=metric.all_labels)
    for (name, labels), value in sorted(tally.values.items()):
        if name == metric.name and len(labels) == len(metric.all_labels):
            family.add_metric(labels, value)
    return family


def _histogram(metric: catalog.Metric, tally: Tally) -> Metric:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.all_labels)
    bounds = [*map(repr, metric.buckets), "+Inf"]
    for (name, labels), (counts, total) in sorted(tally.histograms.items()):
        if name == metric.name and len(labels) == len(metric.all_labels):
            below = [sum(counts[: i + 1]) for i in range(len(counts))]
            family.add_metric(labels, list(zip(bounds, below, strict=True)), total)
    return family


def encode(collect: Callable[[], Tally], accept: str) -> tuple[bytes, str]:
    """Return what a scrape is answered with, and its content type.

    Args:
        collect: gives the values.
        accept: the header ``Accept`` of the request; Prometheus asks for OpenMetrics.

    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Values(collect))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
