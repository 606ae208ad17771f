# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes' scheduler does of a claim: tries devices in order until all constraints hold.

Written after the documentation of ``resource.k8s.io/v1``, not after what is rendered. Selectors are
left out: all devices of a class are taken to match them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class Device:
    """A device of a node: its class, and attributes that its driver publishes."""

    name: str
    kind: str
    attributes: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Choice:
    """One way to satisfy a request: the name by which constraints know it, and the class."""

    request: str
    sub: str
    kind: str

    def is_in(self, names: list[str]) -> bool:
        """Whether a list of requests speaks of it; an empty one speaks of all."""
        return not names or self.request in names or f"{self.request}/{self.sub}" in names


def choices(request: Object) -> list[Choice]:
    """All ways to satisfy a request, the preferred first."""
    if "exactly" in request:
        assert request["exactly"].get("count", 1) == 1
        return [Choice(request["name"], "", request["exactly"]["deviceClassName"])]
    return [
        Choice(request["name"], each["name"], each["deviceClassName"])
        for each in request["firstAvailable"]
    ]


def _holds(constraint: Object, given: list[tuple[Choice, Device]]) -> bool:
    names = constraint.get("requests", [])
    of_interest = [device for choice, device in given if choice.is_in(names)]
    attribute = constraint["matchAttribute"]
    if any(attribute not in each.attributes for each in of_interest):
        return False
    return len({each.attributes[attribute] for each in of_interest}) <= 1


def _allocations(
    requests: list[Object],
    constraints: list[Object],
    free: list[Device],
    given: list[tuple[Choice, Device]],
) -> Iterator[list[tuple[Choice, Device]]]:
    if len(given) == len(requests):
        yield given
        return
    for choice in choices(requests[len(given)]):
        for device in free:
            step = [*given, (choice, device)]
            if device.kind == choice.kind and all(_holds(each, step) for each in constraints):
                left = [each for each in free if each is not device]
                yield from _allocations(requests, constraints, left, step)


def allocate(devices: Object, free: list[Device]) -> dict[str, tuple[str, Device]] | None:
    """Which subrequest and device each request gets; None: this node cannot have it."""
    found = _allocations(devices["requests"], devices.get("constraints", []), free, [])
    first = next(found, None)
    return None if first is None else {c.request: (c.sub, device) for c, device in first}
