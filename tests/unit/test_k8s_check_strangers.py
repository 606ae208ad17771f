# SPDX-License-Identifier: Apache-2.0
"""What works for a stranger still works after ``k8s check --patch``; the renderer's is left."""

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from k8s_bad_manifests import manifest
from k8s_specs import KUBERNETES, NETWORKS, TCP, full, queued, rendered, small

from rdmatrain.doctor.model import Verdict
from rdmatrain.k8s.check import Patched, check, patched, run_check
from rdmatrain.k8s.spec import Checkpoint
from rdmatrain.k8s.text import stream
from rdmatrain.launcher import exit_policies

Object = dict[str, Any]


def objects(text: str) -> list[Object]:
    return list(yaml.safe_load_all(text))


def of_kind(done: Patched, kind: str) -> list[Object]:
    return [each for each in objects(done.text) if each["kind"] == kind]


def failed(done: Patched) -> set[str]:
    return {each.check.id for each in done.results if each.verdict is Verdict.FAIL}


@pytest.mark.parametrize("devices", NETWORKS)
@pytest.mark.parametrize("target", KUBERNETES)
def test_what_is_rendered_is_changed_in_nothing(target: str, devices: str) -> None:
    for spec in (
        small(devices),
        small(devices, checkpoint=Checkpoint("ckpt", size_bytes=1 << 40)),
        full(devices),
    ):
        made = rendered(target, queued(target, spec)).objects
        done = patched(manifest(stream(made)))
        assert [str(each) for each in done.changes] == []
        assert objects(done.text) == objects(stream(made))


@pytest.mark.parametrize("target", KUBERNETES)
def test_the_nodes_network_with_a_reason_is_left(target: str) -> None:
    network = replace(NETWORKS[TCP], host_network=True, host_network_reason="the CNI is slow")
    made = rendered(target, queued(target, small(TCP, network=network))).objects
    assert [str(each) for each in patched(manifest(stream(made))).changes] == []


JOB = """\
apiVersion: batch/v1
kind: Job
metadata: {name: j, namespace: t}
spec:
  completions: 2
  parallelism: 2
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      subdomain: j
      terminationGracePeriodSeconds: 120
      automountServiceAccountToken: false
      volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 1Gi}}%(volumes)s]
      containers:
      - name: t
        image: a:1
        command: %(command)s
        securityContext: {allowPrivilegeEscalation: false}
        resources: {limits: {nvidia.com/gpu: 1, cpu: 4, memory: 8Gi}}
        volumeMounts: [{name: shm, mountPath: /dev/shm}%(mounts)s]
"""
RUN = "[rdmatrain, run, --insecure, train.py]"


def job(command: str = RUN, volumes: str = "", mounts: str = "") -> str:
    return JOB % {"command": command, "volumes": volumes, "mounts": mounts}


def pod_of(done: Patched) -> Object:
    (made,) = of_kind(done, "Job")
    return dict(made["spec"]["template"]["spec"])


def test_a_claim_of_the_cluster_is_not_taken_for_another() -> None:
    text = job(volumes=", {name: d, persistentVolumeClaim: {claimName: datasets}}")
    logs = "---\nkind: PersistentVolumeClaim\nmetadata: {name: logs, namespace: t}\n"
    done = patched(manifest(text + logs))
    assert pod_of(done)["volumes"][1]["persistentVolumeClaim"] == {"claimName": "datasets"}
    assert "references" not in failed(done)


def test_a_queue_of_the_cluster_is_not_taken_for_another() -> None:
    text = (
        "kind: LocalQueue\nmetadata: {name: a}\nspec: {clusterQueue: shared}\n---\n"
        "kind: ClusterQueue\nmetadata: {name: gpu-only}\n"
    )
    assert patched(manifest(text)).changes == ()


WORKER = """\
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata: {name: hv}
spec:
  mpiReplicaSpecs:
    Worker:
      replicas: 2
      template:
        spec:
          hostNetwork: true
          dnsPolicy: ClusterFirstWithHostNet
          volumes: [{name: ib, hostPath: {path: /dev/infiniband}}]
          containers:
          - name: w
            image: a:1
            resources: {limits: {nvidia.com/gpu: 8}}
            securityContext: {privileged: true}
            volumeMounts: [{name: ib, mountPath: /dev/infiniband}]
"""


