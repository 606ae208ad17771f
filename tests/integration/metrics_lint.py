# SPDX-License-Identifier: Apache-2.0
"""What promtool says of metrics: the rules of its linter, on what was scraped."""

import re

from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

NAME = re.compile(r"[a-z][a-z0-9_]*")
# What promtool takes for units that are not the base one.
NOT_BASE = re.compile(
    r"(milli|micro|nano|kilo|mega|giga|kibi|mebi|gibi)|_(minutes|hours|days|ms|us|ns|bits|kb|mb|gb)(_|$)"
)
UNITS = ("seconds", "bytes", "ratio")
RESERVED_LABELS = {"job", "instance", "namespace", "pod", "container", "endpoint", "le", "quantile"}


def values_of(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample, by its name and labels; one that comes twice is an error."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def problems_of(text: str, open_text: str = "") -> list[str]:
    """Return what is wrong with what was scraped, as text and as OpenMetrics."""
    found = []
    kinds = {}
    for family in text_string_to_metric_families(text):
        kinds[family.name] = family.type
        found += _problems(family.name, family.type, family.documentation, family.samples)
    if open_text:  # this parser is strict: it raises
        strict = list(openmetrics_parser.text_string_to_metric_families(open_text))
        found += [f"{one.name}: {one.type}" for one in strict if kinds.get(one.name) != one.type]
    return found


def _problems(name: str, kind: str, text: str, samples: list[object]) -> list[str]:
    # The parser takes _total from the name of a counter.
    names = {sample.name for sample in samples}  # type: ignore[attr-defined]
    labels = {label for sample in samples for label in sample.labels}  # type: ignore[attr-defined]
    checks = {
        "is no name": not NAME.fullmatch(name),
        "has no help": not text,
        "has an unknown type": kind not in {"counter", "gauge", "histogram"},
        "is a counter without _total": kind == "counter" and names != {f"{name}_total"},
        "is no counter, but called _total": kind != "counter" and name.endswith("_total"),
        "ends like a histogram": name.endswith(("_bucket", "_count", "_sum")),
        "is called by its type": bool(re.search(r"_(counter|gauge|histogram)$", name)),
        "has another unit than the base one": bool(NOT_BASE.search(name)),
        "does not end with its unit": any(f"_{unit}_" in name for unit in UNITS),
        "has a label that Prometheus sets": bool(labels & (RESERVED_LABELS - {"le"})),
        "has le but is no histogram": "le" in labels and kind != "histogram",
        "has a label in camel case": any(not NAME.fullmatch(label) for label in labels),
    }
    return [f"{name} {what}" for what, wrong in checks.items() if wrong]
