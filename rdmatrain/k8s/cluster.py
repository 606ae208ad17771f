"""The versions of Kubernetes and its add-ons that objects are rendered for."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from rdmatrain.discovery.claims.values import shown
from rdmatrain.errors import SettingError
from rdmatrain.spelling import closest

Version = tuple[int, int]
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(\.\d{1,6})?([-+][0-9A-Za-z.+-]*)?", re.ASCII)


@dataclass(frozen=True)
class Cluster:
    """What runs in the cluster, as (major, minor); the defaults are what is tested against.

    The properties say what differs between versions: a target asks them, and compares no version.
    """

    kubernetes: Version = (1, 37)
    volcano: Version = (1, 15)
    trainer: Version = (2, 3)
    training_operator: Version = (1, 9)
    jobset: Version = (0, 12)
    kueue: Version = (0, 19)
    lws: Version = (0, 10)
    mpi_operator: Version = (0, 8)

    @property
    def gang_api(self) -> str:
        """Version of ``scheduling.k8s.io`` in which Kubernetes has gangs; empty: it has none.

        Each has words of its own: ``v1alpha1`` (1.35) groups of pods within a Workload, and from
        ``v1alpha2`` (1.36) on PodGroups, whose disruption modes have other names in ``v1beta1``
        (1.37).
        """
        return {(1, 35): "v1alpha1", (1, 36): "v1alpha2", (1, 37): "v1beta1"}.get(
            self.kubernetes, ""
        )

    @property
    def has_numa_node(self) -> bool:
        """Whether DRA's drivers have one name for the NUMA node of a device (1.37)."""
        return self.kubernetes >= (1, 37)


# The oldest whose names of fields are known to be those that are rendered, where it is not the
# newest: what is tested against. From 1.34 on Kubernetes has ``resource.k8s.io/v1``.
_OLDEST = {"kubernetes": (1, 34)}
_NEWEST = Cluster()
ADDONS = tuple(each.name.replace("_", "-") for each in fields(Cluster) if each.name != "kubernetes")


def read_cluster(kubernetes: str = "", addons: Iterable[str] = ()) -> Cluster:
    """Return the cluster that options speak of.

    Args:
        kubernetes: its version, as ``1.34`` or ``v1.34.2``; empty for the newest that is known.
        addons: versions of others, each as ``volcano=1.15``.

    Raises:
        SettingError: there is no such add-on, or its version is not known.

    """
    said: dict[str, Version] = {}
    if kubernetes:
        said["kubernetes"] = _known("kubernetes", "--kubernetes ", kubernetes)
    for each in addons:
        name, _, text = each.partition("=")
        if name not in ADDONS:
            meant = closest(name, ADDONS)
            hint = f"did you mean {meant}?" if meant else f"give {', '.join(ADDONS)}, each as A=V"
            also = "--kubernetes has that of Kubernetes" if name == "kubernetes" else hint
            raise SettingError(f"--version {shown(each, 80)} names no add-on: {also}")
        field = name.replace("-", "_")
        found = _known(field, f"--version {name}=", text)
        if said.setdefault(field, found) != found:
            raise SettingError(f"--version {name} is given twice: leave one")
    return Cluster(**said)


def version_text(version: Version) -> str:
    """Return a version as people write it."""
    return f"{version[0]}.{version[1]}"


def supported(field: str) -> str:
    """Return which versions are known: ``1.34 to 1.37``."""
    newest: Version = getattr(_NEWEST, field)
    oldest = _OLDEST.get(field, newest)
    to = f" to {version_text(newest)}" if oldest != newest else ""
    return f"{version_text(oldest)}{to}"


def _known(field: str, option: str, text: str) -> Version:
    match = _VERSION.fullmatch(text)
    if not match:
        raise SettingError(
            f"{option}{shown(text, 80)} is no version: give one such as {supported(field)}"
        )
    version = int(match[1]), int(match[2])
    newest: Version = getattr(_NEWEST, field)
    if not _OLDEST.get(field, newest) <= version <= newest:
        why = "too old" if version < newest else "newer than what is known"
        raise SettingError(
            f"{option}{shown(text, 80)} is {why}: objects are rendered for {supported(field)}"
        )
    return version
