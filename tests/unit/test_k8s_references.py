# SPDX-License-Identifier: Apache-2.0
"""``k8s check``: what objects name is in the files, is to be there, or has another name."""

import pytest
from k8s_bad_manifests import FIXTURES, manifest
from k8s_specs import DRA, KUBERNETES, NETWORKS, full, queued, rendered, small

from rdmatrain.doctor.model import Finding
from rdmatrain.k8s.check import check, patches
from rdmatrain.k8s.rules.references import missing
from rdmatrain.k8s.spec import Checkpoint, JobSecret
from rdmatrain.k8s.text import stream

CLAIM = (FIXTURES / "bad" / "claim-of-another-name.yaml").read_text("utf-8")
RIGHT = CLAIM.replace("gpus-and-nics", "gpu-and-nic")


def of(text: str) -> tuple[str, Finding, list[str]]:
    """Return the verdict, the finding, and the patches that a program can make."""
    found = next(each for each in check(manifest(text)) if each.check.id == "references")
    return found.verdict.value, found.finding, [str(each) for each in patches(found)]


def pod(*lines: str) -> str:
    return "kind: Pod\nmetadata: {name: a, namespace: one}\nspec:\n" + "".join(
        f"  {each}\n" for each in ("containers: [{name: t, command: [torchrun]}]", *lines)
    )


SECRET = "---\nkind: Secret\nmetadata: {name: s%s}\ndata: {a: eA==}\n"
FILE = "{name: RDMATRAIN_SECRET_FILE, value: /etc/x/%s}"
MOUNTED = (
    "kind: Pod\nspec:\n  containers:\n  - name: t\n    command: [torchrun]\n    env: [%s]\n"
    "    volumeMounts: [{name: v, mountPath: /etc/x}]\n"
    "  volumes: [{name: v, secret: {secretName: s}}]\n"
)
VARIABLE = "{name: A, valueFrom: {secretKeyRef: {name: s, key: %s}}}"
GROUP = "---\napiVersion: scheduling.k8s.io/v1beta1\nkind: PodGroup\nmetadata: {name: %s}\n"
GROUPED = pod("schedulingGroup: {podGroupName: g}")
QUEUE = "---\nkind: LocalQueue\nmetadata: {name: q}\nspec: {clusterQueue: c}\n"
NETWORKED = (
    "kind: Pod\nmetadata: {annotations: {k8s.v1.cni.cncf.io/networks: rail0}}\n"
    "spec: {containers: [{name: t}]}\n"
)


