"""The report as one HTML file that opens from disk, with all that it needs."""

import base64
import gzip
import hashlib
import json
import math
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from rdmatrain.bench.plots.curves import LIMITS, ONLY_LIMITS, Drawing, Record, View, drawing, text
from rdmatrain.bench.plots.labels import optional, styles

_CELLS = (
    "op", "transport", "dtype", "redop", "in_place", "ranks", "hosts", "nbytes", "seconds_p50",
    "seconds_p99", "seconds_min", "cv", "calls", "algbw", "busbw", "nwrong",
)  # fmt: skip
_FACTS = {
    "time": "Time",
    "command": "Command",
    "file": "File",
    "commit": "Commit",
    "machine": "Machine",
    "host": "Host",
    "cpus": "CPUs",
    "memory_bytes": "Memory",
    "pinned": "Ranks bound to CPUs",
    "kernel": "Kernel",
    "nic": "NIC",
    "versions": "Versions",
}


def page(records: list[Record]) -> str:
    """Draw records as a page.

    Raises:
        SettingError: no record can be drawn, or plotly is not installed.

    """
    found = drawing(records)
    plotly, packed = _plotly()
    script = _part("page.js")
    # Nothing may be fetched, and no other script may run, whatever a record has in it.
    policy = (
        f"default-src 'none'; script-src {_hashed(script)} {_hashed(plotly)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return Template(_part("page.html")).substitute(
        policy=policy,
        style=_part("page.css"),
        script=script,
        data=_embedded(_document(found)),
        plotly=packed,
    )


@cache
def _plotly() -> tuple[str, str]:
    """Return plotly.js, and the same packed: a third of its size."""
    script: str = optional("plotly.offline").get_plotlyjs()
    return script, base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _hashed(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embedded(document: Any) -> str:
    """Write JSON in which no HTML can begin or end."""
    written = json.dumps(_finite(document), separators=(",", ":"))
    return written.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def _document(found: Drawing) -> dict[str, Any]:
    """Return what page.js draws."""
    looks = styles(found.backends)
    runs: dict[str, int] = {}  # facts, as JSON, and their numbers
    rows = []
    for record, name in zip(found.records, found.names, strict=True):
        run = runs.setdefault(json.dumps(_facts(record)), len(runs) + 1)
        rows.append({key: record.get(key) for key in _CELLS} | {"name": name, "run": run})
    wrong = f"{found.num_wrong} of {len(rows)} results had wrong values: see the table."
    return {
        "summary": f"{len(rows)} results of {len(looks)} contestants",
        "wrong": wrong if found.num_wrong else "",
        "contestants": [
            {
                "name": name,
                "light": look.light,
                "dark": look.dark,
                "symbol": look.symbol,
                "dash": look.dash,
                "contests": found.backends[name] not in ONLY_LIMITS,
                "limits": found.backends[name] in LIMITS,
            }
            for name, look in looks.items()
        ],
        "views": [_view(view, list(looks)) for view in found.views],
        "rows": rows,
        "runs": [json.loads(facts) for facts in runs],
    }


def _view(view: View, names: list[str]) -> dict[str, Any]:
    return {
        "op": view.op,
        "kind": view.kind,
        "place": view.place,
        "title": view.title,
        "sized": view.sized,
        "curves": [
            {"who": names.index(curve.name), "points": [vars(point) for point in curve.points]}
            for curve in view.curves
        ],
    }


def _facts(record: Record) -> list[tuple[str, str]]:
    """Return where, when and how a record was measured: names and values, as texts."""
    facts = [(name, _said(record, key)) for key, name in _FACTS.items()]
    return [(name, value) for name, value in facts if value]


def _said(record: Record, key: str) -> str:
    value = record.get(key)
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "memory_bytes" and isinstance(value, int):
        return f"{value / 2**30:.1f} GiB"
    return text(record, key)
