"""Who this process is in its job, as text and as JSON that ``schemas/whoami.schema.json`` has."""

from typing import Any

from rdmatrain import __version__
from rdmatrain.discovery.orchestrator import Identity

SCHEMA = "rdmatrain-whoami/1"
FIELDS = (
    "orchestrator",
    "nnodes",
    "node_rank",
    "nproc_per_node",
    "leader",
    "leader_port",
    "epoch",
)


def whoami_document(identity: Identity) -> dict[str, Any]:
    """Return it as JSON has it; what is not known is null, and ``decided_by`` says why."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        **{name: _value(identity, name) for name in FIELDS},
        "within": list(identity.within),
        "decided_by": {name: identity.decided_by[name] for name in FIELDS},
        "complaints": [
            {"id": each.id, "source": each.source, "text": each.text}
            for each in identity.complaints
        ],
    }


def whoami_text(identity: Identity) -> str:
    """Return a line for each field, with who says it, and one for each complaint."""
    found = {name: _value(identity, name) for name in FIELDS}
    values = {name: "unknown" if value is None else str(value) for name, value in found.items()}
    values["orchestrator"] = " in ".join([identity.orchestrator, *identity.within])
    names, width = max(map(len, values)), max(map(len, values.values()))
    lines = [
        f"{name:{names}}  {value:{width}}  {identity.decided_by[name]}"
        for name, value in values.items()
    ]
    complaints = [f"! {complaint}" for complaint in identity.complaints]
    return "\n".join([*lines, *([""] if complaints else []), *complaints])


def _value(identity: Identity, name: str) -> str | int | None:
    value: str | int | None = getattr(identity, name)
    return None if value == "" else value
