# SPDX-License-Identifier: Apache-2.0
"""A pod as a controller makes it of a template."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
_CLUSTER = "svc.cluster.local"


@dataclass(frozen=True)
class Pod:
    """A pod as its controller makes it.

    Attributes:
        env: what the controller adds to each container that has a name of ``into``.
        into: empty: all containers, and initContainers.
        files: what the controller mounts.

    """

    name: str
    namespace: str
    template: Object
    hostname: str = ""
    subdomain: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    into: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()  # that are made for this pod alone, by the controller

    @property
    def spec(self) -> Object:
        found: Object = self.template["spec"]
        return found

    def container(self) -> Object:
        """The one that trains."""
        found: Object = self.spec["containers"][0]
        return found

    @property
    def host_name(self) -> str:
        return self.hostname or self.name

    def names(self, services: Iterable[str]) -> set[str]:
        """Under what it is found in DNS, given the headless Services that have its address."""
        alone = {f"{each}{tail}" for each in self.services for tail in self._tails()}
        if self.subdomain not in services:
            return alone
        own = f"{self.host_name}.{self.subdomain}"
        return alone | {f"{own}{tail}" for tail in self._tails()}

    def _tails(self) -> tuple[str, ...]:
        space = self.namespace
        return "", f".{space}", f".{space}.svc", f".{space}.{_CLUSTER}"


def pod_of(template: Object, name: str, namespace: str, **fields: Any) -> Pod:
    """A pod of a template, whose labels and annotations the controller's are added to."""
    meta = template.get("metadata", {})
    spec = template["spec"]
    fields.setdefault("hostname", spec.get("hostname", ""))
    fields.setdefault("subdomain", spec.get("subdomain", ""))
    for kind in ("labels", "annotations"):
        fields[kind] = {**meta.get(kind, {}), **fields.get(kind, {})}
    return Pod(name=name, namespace=namespace, template=template, **fields)


def meta(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["name"], obj["metadata"].get("namespace", "default")