@pytest.mark.parametrize(
    ("text", "verdict", "word", "fix"),
    [
        (RIGHT, "PASS", "ResourceClaimTemplate gpu-and-nic is in the manifest", ""),
        (CLAIM, "FAIL", "no ResourceClaimTemplate gpus-and-nics, and nobody names gpu-and-nic",
         '.resourceClaimTemplateName: "gpu-and-nic"'),
        (pod(), "SKIP", "nothing names another object", ""),
        (pod("priorityClassName: system-node-critical"), "SKIP", "nothing", ""),
        (pod("serviceAccountName: default"), "SKIP", "nothing", ""),
        (pod("priorityClassName: p"), "WARN", "in none of these files: PriorityClass p", ""),
        (pod("subdomain: s"), "WARN", "Service s", ""),
        (pod("volumes: [{name: v, secret: {secretName: s}}]"), "WARN", "Secret s", ""),
        (pod("volumes: [{name: v, secret: {secretName: s, optional: true}}]"), "SKIP", "no", ""),
        (pod("volumes: [{name: v, projected: {sources: [{secret: {name: s}}]}}]"), "WARN",
         "Secret s", ""),
        (pod("volumes: [{name: v, configMap: {name: c}}]"), "WARN", "ConfigMap c", ""),
        # A Secret may be somebody else's: that it is there says nothing.
        (pod("imagePullSecrets: [{name: t}]") + SECRET % "", "WARN", "Secret t", ""),
        # Of another namespace, it is another object.
        (pod("imagePullSecrets: [{name: s}]") + SECRET % ", namespace: two", "FAIL",
         "Secret s is in namespace two, and this in one", ""),
        (pod("imagePullSecrets: [{name: s}]") + SECRET % ", namespace: one", "PASS", "", ""),
        (pod("imagePullSecrets: [{name: s}]") + SECRET % "", "PASS", "", ""),
        (GROUPED, "WARN", "PodGroup g", ""),
        (GROUPED + GROUP % "g", "PASS", "PodGroup g is in the manifest", ""),
        (GROUPED + GROUP % "h", "FAIL", "no PodGroup g, and nobody names h",
         'podGroupName: "h"'),
        # Which of two is meant, only people know.
        (GROUPED + GROUP % "h" + GROUP % "i", "FAIL", "nobody names h, i", ""),
        ("kind: Pod\nmetadata: {labels: {scheduling.x-k8s.io/pod-group: g}}\n"
         "spec: {containers: [{name: t}]}\n", "WARN", "PodGroup g", ""),
        (GROUPED + QUEUE, "WARN", "ClusterQueue c", ""),
        # Queues and claims of other names may be the cluster's.
        ("kind: Job\nmetadata: {labels: {kueue.x-k8s.io/queue-name: other}}\n" + QUEUE, "WARN",
         "LocalQueue other", ""),
        (pod("volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]")
         + "---\nkind: PersistentVolumeClaim\nmetadata: {name: logs}\n", "WARN",
         "PersistentVolumeClaim data", ""),
        (pod("volumes: [{name: v, configMap: {name: kube-root-ca.crt}}]"), "SKIP", "nothing", ""),
        (NETWORKED, "WARN", "NetworkAttachmentDefinition rail0", ""),
        (NETWORKED + "---\nkind: SriovNetwork\nmetadata: {name: rail0}\n", "PASS", "rail0", ""),
        # What waits for a pod that nobody sends.
        (pod() + GROUP % "g", "WARN", "nobody names PodGroup g", ""),
        (GROUP.removeprefix("---\n") % "g", "SKIP", "", ""),
        ("kind: Pod\nspec: {containers: [{name: t}], workloadRef: {name: w}}\n", "WARN",
         "Workload w", ""),
        # Inside a pod.
        (MOUNTED.replace("name: v, mountPath", "name: w, mountPath") % "" + SECRET % "", "FAIL",
         "the pod has no volume w", ""),
        (RIGHT.replace("claims: [{name: devices}]", "claims: [{name: other}]"), "FAIL",
         "the pod has no claim other", '{name: "devices"}'),
        # Keys of a Secret.
        (MOUNTED % (FILE % "a") + SECRET % "", "PASS", "", ""),
        (MOUNTED % (FILE % "secret") + SECRET % "", "FAIL", "/etc/x/secret: Secret s has a",
         '.value: "/etc/x/a"'),
        (MOUNTED % (VARIABLE % "a") + SECRET % "", "PASS", "", ""),
        (MOUNTED % (VARIABLE % "b") + SECRET % "", "FAIL", "b: Secret s has a", '.key: "a"'),
        (MOUNTED % (VARIABLE % "c") + SECRET.replace("data: {", "data: {b: eA==, ") % "", "FAIL",
         "Secret s has b, a", ""),
    ],
)  # fmt: skip
def test_names(text: str, verdict: str, word: str, fix: str) -> None:
    found, finding, made = of(text)
    assert (found, word in finding.evidence) == (verdict, True), finding
    assert bool(made) == bool(fix), made
    assert all(fix in each for each in made)


@pytest.mark.parametrize("devices", NETWORKS)
@pytest.mark.parametrize("target", KUBERNETES)
def test_what_is_rendered_names_what_is_rendered(target: str, devices: str) -> None:
    claim = Checkpoint("ckpt", size_bytes=1 << 40)
    spec = small(devices, secret=JobSecret(create=True), checkpoint=claim)
    text = stream(rendered(target, queued(target, spec)).objects)
    assert missing(manifest(text)) == []
    verdict, finding, _ = of(text)
    assert verdict in {"PASS", "SKIP"}, finding


def test_what_no_job_may_make_is_to_be_there() -> None:
    made = rendered("volcano", queued("volcano", full())).objects
    assert "PriorityClass training" in missing(manifest(stream(made)))


def test_a_claim_that_is_left_out_is_named() -> None:
    objects = rendered("indexed-job", full(DRA)).objects
    left = [each for each in objects if each["kind"] != "ResourceClaimTemplate"]
    assert "ResourceClaimTemplate llm-devices" in missing(manifest(stream(left)))