def test_who_has_rdma_by_the_node_alone_keeps_it_and_fails() -> None:
    done = patched(manifest(WORKER))
    spec = of_kind(done, "MPIJob")[0]["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    (box,) = spec["containers"]
    assert (spec["hostNetwork"], box["securityContext"]["privileged"]) == (True, True)
    assert {"name": "ib", "hostPath": {"path": "/dev/infiniband"}} in spec["volumes"]
    assert box["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    assert {"privileged", "device-granted", "host-network-reason"} <= failed(done)


@pytest.mark.parametrize("own", [True, False])
def test_an_index_of_the_nodes_nics_is_kept(own: bool) -> None:
    text = WORKER.replace("image: a:1", 'image: a:1\n            env: [{name: %s, value: "3"}]')
    text = text.replace("%s", "NCCL_IB_GID_INDEX")
    if own:
        text = text.replace("nvidia.com/gpu: 8", "nvidia.com/gpu: 8, nvidia.com/rdma-vf: 8")
    kept = "NCCL_IB_GID_INDEX" in patched(manifest(text)).text
    assert kept is not own


def test_who_has_devices_of_its_own_loses_only_those_of_the_node() -> None:
    text = WORKER.replace("nvidia.com/gpu: 8", "nvidia.com/gpu: 8, nvidia.com/rdma-vf: 1")
    notes = "metadata: {annotations: {k8s.v1.cni.cncf.io/networks: rail0}}"
    done = patched(manifest(text.replace("        spec:\n", f"        {notes}\n        spec:\n")))
    spec = of_kind(done, "MPIJob")[0]["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    assert not {"hostNetwork", "dnsPolicy"} & set(spec)
    assert "privileged" not in spec["containers"][0]["securityContext"]
    assert failed(done) == set()


OPEN = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: t}
spec: {podSelector: {%s}, policyTypes: [Ingress], ingress: [%s]}
"""
WEB = "{from: [{podSelector: {matchLabels: {app: ingress}}}]}"


def test_a_policy_of_a_namespace_stays_as_it_is() -> None:
    text = job() + OPEN % ("all", "", "{}")
    done = patched(manifest(text))
    assert of_kind(done, "NetworkPolicy") == objects(text)[1:]
    found = next(each for each in done.results if each.check.id == "network-policy")
    assert found.verdict is Verdict.WARN


@pytest.mark.parametrize(("name", "added"), [("web", "j"), ("j", "j-ingress")])
@pytest.mark.parametrize("metrics", ["", ' --metrics-port, "9400",'])
def test_a_job_that_a_policy_of_a_namespace_shuts_out_gets_one_of_its_own(
    name: str, added: str, metrics: str
) -> None:
    text = job(RUN.replace(" --", f"{metrics} --")) + OPEN % (name, "", WEB)
    done = patched(manifest(text))
    theirs, own = of_kind(done, "NetworkPolicy")
    if theirs["metadata"]["name"] != name:
        theirs, own = own, theirs
    assert theirs == objects(text)[1]
    assert own["metadata"] == {"name": added, "namespace": "t"}
    selector = {"matchLabels": {"batch.kubernetes.io/job-name": "j"}}
    assert own["spec"]["podSelector"] == selector
    assert own["spec"]["ingress"][0] == {"from": [{"podSelector": selector}]}
    assert len(own["spec"]["ingress"]) == 1 + bool(metrics)
    assert not {"network-policy", "metrics-reachable"} & failed(done)


def test_a_selector_of_others_is_not_given_to_the_jobs_pods() -> None:
    text = job() + "---\nkind: Service\nmetadata: {name: db}\nspec: {selector: {app: db}}\n"
    (made,) = of_kind(patched(manifest(text)), "Job")
    assert "metadata" not in made["spec"]["template"]


SERVER = """\
apiVersion: apps/v1
kind: %s
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      hostNetwork: true
      volumes: [{name: dev, hostPath: {path: /dev}}]
      containers:
      - name: w
        image: nginx:1
        securityContext: {privileged: true}
        resources: {limits: {nvidia.com/gpu: 1}}
        volumeMounts: [{name: dev, mountPath: /dev}]
        livenessProbe: {httpGet: {port: 80}}
"""
NGINX = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: nginx, image: nginx}]}\n"


@pytest.mark.parametrize("text", [SERVER % "DaemonSet", SERVER % "Deployment", NGINX])
def test_what_is_no_training_job_is_not_mended(text: str) -> None:
    done = patched(manifest(f"{text}---\n{job()}"))
    assert objects(done.text)[0] == objects(text)[0]
    (found,) = (each for each in done.results if each.check.id == "restart-policy")
    assert found.verdict is Verdict.PASS, "of the job alone"


def test_what_serves_a_node_fails_for_nothing() -> None:
    results = list(check(manifest(SERVER % "DaemonSet")))
    assert [each.check.id for each in results if each.verdict is Verdict.FAIL] == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("rdmatrain run train.py --name 'a b'", ["rdmatrain", "run", "train.py", "--name", "a b"]),
        ('bash -c "rdmatrain run train.py && echo ok"', None),
        ("rdmatrain run $HOME/train.py", None),
        ("{a: b}", None),
        ("'a b", None),
    ],
)
def test_a_text_becomes_words_where_no_shell_is_asked_for(
    command: str, words: list[str] | None
) -> None:
    given = command if command.startswith("{") else json.dumps(command)
    done = patched(manifest(job(given)))
    (box,) = pod_of(done)["containers"]
    assert box["command"] == words or (words is None and box["command"] == yaml.safe_load(given))
    assert ("text-quoted" in failed(done)) == (words is None)


def test_a_secret_of_two_namespaces_is_moved_to_neither() -> None:
    secret = "kind: Secret\nmetadata: {name: s, namespace: a}\nstringData: {secret: x}\n"
    pod = "---\nkind: Pod\nmetadata: {name: p, namespace: %s}\nspec: {containers: [{name: t, "
    pod += "command: [rdmatrain, run, x.py]}], volumes: [{name: s, secret: {secretName: s}}]}\n"
    done = patched(manifest(secret + pod % "a" + pod % "b"))
    assert of_kind(done, "Secret")[0]["metadata"]["namespace"] == "a"
    assert "references" in failed(done)


def test_a_mount_where_the_secret_would_be_is_kept() -> None:
    volumes, mounts = ", {name: cfg, configMap: {name: cfg}}", ", {name: cfg, mountPath: %s}"
    for path in ("/etc/rdmatrain", "/etc/rdmatrain/"):
        done = patched(manifest(job("[rdmatrain, run, x.py]", volumes, mounts % path)))
        assert {"name": "cfg", "mountPath": path} in pod_of(done)["containers"][0]["volumeMounts"]
        assert "gang-secret" in failed(done)


@pytest.mark.parametrize("group", [True, False])
def test_the_secret_is_for_those_who_can_read_it(group: bool) -> None:
    text = job("[rdmatrain, run, x.py]")
    if group:
        text = text.replace(
            "      subdomain", "      securityContext: {fsGroup: 7}\n      subdomain"
        )
    (secret,) = (each["secret"] for each in pod_of(patched(manifest(text)))["volumes"][1:])
    assert secret.get("defaultMode") == (0o440 if group else None)


@pytest.mark.parametrize("name", ["shm", "tmp"])
def test_a_volume_that_has_the_name_of_ours_is_kept(name: str) -> None:
    text = job(volumes=", {name: tmp, configMap: {name: c}}")
    text = text.replace("allowPriv", "readOnlyRootFilesystem: true, allowPriv")
    text = text.replace(
        "name: shm, emptyDir: {medium: Memory, sizeLimit: 1Gi}", "name: shm, nfs: a"
    )
    text = text.replace("{name: shm, mountPath: /dev/shm}", "{name: shm, mountPath: /data}")
    volumes = {each["name"]: each for each in pod_of(patched(manifest(text)))["volumes"]}
    assert volumes[name] in objects(text)[0]["spec"]["template"]["spec"]["volumes"]


def test_a_plain_secret_does_not_replace_one_that_is_there() -> None:
    text = job().replace("image: a:1", 'image: a:1\n        env: [{name: A_TOKEN, value: "x"}, %s]')
    done = patched(manifest(text % "{name: B_TOKEN, value: y}"))
    assert [each["metadata"]["name"] for each in of_kind(done, "Secret")] == [
        "j-b-token",
        "j-a-token",
    ]
    there = "---\nkind: Secret\nmetadata: {name: j-a-token}\nstringData: {other: z}\n"
    done = patched(manifest(text % "" + there))
    assert of_kind(done, "Secret") == objects(there)


VOLCANO = """\
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: v}
spec:
  minAvailable: 3
  schedulerName: volcano
  tasks:
  - {name: a, replicas: 1, template: {spec: {containers: [{name: m, command: [rdmatrain, run]}]}}}
  - {name: b, replicas: 2, template: {spec: {containers: [{name: w, command: [rdmatrain, run],
     resources: {limits: {nvidia.com/gpu: 8, nvidia.com/rdma-vf: 4}}}]}}}
"""


def test_all_tasks_of_a_gang_get_its_secret_and_the_renderers_policies() -> None:
    (made,) = of_kind(patched(manifest(VOLCANO)), "Job")
    assert made["spec"]["policies"] == exit_policies.volcano_policies()
    for task in made["spec"]["tasks"]:
        spec = task["template"]["spec"]
        env = spec["containers"][0]["env"]
        assert "RDMATRAIN_SECRET_FILE" in [each["name"] for each in env], task["name"]
        (secret,) = (each["secret"] for each in spec["volumes"] if "secret" in each)
        assert secret == {"secretName": "v-secret"}


def test_how_many_functions_and_of_what_name_nobody_guesses() -> None:
    done = patched(manifest(VOLCANO))
    limits = of_kind(done, "Job")[0]["spec"]["tasks"][1]["template"]["spec"]["containers"][0]
    assert limits["resources"]["limits"]["nvidia.com/rdma-vf"] == 4
    assert "metadata" not in of_kind(done, "Job")[0]["spec"]["tasks"][1]["template"]


def test_what_is_left_is_said_of_what_was_written(tmp_path: Any) -> None:
    file, said = tmp_path / "policy.yaml", []
    file.write_text(
        "kind: SriovNetworkNodePolicy\nspec: {isRdma: true, mtu: 4220, resourceName: a,\n"
        "  nicSelector: {rootDevices: [0000:16:00.0]}}\n",
        "utf-8",
    )
    assert {each.check.id for each in check(manifest(file.read_text("utf-8")))} >= {"pci-quoted"}
    run_check([str(file)], said.append, patch=True)
    assert "1 changes" in said[0]
    assert "left:" not in said[0]


def test_an_elastic_job_may_start_with_fewer() -> None:
    text = VOLCANO.replace("minAvailable: 3", "minAvailable: 1")
    (made,) = of_kind(patched(manifest(text)), "Job")
    assert made["spec"]["minAvailable"] == 3
    (made,) = of_kind(patched(manifest(text.replace("run]", 'run, "--nnodes=1:3"]'))), "Job")
    assert made["spec"]["minAvailable"] == 1


def test_nobody_guesses_that_an_image_has_bash() -> None:
    text = VOLCANO.replace("[rdmatrain, run]", '[busybox, sh, -c, "rdmatrain run $A"]')
    (made,) = of_kind(patched(manifest(text)), "Job")
    for task in made["spec"]["tasks"]:
        assert task["template"]["spec"]["containers"][0]["command"][:2] == ["busybox", "sh"]


@pytest.mark.parametrize(
    "rights",
    [
        {"capabilities": {"add": ["CAP_SYS_ADMIN"]}},
        {"capabilities": {"add": ["SYS_NICE", "IPC_LOCK"]}},
        {"seccompProfile": {"type": "Unconfined"}},
    ],
)
def test_rights_that_a_program_may_need_are_kept_and_told(rights: Object) -> None:
    done = patched(manifest(job().replace("{allowPrivilegeEscalation: false}", json.dumps(rights))))
    (box,) = pod_of(done)["containers"]
    # Kubernetes refuses CAP_SYS_ADMIN where no more rights may be had.
    closed = "CAP_SYS_ADMIN" not in json.dumps(rights)
    assert box["securityContext"] == {
        **rights,
        **({"allowPrivilegeEscalation": False} if closed else {}),
    }
    (found,) = (each for each in done.results if each.check.id == "privilege-escalation")
    assert closed or "and no SYS_ADMIN" in found.finding.fix
    (found,) = (each for each in done.results if each.check.id == "pod-security")
    assert found.verdict is not Verdict.PASS
    assert found.finding.fix


def test_a_message_of_ones_own_is_kept() -> None:
    for command, kept in ((RUN, False), ("[torchrun, train.py]", True)):
        text = job(command).replace("image:", "terminationMessagePath: /tmp/why\n        image:")
        (box,) = pod_of(patched(manifest(text)))["containers"]
        assert ("terminationMessagePath" in box) == kept


@pytest.mark.parametrize(
    "text",
    [
        "kind: SriovNetworkNodePolicy\nspec: {isRdma: false, deviceType: vfio-pci, mtu: 1500}\n",
        "kind: SriovNetworkPoolConfig\nspec: {rdmaMode: shared}\n",
        'kind: SriovNetwork\nspec: {metaPlugins: \'{"type": "tuning"}\'}\n',
    ],
)
def test_objects_of_the_cluster_alone_are_for_others_too(text: str) -> None:
    looked_at = manifest(text)
    assert any(each.verdict is Verdict.WARN for each in check(looked_at))
    assert patched(looked_at).changes == ()


@pytest.mark.parametrize(
    "changed",
    [{}, {"plugins": {}}, {"plugins": {"svc": []}}, {"policies": []}, {"minAvailable": 1}],
    ids=json.dumps,
)
def test_a_cronjob_of_volcano_is_judged_and_patched_as_its_job_is(changed: Object) -> None:
    job, *others = yaml.safe_load_all(VOLCANO)
    job["spec"] |= changed
    for task in job["spec"]["tasks"]:  # a CronJob's Jobs have no label that is known before
        task["template"].setdefault("metadata", {})["labels"] = {"app": "daily"}
    spec = {"schedule": "@daily", "jobTemplate": {"spec": job["spec"]}}
    whole = {**job, "kind": "CronJob", "spec": spec}
    plain, daily = (patched(manifest(stream([each, *others]))) for each in (job, whole))
    found = [{each.check.id: each.verdict for each in done.results} for done in (plain, daily)]
    assert found[0] == found[1]
    (made,) = of_kind(daily, "CronJob")
    (job,) = of_kind(plain, "Job")
    assert made["spec"] == {**spec, "jobTemplate": {"spec": job["spec"]}}
