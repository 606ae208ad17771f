"""What a pod's environment and files say, from all who say something."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rdmatrain.discovery.claims import Finding
from rdmatrain.discovery.claims.device_nodes import device_nodes
from rdmatrain.discovery.claims.downward import read_annotations, read_labels
from rdmatrain.discovery.claims.dra import dra
from rdmatrain.discovery.claims.network_status import network_status
from rdmatrain.discovery.claims.pcidevice import pcidevice
from rdmatrain.discovery.claims.sriovnetwork import sriovnetwork
from rdmatrain.discovery.claims.variables import read_variables
from rdmatrain.discovery.claims.visible import visible
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint
from rdmatrain.discovery.pod_model import Claim, Pod, Request, Restriction, Variable
from rdmatrain.discovery.source import Source

T = TypeVar("T")

# Garbage of a megabyte need not give a hundred thousand complaints.
MAX_ALIKE = 8


def read_pod(source: Source) -> Pod:
    """Read what is there now; complaints that say ``late`` or ``torn`` may be gone a minute later.

    Nothing is looked up in the devices themselves: what is said need not be true.
    """
    variables, complaints = read_variables(source)
    notes, tags = list(read_annotations(source)), list(read_labels(source))
    annotations = _only(Variable, notes)
    findings = list(_findings(source, variables, annotations))
    return Pod(
        variables=variables,
        annotations=tuple((each.name, each.value) for each in annotations),
        labels=tuple((each.name, each.value) for each in _only(Variable, tags)),
        claims=tuple(sorted(_only(Claim, findings), key=lambda claim: -claim.weight)),
        requests=_only(Request, findings),
        restrictions=_only(Restriction, findings),
        complaints=_limited([*complaints, *_only(Complaint, [*notes, *tags, *findings])]),
    )


def _only(kind: type[T], findings: Iterable[object]) -> tuple[T, ...]:
    return tuple(each for each in findings if isinstance(each, kind))


def _limited(complaints: Iterable[Complaint]) -> tuple[Complaint, ...]:
    """Keep the first complaints that are alike, and the number of the others."""
    alike: dict[tuple[str, str], list[Complaint]] = {}
    for each in complaints:
        alike.setdefault((each.id, each.source), []).append(each)
    kept = []
    for (what, source), group in alike.items():
        kept += group[:MAX_ALIKE]
        if group[MAX_ALIKE:]:
            kept.append(complaint(what, source, f"and {len(group) - MAX_ALIKE} more"))
    return tuple(kept)


def _findings(
    source: Source, variables: Sequence[Variable], annotations: Sequence[Variable]
) -> Iterator[Finding]:
    yield from network_status(annotations, variables)
    yield from dra(source)
    yield from pcidevice(variables)
    yield from sriovnetwork(variables)
    yield from visible(source, variables)
    yield from device_nodes(source)
