# SPDX-License-Identifier: Apache-2.0
"""Any object against the schemas that its cluster has: core kinds and CRDs, pinned copies of both.

Structure is checked strictly (``k8s_structure``), rules by CEL (``k8s_cel``), what schemas do not
say by hand (``k8s_names``, ``k8s_semantics``).
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import k8s_names
import k8s_semantics
import pytest
import yaml
from k8s_structure import Schema, Structure

CRDS = Path(__file__).parents[3] / "shared/crds"
MANIFESTS = CRDS.parent / "fixtures/manifests"
OURS = Path(__file__).parents[1] / "fixtures/schemas"
POD_TEMPLATE = "io.k8s.api.core.v1.PodTemplateSpec"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
# What the definitions of core kinds call a string, and validation takes for one of a few.
ENUMS = {
    "batch.v1.JobSpec.completionMode": "Indexed NonIndexed",
    "batch.v1.JobSpec.podReplacementPolicy": "Failed TerminatingOrFailed",
    "batch.v1.PodFailurePolicyRule.action": "Count FailIndex FailJob Ignore",
    "batch.v1.PodFailurePolicyOnExitCodesRequirement.operator": "In NotIn",
    "core.v1.PodSpec.dnsPolicy": "ClusterFirst ClusterFirstWithHostNet Default None",
    "core.v1.PodSpec.restartPolicy": "Always Never OnFailure",
    "core.v1.Container.imagePullPolicy": "Always IfNotPresent Never",
    "core.v1.Container.restartPolicy": "Always Never OnFailure",
    "core.v1.Container.terminationMessagePolicy": "FallbackToLogsOnError File",
    "core.v1.ContainerPort.protocol": "SCTP TCP UDP",
    "core.v1.ContainerRestartRule.action": "Restart RestartAllContainers",
    "core.v1.SeccompProfile.type": "Localhost RuntimeDefault Unconfined",
    "core.v1.PodSecurityContext.fsGroupChangePolicy": "Always OnRootMismatch",
    "core.v1.Toleration.effect": "NoExecute NoSchedule PreferNoSchedule",
    "core.v1.Toleration.operator": "Equal Exists Gt Lt",
    "core.v1.PersistentVolumeClaimSpec.volumeMode": "Block Filesystem",
    "core.v1.ServiceSpec.type": "ClusterIP ExternalName LoadBalancer NodePort",
    "core.v1.ServicePort.protocol": "SCTP TCP UDP",
    "networking.v1.NetworkPolicyPort.protocol": "SCTP TCP UDP",
    "policy.v1.PodDisruptionBudgetSpec.unhealthyPodEvictionPolicy": "AlwaysAllow IfHealthyBudget",
    "resource.v1.ExactDeviceRequest.allocationMode": "All ExactCount",
    "resource.v1.DeviceSubRequest.allocationMode": "All ExactCount",
}
# The same of what is in a list.
MEMBER_ENUMS = {
    "core.v1.PersistentVolumeClaimSpec.accessModes": (
        "ReadOnlyMany ReadWriteMany ReadWriteOnce ReadWriteOncePod"
    ),
    "networking.v1.NetworkPolicySpec.policyTypes": "Egress Ingress",
}
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LACKS = ["the pinned CRDs are not beside this checkout"] if not CRDS.is_dir() else []
if not find_spec("cel_expr_python"):
    _LACKS.append("cel-expr-python is not installed (requirements-dev.txt has it)")
needs_crds = pytest.mark.skipif(bool(_LACKS), reason="; ".join(_LACKS))
Object = dict[str, Any]


def _property(definitions: Mapping[str, Any], place: str) -> dict[str, Any]:
    name, _, field = place.rpartition(".")
    found: dict[str, Any] = definitions[f"io.k8s.api.{name}"]["properties"][field]
    return found


def _definitions(version: str) -> dict[str, Any]:
    """All definitions of a version; of 1.35 and 1.36, which are not pinned whole, what matters.

    These are 1.34's with definitions of gangs and pods that were cut out of their own by hand: what
    the oldest takes each newer one takes, but of gangs, which have other words in each.
    """
    whole = CRDS / f"kubernetes/v{version}.0-strict_definitions.json"
    if whole.is_file():
        found: dict[str, Any] = json.loads(whole.read_text())["$defs"]
        return found
    changed = json.loads((OURS / f"v{version}.0-scheduling_definitions.json").read_text())["$defs"]
    return {**_definitions("1.34"), **changed}


@cache
def _core(version: str) -> tuple[Structure, Mapping[str, Schema], dict[tuple[str, str], str]]:
    """Definitions of a version of Kubernetes, and which of them a kind is."""
    definitions = _definitions(version)
    for place, values in ENUMS.items():
        _property(definitions, place)["enum"] = values.split()
    for place, values in MEMBER_ENUMS.items():
        _property(definitions, place)["items"]["enum"] = values.split()
    kinds = {}
    for name, schema in definitions.items():
        for each in schema.get("x-kubernetes-group-version-kind", []):
            api = f"{each['group']}/{each['version']}".lstrip("/")
            kinds[api, each["kind"]] = name
    return Structure(definitions), definitions, kinds


@cache
def _crd(group: str, kind: str) -> dict[str, Schema]:
    """Schemas of a custom kind by version; empty: there is no CRD of it."""
    plural = kind.lower().removesuffix("y") + "ies" if kind.endswith("y") else f"{kind.lower()}s"
    for folder in (CRDS, OURS):
        for path in sorted(folder.rglob(f"*{group}_{plural}*.yaml")):
            for found in yaml.load_all(path.read_text(), Loader):
                if found and found["spec"]["names"]["kind"] == kind:
                    return {
                        each["name"]: each["schema"]["openAPIV3Schema"]
                        for each in found["spec"]["versions"]
                        if each["served"]
                    }
    return {}


def _schema(api: str, kind: str, kubernetes: str) -> Schema | None:
    _, definitions, kinds = _core(kubernetes)
    name = kinds.get((api, kind))
    if name:
        return definitions[name]
    group, _, version = api.rpartition("/")
    return _crd(group, kind).get(version) if group else None


def templates(value: Any, path: str = "") -> Iterator[tuple[str, Object]]:
    """Yield every pod template in an object, with its path."""
    if isinstance(value, dict):
        for name, each in value.items():
            place = f"{path}.{name}"
            if name.lower().endswith("template") and isinstance(each, dict):
                inner = each.get("spec")
                if isinstance(inner, dict) and "containers" in inner:
                    yield place, each
            yield from templates(each, place)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from templates(each, f"{path}[{number}]")


def _custom_errors(obj: Object, schema: Schema, kubernetes: str) -> Iterator[str]:
    structure, definitions, _ = _core(kubernetes)
    # Every custom kind has these, whether its schema says so or not.
    own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    properties = {**schema.get("properties", {}), **own, "metadata": {"type": "object"}}
    properties["metadata"]["x-kubernetes-preserve-unknown-fields"] = True
    yield from structure.errors(obj, {**schema, "properties": properties}, "")
    yield from structure.errors(obj.get("metadata"), definitions[OBJECT_META], ".metadata")
    for path, template in templates(obj):
        yield from structure.errors(template, definitions[POD_TEMPLATE], path)


def errors(obj: Object, kubernetes: str = "1.37") -> list[str]:
    """What a cluster of that version would refuse in an object; empty: it takes it whole."""
    api, kind = str(obj.get("apiVersion", "")), str(obj.get("kind", ""))
    schema = _schema(api, kind, kubernetes)
    name = (obj.get("metadata") or {}).get("name", "?")
    if schema is None:
        return [f"{kind}/{name}: Kubernetes {kubernetes} has no kind {kind} in {api or 'v1'}"]
    structure, _, kinds = _core(kubernetes)
    if (api, kind) in kinds:
        found = list(structure.errors(obj, schema, ""))
    else:
        found = list(_custom_errors(obj, schema, kubernetes))
    if not found:  # the rest presupposes the structure
        found = [*k8s_names.errors(obj), *k8s_semantics.errors(obj, list(templates(obj)))]
    return [f"{kind}/{name}: {each.removeprefix('.')}" for each in dict.fromkeys(found)]
