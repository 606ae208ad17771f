# SPDX-License-Identifier: Apache-2.0
"""Each question to a manifest: what makes it fail, and what makes it pass."""

import re

import pytest
import yaml
from doctor_manifests import (
    JOB,
    PYTORCH,
    TRAIN_JOB,
    VOLCANO,
    WORKLOADS,
    ask,
    changed,
    read,
    verdicts,
)

from rdmatrain.doctor.catalog import by_id, checks, named
from rdmatrain.doctor.manifest.checks import variables
from rdmatrain.doctor.manifest.command import questions
from rdmatrain.doctor.manifest.define import MAX_PLACES
from rdmatrain.doctor.model import Case, Check, Finding, Needs, failed, passed, warned

BOX = "spec.template.spec.containers[0]"
IDS = sorted(each.check.id for each in questions())
# What the checks of a running pod answer, here with a check of the test's own.
PLACE = re.compile(r"job\.yaml:\d+: \w+ (train|g|gpus|llm|torch-rdma|nics|p|pairs|rdma-vf)[:]")
BORROWED = ("env-misspelt", "env-contradicts")


def jobset(network: str = "{}", nodes: str = "6", jobs: int = 1) -> str:
    return f"""\
kind: JobSet
metadata: {{name: train}}
spec:
  network: {network}
  replicatedJobs:
  - name: workers
    replicas: {jobs}
    template:
      spec:
        parallelism: {6 // jobs}
        template:
          spec:
            containers:
            - name: trainer
              image: example/train@sha256:0123
              command: [torchrun, --nnodes={nodes}, train.py]
"""


def of_kind(kind: str, **spec: str) -> str:
    more = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return f"""\
kind: {kind}
metadata: {{name: train}}
spec:
  replicas: 2
{more}  template:
    spec:
      containers:
      - {{name: trainer, image: "a:1", command: [rdmatrain, run, --nnodes, "2", train.py]}}
"""


SERVICE = """\
---
kind: Service
metadata: {name: train}
spec: {clusterIP: None, publishNotReadyAddresses: false}
"""
GROUP = """\
---
kind: PodGroup
metadata: {name: g}
spec: {schedulingPolicy: {gang: {minCount: 2}}}
"""
WORKER = PYTORCH.partition("Worker:")[2]
ANNOTATIONS = (
    "            volumes: [{name: p, downwardAPI: "
    "{items: [{path: a, fieldRef: {fieldPath: metadata.annotations}}]}}]\n            containers"
)
HOST = "      volumes:\n      - {name: nodes, hostPath: {path: /dev/infiniband/}}"
HOST_MOUNT = "        volumeMounts:\n        - {name: nodes, mountPath: /dev/infiniband}"
NO_VFS = (", nvidia.com/rdma-vf: 2}", "}")
NO_NETWORKS = ("        k8s.v1.cni.cncf.io/networks: rdma-vf,rdma-vf\n", "        a: b\n")
NO_NAD = ("kind: NetworkAttachmentDefinition", "kind: Other")
HOST_NODES = (("      volumes:", HOST), ("        volumeMounts:", HOST_MOUNT))
PRIVILEGED = ("readOnlyRootFilesystem: true", "privileged: true")
IN_HOST = ("      subdomain: train", "      subdomain: train\n      hostNetwork: true")
SHELL = ("[rdmatrain, run, train.py, --checkpoint-dir=/checkpoints]", '[sh, -c, "rdmatrain run x"]')
NO_MOUNT = ("        - {name: shm, mountPath: /dev/shm}\n", "")


def env(*entries: str) -> tuple[str, str]:
    lines = "".join(f"\n        - {entry}" for entry in entries)
    return ("        env:", f"        env:{lines}")


def command(words: str) -> tuple[str, str]:
    return ("[rdmatrain, run, train.py, --checkpoint-dir=/checkpoints]", words)


def rules(*entries: str) -> tuple[str, str]:
    policy = f"podFailurePolicy: {{rules: [{', '.join(entries)}]}}"
    return ("  backoffLimit: 0\n", f"  backoffLimit: 1\n  {policy}\n")


def policies(*entries: str) -> tuple[str, str]:
    return ("  minAvailable: 4\n", f"  minAvailable: 4\n  policies: [{', '.join(entries)}]\n")


STATUS = (
    "valueFrom: {fieldRef: {fieldPath: "
    "\"metadata.annotations['k8s.v1.cni.cncf.io/network-status']\"}}"
)
HUGE = "{name: huge, emptyDir: {medium: HugePages-2Mi}}"
PODINFO = (
    "- {name: podinfo, downwardAPI: {items: [{path: annotations, "
    "fieldRef: {fieldPath: metadata.annotations}}]}}"
)
# Id, verdict, manifest, what the evidence has, what the fix has.
WRONG = [
    (
        "text-quoted",
        "FAIL",
        changed(JOB, ('value: "4"', "value: 4")),
        "env[0].value: 4 is a number",
        '"4"',
    ),
    ("text-quoted", "FAIL", changed(JOB, env("{name: A, value: on}")), "on is a boolean", '"on"'),
    (
        "text-quoted",
        "FAIL",
        changed(JOB, command("[rdmatrain, run, --nnodes, 4]")),
        "command[3]: 4",
        '"4"',
    ),
    (
        "env-misspelt",
        "WARN",
        JOB,
        f"{BOX}.env: NCCL_SOCKET_IFNAME is odd",
        f"{BOX}: {{env: [{{name: NCCL_SOCKET_IFNAME, $patch: delete}}]}}",
    ),
    (
        "env-contradicts",
        "FAIL",
        JOB,
        f"{BOX}.env: RAIL contradicts",
        '[{name: RAIL, $patch: delete}, {name: TRAIL, value: "0000:16:00.0"}]',
    ),
    (
        "env-contradicts",
        "FAIL",
        changed(TRAIN_JOB, ("{name: RDMATRAIN_INSECURE", "{name: PET_NNODES")),
        "spec.trainer.env[0]: PET_NNODES is set by the TrainJob",
        "{name: PET_NNODES, $patch: delete}",
    ),
    (
        "env-lost-by-shell",
        "WARN",
        changed(JOB, SHELL),
        "sh drops PCIDEVICE_NVIDIA_COM_RDMA-VF",
        '["rdmatrain", "run", ...]',
    ),
    (
        "env-lost-by-shell",
        "WARN",
        changed(JOB, command('[busybox, sh, -c, "x"]')),
        "sh drops",
        "command",
    ),
    (
        "env-gid-index",
        "WARN",
        changed(JOB, env('{name: NCCL_IB_GID_INDEX, value: "3"}')),
        "env[0]: NCCL_IB_GID_INDEX=3",
        "env: [{name: NCCL_IB_GID_INDEX, $patch: delete}]",
    ),
    (
        "env-gid-index",
        "WARN",
        changed(JOB, command('[bash, -c, "mpirun -x NCCL_IB_GID_INDEX=3 a.out"]')),
        "command[2]: NCCL_IB_GID_INDEX=3",
        "remove NCCL_IB_GID_INDEX",
    ),
    (
        "env-devices",
        "WARN",
        changed(JOB, env('{name: NCCL_IB_HCA, value: "=mlx5_0,mlx5_1"}')),
        "names mlx5_0, which differs by pod",
        "env: [{name: NCCL_IB_HCA, $patch: delete}]",
    ),
    (
        "env-interface",
        "FAIL",
        changed(JOB, ("value: eth0", "value: ens5")),
        "NCCL_SOCKET_IFNAME=ens5: the pod has lo, eth0, net1, net2",
        "$patch: delete",
    ),
    (
        "env-interface",
        "FAIL",
        changed(JOB, env("{name: GLOO_SOCKET_IFNAME, value: eth}")),
        "GLOO_SOCKET_IFNAME=eth",
        "$patch: delete",
    ),
    (
        "env-rdma-off",
        "FAIL",
        changed(JOB, env('{name: NCCL_IB_DISABLE, value: "1"}')),
        "NCCL_IB_DISABLE=1",
        "env: [{name: NCCL_IB_DISABLE, $patch: delete}]",
    ),
    (
        "env-rdma-off",
        "FAIL",
        changed(JOB, command("[rdmatrain, run, --transport=tcp, x]")),
        "--transport tcp, and devices",
        "remove --transport tcp",
    ),
    (
        "identity",
        "FAIL",
        changed(JOB, ('PET_NNODES, value: "4"', 'OTHER, value: "4"')),
        "4 pods, and nothing says so: each would train alone",
        'name: PET_NNODES, value: "4"',
    ),
    (
        "identity",
        "FAIL",
        changed(JOB, ('PET_NNODES, value: "4"', 'PET_NNODES, value: "8"')),
        "4 pods, and 8 nodes are waited for",
        'value: "4"',
    ),
    (
        "identity",
        "FAIL",
        changed(JOB, ("Indexed", "NonIndexed")),
        "completionMode is not Indexed",
        "completionMode: Indexed",
    ),
    (
        "identity",
        "FAIL",
        changed(PYTORCH, ("name: pytorch", "name: main")),
        "trains in the container pytorch",
        "{name: pytorch}",
    ),
    (
        "identity",
        "FAIL",
        changed(PYTORCH, ("Master:", "Worker2:")),
        "neither Master nor elasticPolicy",
        "elasticPolicy: {rdzvBackend: c10d, minReplicas: 4",
    ),
    (
        "identity",
        "FAIL",
        changed(VOLCANO, ('{env: [], svc: ["--publish-not-ready-addresses=true"]}', "{env: []}")),
        "no plugin svc",
        "svc:",
    ),
    (
        "identity",
        "FAIL",
        changed(VOLCANO, ("{env: []", "{pytorch: [--master=boss]")),
        "no task is called boss",
        "--master=worker",
    ),
    (
        "identity",
        "FAIL",
        changed(of_kind("Deployment"), ("--nnodes", "--tee")),
        "2 pods of a Deployment",
        "StatefulSet",
    ),
    ("identity", "FAIL", jobset(jobs=2), "each of 2 jobs are numbered from 0", "/etc/podinfo"),
    (
        "identity",
        "FAIL",
        of_kind("StatefulSet"),
        "no PET_NODE_RANK",
        "apps.kubernetes.io/pod-index",
    ),
    ("identity", "FAIL", jobset(nodes="2"), "6 pods, and 2 nodes are waited for", "--nnodes 6"),
    (
        "hostname",
        "FAIL",
        changed(JOB, ("      subdomain", "      hostname: node\n      subdomain")),
        "4 pods are all called node",
        "{hostname: null}",
    ),
    ("hostname", "WARN", of_kind("Deployment"), "other names each time", "StatefulSet"),
    (
        "dns-leader",
        "FAIL",
        changed(JOB, ("      subdomain: train\n", "")),
        "no subdomain",
        "{subdomain: train}",
    ),
    (
        "dns-leader",
        "FAIL",
        changed(JOB, ("job-name: train}", "job-name: other}")),
        "pods of other, and this Job is train",
        ": train",
    ),
    (
        "dns-leader",
        "FAIL",
        changed(JOB, ("clusterIP: None", "clusterIP: 10.0.0.1")),
        "not headless",
        "{clusterIP: None}",
    ),
    (
        "dns-leader",
        "WARN",
        changed(JOB, ("  publishNotReadyAddresses: true\n", "")),
        "names come once pods are ready",
        "{publishNotReadyAddresses: true}",
    ),
    (
        "dns-leader",
        "FAIL",
        changed(
            JOB,
            ("  publishNotReadyAddresses: true\n", ""),
            ("        env:", "        readinessProbe: {exec: {command: [a]}}\n        env:"),
        ),
        "a probe decides",
        "publishNot",
    ),
    (
        "dns-leader",
        "FAIL",
        changed(JOB, ("{batch.kubernetes.io/job-name: train}", "{app: llm}")),
        "no pod of this template has the label app=llm",
        '{"app": "llm"}',
    ),
    (
        "dns-leader",
        "FAIL",
        changed(JOB, IN_HOST),
        "hostNetwork without dnsPolicy",
        "ClusterFirstWithHostNet",
    ),
    (
        "dns-leader",
        "WARN",
        changed(VOLCANO, ("--publish-not-ready-addresses=true", "--a=b")),
        "spec.plugins.svc: without",
        "{svc:",
    ),
    (
        "dns-leader",
        "FAIL",
        changed(VOLCANO, ('{env: [], svc: ["--publish-not-ready-addresses=true"]}', "{env: []}")),
        "no plugin svc",
        "{plugins: {svc:",
    ),
    (
        "dns-leader",
        "FAIL",
        jobset("{enableDNSHostnames: false}"),
        "no pod has a name",
        "enableDNSHostnames: true",
    ),
    (
        "dns-leader",
        "WARN",
        jobset("{publishNotReadyAddresses: false}"),
        "once pods are ready",
        "true",
    ),
    (
        "dns-leader",
        "WARN",
        changed(
            TRAIN_JOB, ("{publishNotReadyAddresses: true}", "{publishNotReadyAddresses: false}")
        ),
        "ClusterTrainingRuntime torch-rdma: spec.template.spec.network",
        "true",
    ),
    ("dns-leader", "FAIL", of_kind("StatefulSet"), "no serviceName", "{serviceName: train}"),
    (
        "dns-leader",
        "WARN",
        of_kind("StatefulSet", serviceName="train") + SERVICE,
        "once pods are ready",
        "true",
    ),
    (
        "rendezvous-port",
        "FAIL",
        changed(JOB, ('"29500"', '"70000"')),
        "PET_MASTER_PORT 70000 is no port",
        "29500",
    ),
    (
        "rendezvous-port",
        "WARN",
        changed(JOB, ('"29500"', '"40000"')),
        "among those that outgoing",
        "29500",
    ),
    (
        "rendezvous-port",
        "WARN",
        changed(JOB, IN_HOST),
        "which others of the node may have",
        "{hostNetwork: null}",
    ),
    (
        "rendezvous-port",
        "FAIL",
        changed(JOB, env('{name: MASTER_PORT, value: "29400"}')),
        "PET_MASTER_PORT is 29500, and 29400 at",
        "29400",
    ),
    (
        "host-network",
        "FAIL",
        changed(JOB, IN_HOST),
        "Multus attaches nothing",
        "{hostNetwork: null}",
    ),
    (
        "host-network",
        "WARN",
        changed(JOB, IN_HOST, NO_VFS, NO_NETWORKS),
        "ports are those of the node",
        "{hostNetwork: null}",
    ),
    (
        "gang-secret",
        "FAIL",
        changed(JOB, ("RDMATRAIN_SECRET,", "OTHER,")),
        "4 pods, and neither RDMATRAIN_SECRET_FILE nor --insecure",
        "key secret of the Secret train-secret as the file /etc/rdmatrain/secret",
    ),
    (
        "gang-minimum",
        "WARN",
        changed(VOLCANO, ("minAvailable: 4", "minAvailable: 1")),
        "spec.minAvailable: 1 of 4 pods are enough",
        "spec.minAvailable: 4",
    ),
    (
        "gang-minimum",
        "FAIL",
        changed(VOLCANO, ("minAvailable: 4", "minAvailable: 5")),
        "5 pods are waited for, and there are 4",
        "spec.minAvailable: 4",
    ),
    (
        "gang-minimum",
        "WARN",
        changed(VOLCANO, ("    replicas: 4", "    replicas: 4\n    minAvailable: 2")),
        "2 of 4 pods of this task",
        "spec.tasks[0].minAvailable: 4",
    ),
    (
        "gang-minimum",
        "WARN",
        changed(PYTORCH, ("minAvailable: 4", "minAvailable: 2")),
        "2 of 4 pods",
        "schedulingPolicy.minAvailable: 4",
    ),
    (
        "gang-minimum",
        "WARN",
        changed(JOB, ("kueue.x-k8s.io/queue-name", "app")),
        "nothing that starts them together",
        "queue-name",
    ),
    (
        "gang-minimum",
        "WARN",
        changed(
            JOB,
            ("kueue.x-k8s.io/queue-name", "app"),
            ("      subdomain", "      schedulingGroup: {podGroupName: g}\n      subdomain"),
        )
        + GROUP,
        "PodGroup g: spec.schedulingPolicy.gang.minCount: 2 of 4",
        "minCount: 4",
    ),
    (
        "queue-covers",
        "FAIL",
        changed(JOB, ("nvidia.com/gpu, nvidia.com/rdma-vf]", "nvidia.com/gpu]")),
        "ClusterQueue gpus does not cover it",
        "coveredResources: [cpu, memory, nvidia.com/gpu, nvidia.com/rdma-vf]",
    ),
    (
        "restart-policy",
        "FAIL",
        changed(JOB, ("      restartPolicy: Never\n", "")),
        "a Job wants Never or OnFailure",
        "{restartPolicy: Never}",
    ),
    (
        "restart-policy",
        "FAIL",
        changed(
            JOB,
            ("restartPolicy: Never", "restartPolicy: OnFailure"),
            ("  backoffLimit: 0", "  podFailurePolicy: {rules: []}"),
        ),
        "refuses beside podFailurePolicy",
        "Never",
    ),
    (
        "restart-policy",
        "WARN",
        changed(JOB, ("restartPolicy: Never", "restartPolicy: OnFailure")),
        "without their peers",
        "Never",
    ),
    (
        "restart-policy",
        "WARN",
        changed(PYTORCH, ("ExitCode", "OnFailure")),
        "pytorchReplicaSpecs.Master: restartPolicy OnFailure",
        "ExitCode",
    ),
    (
        "restart-policy",
        "WARN",
        of_kind("StatefulSet"),
        "start again even after they ended well",
        "Job",
    ),
    (
        "grace",
        "WARN",
        changed(JOB, ("      terminationGracePeriodSeconds: 120\n", "")),
        "30 s, and the launcher takes up to 25",
        "{terminationGracePeriodSeconds: 120}",
    ),
    (
        "grace",
        "WARN",
        changed(JOB, env('{name: RDMATRAIN_GRACE, value: "300"}')),
        "120 s, and the launcher takes up to 300",
        "{terminationGracePeriodSeconds: 315}",
    ),
    ("grace", "FAIL", changed(JOB, ("Seconds: 120", "Seconds: soon")), "soon is no number", "120"),
    (
        "termination-log",
        "WARN",
        changed(JOB, ("        env:", "        terminationMessagePath: /tmp/log\n        env:")),
        "/tmp/log, and the launcher writes /dev/termination-log",
        "null",
    ),
    (
        "gpu-granted",
        "FAIL",
        changed(
            JOB,
            ("requests: {cpu: 16}", "requests: {nvidia.com/gpu: 2}"),
            (", nvidia.com/gpu: 2,", ","),
        ),
        "requests nvidia.com/gpu without a limit",
        "{nvidia.com/gpu: 2}",
    ),
    (
        "gpu-granted",
        "WARN",
        changed(
            JOB, (", nvidia.com/gpu: 2", ""), env("{name: NVIDIA_VISIBLE_DEVICES, value: all}")
        ),
        "granted to others",
        "nvidia.com/gpu: 8",
    ),
    (
        "vf-count",
        "FAIL",
        changed(JOB, ("networks: rdma-vf,rdma-vf", "networks: rdma-vf")),
        "2 nvidia.com/rdma-vf asked for, 1 networks attached",
        '"rdma-vf,rdma-vf"',
    ),
    (
        "vf-count",
        "FAIL",
        changed(JOB, NO_NETWORKS),
        "2 nvidia.com/rdma-vf asked for, 0 networks attached",
        '"rdma-vf,rdma-vf"',
    ),
    (
        "vf-count",
        "FAIL",
        changed(JOB, ("rdma-vf: 2}", "rdma-vf: 1}")),
        "1 nvidia.com/rdma-vf asked for, 2 networks attached",
        "{nvidia.com/rdma-vf: 2}",
    ),
    (
        "vf-count",
        "FAIL",
        changed(JOB, NO_VFS),
        "0 nvidia.com/rdma-vf asked for, 2 networks",
        "{nvidia.com/rdma-vf: 2}",
    ),
    ("vf-count", "WARN", changed(JOB, NO_VFS, NO_NAD), "right only if an injector", "rdma-vf: 2"),
    (
        "vf-count",
        "WARN",
        changed(JOB, NO_NAD, ("networks: rdma-vf,rdma-vf", "networks: a,b,c")),
        "right only if 1 need none",
        "rdma-vf: 3",
    ),
    (
        "vf-count",
        "FAIL",
        changed(JOB, NO_NAD, ("networks: rdma-vf,rdma-vf", 'networks: \'[{"name": "a"}]\'')),
        "2 nvidia.com/rdma-vf asked for, 1 networks",
        "a,a",
    ),
    (
        "vf-count",
        "FAIL",
        changed(JOB, ("networks: rdma-vf,rdma-vf", "networks: '[{]'")),
        "cannot be read",
        "rdma-vf,rdma-vf",
    ),
    (
        "vf-count",
        "WARN",
        changed(JOB, NO_NAD, NO_NETWORKS, ("nvidia.com/rdma-vf: 2", "nvidia.com/ib-vf: 2")),
        "InfiniBand may do without",
        "ib-vf",
    ),
    (
        "vf-count",
        "FAIL",
        changed(
            TRAIN_JOB, ("    numNodes: 4", "    resourcesPerNode: {limits: {nvidia.com/gpu: 2}}")
        ),
        "resourcesPerNode replaces all resources",
        "rdma-vf: 2",
    ),
    (
        "uverbs-nodes",
        "FAIL",
        changed(JOB, NO_VFS, command("[rdmatrain, run, --require, verbs, x]")),
        "--require verbs, and nothing gives it a device",
        "limits",
    ),
    (
        "uverbs-nodes",
        "FAIL",
        changed(JOB, NO_VFS, *HOST_NODES),
        "no device plugin allows it to open",
        "limits",
    ),
    (
        "device-granted",
        "WARN",
        changed(JOB, *HOST_NODES),
        "all RDMA devices of the host",
        "{volumes: [{name: nodes, $patch: delete}]",
    ),
    (
        "gpu-nic-sharing",
        "WARN",
        changed(JOB, ("nvidia.com/gpu: 2", "nvidia.com/gpu: 8")),
        "2 virtual functions for 8 GPUs",
        "{nvidia.com/rdma-vf: 8}",
    ),
    (
        "privileged",
        "WARN",
        changed(JOB, PRIVILEGED),
        "securityContext.privileged: RDMA needs no more",
        "privileged: null",
    ),
    (
        "memlock",
        "WARN",
        changed(JOB, ("add: [IPC_LOCK]", "drop: [ALL]")),
        "no IPC_LOCK",
        "add: [IPC_LOCK]",
    ),
    (
        "ipc-lock",
        "WARN",
        changed(JOB, ("runAsUser: 0", "runAsUser: 1000")),
        "inert for runAsUser 1000",
        "LimitMEMLOCK",
    ),
    (
        "ipc-lock",
        "WARN",
        changed(JOB, ("runAsUser: 0", "runAsNonRoot: true")),
        "inert for runAsNonRoot",
        "LimitMEMLOCK",
    ),
    (
        "ipc-lock",
        "WARN",
        changed(JOB, ("      subdomain", "      hostUsers: false\n      subdomain")),
        "inert with hostUsers",
        "LimitMEMLOCK",
    ),
    ("shm", "FAIL", changed(JOB, NO_MOUNT), f"{BOX}: no volume at /dev/shm", "mountPath: /dev/shm"),
    (
        "shm",
        "WARN",
        changed(JOB, NO_MOUNT, ("nvidia.com/gpu: 2", "nvidia.com/gpu: 1")),
        "no volume at /dev/shm",
        "mountPath",
    ),
    (
        "shm",
        "FAIL",
        changed(JOB, ("sizeLimit: 16Gi", "sizeLimit: 64Mi")),
        "has 64 MiB, and 2 ranks need about 128",
        "8Gi",
    ),
    (
        "shm",
        "WARN",
        changed(JOB, ("{medium: Memory, sizeLimit: 16Gi}", "{sizeLimit: 16Gi}")),
        "on the disk of the node",
        "medium: Memory",
    ),
    (
        "shm",
        "FAIL",
        changed(JOB, ("mountPath: /dev/shm", "mountPath: /dev/shm, readOnly: true")),
        "read-only",
        "null",
    ),
    (
        "shm",
        "FAIL",
        changed(
            JOB,
            ("- {name: shm, emptyDir: {medium: Memory, sizeLimit: 16Gi}}\n", "- {name: other}\n"),
        ),
        "volume shm, which is not there",
        "volumes",
    ),
    (
        "memory-cgroup",
        "FAIL",
        changed(JOB, ("memory: 128Gi", "memory: 512Mi")),
        "512 MiB, less than the 1024 that 2 ranks register",
        "limits.memory: ",
    ),
    (
        "memory-cgroup",
        "WARN",
        changed(JOB, ("memory: 128Gi", "memory: 16Gi")),
        "less than /dev/shm with 16384 and 1024 registered",
        "limits.memory: ",
    ),
    (
        "memory-cgroup",
        "FAIL",
        changed(JOB, ("memory: 128Gi", "memory: lots")),
        "lots is no quantity",
        "limits.memory: SIZE",
    ),
    (
        "cpu-quota",
        "WARN",
        changed(JOB, ("limits: {cpu: 16", "limits: {cpu: 7500m")),
        "7500m is no whole number",
        ": 8",
    ),
    (
        "cpu-quota",
        "WARN",
        changed(JOB, ("requests: {cpu: 16}", "requests: {cpu: 8}")),
        "8 requested, 16 at most: not Guaranteed",
        ": 16",
    ),
    (
        "cpu-quota",
        "WARN",
        changed(JOB, ("limits: {cpu: 16", "limits: {cpu: 1")),
        "1 CPUs for 2 ranks",
        ": 4",
    ),
    (
        "cpu-quota",
        "WARN",
        changed(JOB, ("limits: {cpu: 16, ", "limits: {")),
        "no limit of CPUs",
        "cpu: N",
    ),
    (
        "cpu-quota",
        "FAIL",
        changed(JOB, ("limits: {cpu: 16", "limits: {cpu: many")),
        "many is no number of CPUs",
        ": 8",
    ),
    (
        "cpu-quota",
        "WARN",
        changed(JOB, (", memory: 128Gi", "")),
        "no limits of CPUs and memory, or requests that differ",
        "memory",
    ),
    (
        "checkpoint-dir",
        "WARN",
        changed(JOB, ("dir=/checkpoints", "dir=/data/a")),
        "checkpoints in /data/a, which is on no volume",
        "mountPath: /data/a",
    ),
    (
        "checkpoint-dir",
        "WARN",
        changed(JOB, ("dir=/checkpoints", "dir=/tmp/a")),
        "of a volume that ends with the pod",
        "persistentVolumeClaim",
    ),
    (
        "checkpoint-dir",
        "FAIL",
        changed(JOB, ("mountPath: /checkpoints", "mountPath: /checkpoints, readOnly: true")),
        "which is read-only",
        "null",
    ),
    (
        "checkpoint-dir",
        "WARN",
        changed(
            JOB,
            command("[rdmatrain, run, x]"),
            ("persistentVolumeClaim: {claimName: train}", "emptyDir: {}"),
        ),
        "no volume outlives the pod",
        "persistentVolumeClaim",
    ),
    (
        "tmp",
        "FAIL",
        changed(JOB, ("        - {name: tmp, mountPath: /tmp}\n", "")),
        "nothing to write to at /tmp",
        "{name: tmp, emptyDir: {}}",
    ),
    (
        "image-tag",
        "WARN",
        changed(JOB, ("train:1.4", "train:latest")),
        "example/train:latest is another image tomorrow",
        "VERSION",
    ),
    (
        "image-tag",
        "WARN",
        changed(JOB, ("example/train:1.4", "registry:5000/train")),
        "registry:5000/train is another",
        "VERSION",
    ),
    (
        "image-tag",
        "WARN",
        changed(
            PYTORCH,
            (
                WORKER,
                changed(WORKER, ("1.4", "1.5")),
            ),
        ),
        "example/train:1.5, and example/train:1.4 in spec",
        "1.4",
    ),
    (
        "pci-quoted",
        "WARN",
        changed(JOB, ('"0000:16:00.0"', "0000:16:00.0")),
        "0000:16:00.0 is a number to the base of 60",
        '"0000:16:00.0"',
    ),
    (
        "signals",
        "WARN",
        changed(JOB, command('[bash, -c, "cd /src && rdmatrain run x"]')),
        f"{BOX}.command[2]: bash is process 1",
        "exec before the launcher",
    ),
    (
        "signals",
        "WARN",
        changed(JOB, command('[sh, -c, "rdmatrain run x | tee /log"]')),
        "sh is process 1",
        "the last command",
    ),
    (
        "env-network-status",
        "WARN",
        changed(JOB, env(f"{{name: NETS, {STATUS}}}")),
        "env[0]: NETS is empty when the container starts",
        "{name: podinfo, mountPath: /etc/podinfo}",
    ),
    (
        "env-rank",
        "FAIL",
        changed(JOB, env('{name: RANK, value: "0"}')),
        "env[0]: RANK=0 in all 4 pods",
        "{name: RANK, $patch: delete}",
    ),
    (
        "env-rank",
        "WARN",
        changed(TRAIN_JOB, ("{name: RDMATRAIN_INSECURE", "{name: WORLD_SIZE")),
        "WORLD_SIZE is set by the TrainJob, and by hand",
        "{name: WORLD_SIZE, $patch: delete}",
    ),
    (
        "gang-parallel",
        "FAIL",
        changed(JOB, ("parallelism: 4", "parallelism: 2")),
        "4 pods, of which 2 run at the same time",
        "{parallelism: 4}",
    ),
    (
        "exit-codes",
        "WARN",
        changed(JOB, ("backoffLimit: 0", "backoffLimit: 4")),
        "exit code 2 is tried again 4 times",
        '"operator": "NotIn", "values": [134, 135, 137, 139, 143, 200, 201, 202, 203, 204]',
    ),
    (
        "exit-codes",
        "FAIL",
        changed(JOB, rules("{action: Ignore, onExitCodes: {operator: NotIn, values: [1]}}")),
        "exit code 2 is ignored",
        "FailJob",
    ),
    (
        "exit-codes",
        "WARN",
        changed(JOB, rules("{action: FailJob, onExitCodes: {operator: NotIn, values: [1]}}")),
        "exit code 200 ends the job",
        '"action": "Count"',
    ),
    (
        "exit-codes",
        "FAIL",
        changed(VOLCANO, policies("{exitCode: 0, action: CompleteJob}")),
        "exit code 0, which Volcano refuses",
        "event: TaskCompleted",
    ),
    (
        "exit-codes",
        "WARN",
        changed(VOLCANO, policies("{exitCode: 69, action: RestartTask}")),
        "exit code 69 is tried again",
        "action: AbortJob",
    ),
    (
        "exit-codes",
        "WARN",
        changed(VOLCANO, policies("{event: PodFailed, action: RestartJob}")),
        "PodFailed is tried again, whatever the exit code",
        "exitCode: 2, action: AbortJob",
    ),
    (
        "hugepages",
        "FAIL",
        changed(JOB, ("requests: {cpu: 16}", "requests: {cpu: 16, hugepages-2Mi: 1Gi}")),
        "hugepages-2Mi has another request than limit",
        "limits: {hugepages-2Mi: 1Gi}",
    ),
    (
        "hugepages",
        "FAIL",
        changed(JOB, ("      volumes:", f"      volumes:\n      - {HUGE}")),
        "and no container asks for any",
        "hugepages-2Mi: 1Gi",
    ),
]

POLICY = """\
---
kind: SriovNetworkNodePolicy
metadata: {name: nics}
spec: {resourceName: rdma-vf, isRdma: true, deviceType: netdevice, mtu: 4220}
"""
POOL = "---\nkind: SriovNetworkPoolConfig\nmetadata: {name: p}\nspec: {rdmaMode: exclusive}\n"
NETWORK = """\
---
kind: SriovNetwork
metadata: {name: rdma-vf}
spec: {resourceName: rdma-vf, metaPlugins: '{"type": "tuning"}, {"type": "rdma"}'}
"""
NAD = (
    "nvidia.com/rdma-vf}\n---",
    "nvidia.com/rdma-vf}\n"
    'spec: {config: \'{"plugins": [{"type": "sriov"}, {"type": "rdma"}]}\'}\n---',
)
CLAIM = """\
---
kind: ResourceClaimTemplate
metadata: {name: pairs}
spec:
  spec:
    devices:
      requests:
      - {name: gpu0, exactly: {deviceClassName: gpu.nvidia.com}}
      - {name: nic0, exactly: {deviceClassName: dranet}}
      constraints:
      - {requests: [gpu0, nic0], matchAttribute: resource.kubernetes.io/pcieRoot}
"""
CLAIMED = changed(
    JOB,
    NO_VFS,
    NO_NETWORKS,
    (
        "      subdomain",
        "      resourceClaims: [{name: p, resourceClaimTemplateName: pairs}]\n      subdomain",
    ),
)
OF_CLUSTER = [
    (
        "rdma-namespace",
        "FAIL",
        JOB + changed(POLICY, ("isRdma: true", "isRdma: false")),
        "virtual functions without RDMA",
        "{isRdma: true, deviceType: netdevice}",
    ),
    (
        "rdma-namespace",
        "FAIL",
        JOB + changed(POLICY, ("netdevice", "vfio-pci")),
        "without RDMA",
        "netdevice",
    ),
    (
        "rdma-namespace",
        "WARN",
        changed(JOB, NAD) + changed(POOL, ("exclusive", "shared")),
        "rdmaMode: not exclusive",
        "spec.rdmaMode: exclusive",
    ),
    (
        "rdma-namespace",
        "FAIL",
        changed(JOB, NAD, (', {"type": "rdma"}', "")) + POOL,
        "the device stays in the host",
        "spec.config: add {type: rdma}",
    ),
    (
        "rdma-namespace",
        "WARN",
        changed(JOB, NAD, (', {"type": "rdma"}', "")),
        "would stay in the host",
        "rdma",
    ),
    (
        "rdma-namespace",
        "WARN",
        JOB + changed(NETWORK, (', {"type": "rdma"}', "")),
        "SriovNetwork rdma-vf: spec.metaPlugins: no plugin rdma",
        "rdma",
    ),
    (
        "mtu",
        "WARN",
        JOB + changed(POLICY, (", mtu: 4220", "")),
        "mtu is not set, so 1500",
        "{mtu: 4220}",
    ),
    ("mtu", "WARN", JOB + changed(POLICY, ("4220", "2048")), "mtu is 2048", "{mtu: 4220}"),
    (
        "numa-alignment",
        "WARN",
        JOB + changed(POLICY, ("mtu: 4220", "excludeTopology: true")),
        "is not told the NUMA node",
        "{excludeTopology: false}",
    ),
    (
        "numa-alignment",
        "WARN",
        CLAIMED + changed(CLAIM, ("[gpu0, nic0]", "[nic0]")),
        "GPU gpu0 may be far",
        "requests: [gpu0, nic0], matchAttribute",
    ),
    (
        "numa-alignment",
        "FAIL",
        CLAIMED + changed(CLAIM, ("gpu.nvidia.com}", "gpu.nvidia.com, count: 8}")),
        "8 devices that have to be below one root",
        "for each pair",
    ),
]
OF_CLUSTER_RIGHT = [
    ("rdma-namespace", changed(JOB, NAD) + POOL + POLICY, "the plugin rdma moves"),
    ("rdma-namespace", JOB + NETWORK, "SriovNetwork rdma-vf: spec.metaPlugins: the plugin rdma"),
    ("mtu", JOB + POLICY, "mtu 4220"),
    ("numa-alignment", JOB + POLICY, "is told the NUMA node"),
    ("numa-alignment", CLAIMED + CLAIM, "each GPU comes with a NIC near to it"),
]

RIGHT = [
    ("text-quoted", JOB, "9 values are texts"),
    ("env-lost-by-shell", JOB, "no shell keeps PCIDEVICE_NVIDIA_COM_RDMA-VF"),
    ("env-lost-by-shell", changed(JOB, command('[/bin/bash, -c, "x"]')), "bash keeps"),
    ("env-gid-index", JOB, "pins no GID index"),
    ("env-gid-index", changed(JOB, env('{name: NCCL_IB_GID_INDEX, value: "-1"}')), "pins no"),
    ("env-devices", changed(JOB, env("{name: NCCL_IB_HCA, value: mlx5}")), "no device by its"),
    ("env-interface", JOB, "NCCL_SOCKET_IFNAME=eth0: of lo, eth0, net1, net2"),
    ("env-interface", changed(JOB, ("value: eth0", "value: ^docker")), "^docker"),
    ("env-rdma-off", changed(JOB, env('{name: NCCL_IB_DISABLE, value: "0"}')), "turns nothing off"),
    ("identity", JOB, "4 pods, 4 nodes"),
    ("identity", VOLCANO, "the plugin svc lists the pods"),
    ("identity", PYTORCH, "4 pods, numbered behind the Master"),
    ("identity", TRAIN_JOB, "4 pods, numbered by the TrainJob"),
    ("identity", jobset(), "6 pods, 6 nodes"),
    (
        "identity",
        changed(jobset(jobs=2), ("torchrun, ", "torchrun, --node-rank=$(N), ")),
        "by hand",
    ),
    (
        "identity",
        changed(jobset(jobs=2), ("            containers", ANNOTATIONS)),
        "6 pods, 6 nodes",
    ),
    ("hostname", JOB, "named by its workload"),
    ("dns-leader", JOB, "Service train: spec: headless"),
    ("dns-leader", VOLCANO, "published before pods are ready"),
    ("dns-leader", jobset(), "before they are ready"),
    ("dns-leader", TRAIN_JOB, "before they are ready"),
    ("rendezvous-port", JOB, "PET_MASTER_PORT 29500"),
    ("host-network", JOB, "no hostNetwork"),
    ("gang-secret", JOB, "RDMATRAIN_SECRET"),
    ("gang-secret", VOLCANO, "--insecure"),
    ("gang-minimum", JOB, "admitted as a whole by Kueue"),
    ("gang-minimum", VOLCANO, "spec.minAvailable: all 4 pods, or none"),
    ("gang-minimum", TRAIN_JOB, "podGroupPolicy"),
    ("queue-covers", JOB, "covers cpu, memory, nvidia.com/gpu, nvidia.com/rdma-vf"),
    ("restart-policy", JOB, "restartPolicy Never"),
    ("restart-policy", PYTORCH, "restartPolicy ExitCode"),
    ("grace", JOB, "120 s"),
    ("termination-log", JOB, "/dev/termination-log"),
    ("gpu-granted", JOB, "asks for 2 GPUs"),
    ("vf-count", JOB, "2 virtual functions, 2 networks of the same resources"),
    ("vf-count", changed(JOB, NO_NAD), "2 nvidia.com/rdma-vf, 2 networks"),
    ("vf-count", TRAIN_JOB, "2 nvidia.com/rdma-vf, 2 networks"),
    ("uverbs-nodes", JOB, "it requests nvidia.com/rdma-vf: 2"),
    ("uverbs-nodes", changed(JOB, NO_VFS, PRIVILEGED, *HOST_NODES), "privileged: it has all"),
    ("device-granted", JOB, "nvidia.com/rdma-vf and nothing of the host"),
    ("gpu-nic-sharing", JOB, "2 virtual functions for 2 GPUs"),
    ("privileged", JOB, "not privileged"),
    ("memlock", JOB, "root with IPC_LOCK"),
    ("ipc-lock", JOB, "IPC_LOCK, for root"),
    ("shm", JOB, "/dev/shm is memory, of 16Gi"),
    ("shm", TRAIN_JOB, "/dev/shm is memory, without a limit"),
    ("memory-cgroup", JOB, "131072 MiB, /dev/shm with 16384, 1024 registered"),
    ("cpu-quota", JOB, "16 CPUs, all limits are there"),
    ("checkpoint-dir", JOB, "checkpoints in /checkpoints, of a volume that outlives the pod"),
    ("tmp", JOB, "/tmp is a volume"),
    ("image-tag", JOB, "example/train:1.4"),
    ("image-tag", jobset(), "by its digest"),
    ("pci-quoted", JOB, "1 PCI addresses, all texts"),
    ("signals", JOB, "no shell in between"),
    ("signals", changed(JOB, command('[sh, -c, "cd /a; exec rdmatrain run x"]')), "sh becomes"),
    ("signals", changed(JOB, command('[bash, -c, "rdmatrain run x"]')), "one command"),
    (
        "env-network-status",
        changed(JOB, ("      volumes:", f"      volumes:\n      {PODINFO}")),
        "in a volume",
    ),
    ("env-rank", JOB, "no number is set by hand"),
    ("gang-parallel", JOB, "all 4 pods at the same time"),
    ("exit-codes", JOB, "nothing is tried again"),
    (
        "exit-codes",
        changed(
            JOB,
            rules("{action: FailJob, onExitCodes: {operator: In, values: [2, 64, 69, 77, 78]}}"),
        ),
        "permanent errors end the job",
    ),
    (
        "exit-codes",
        changed(VOLCANO, policies("{exitCode: 201, action: RestartJob}")),
        "permanent errors end the job",
    ),
    (
        "hugepages",
        changed(JOB, ("limits: {cpu: 16", "limits: {hugepages-2Mi: 1Gi, cpu: 16")),
        "huge pages have a limit",
    ),
    ("env-misspelt", changed(JOB, ("NCCL_SOCKET_IFNAME", "OTHER")), "all known"),
    ("env-contradicts", changed(JOB, ("RAIL", "OTHER")), "all known"),
]

# What may be seen elsewhere is no PASS.
UNSEEN = [
    ("identity", changed(JOB, command("[python, work.py]"))),
    ("dns-leader", changed(JOB, command("[python, work.py]"), ("      subdomain: train\n", ""))),
    ("identity", changed(VOLCANO, ("svc: ", "other: "), ("rdmatrain, run, --insecure", "sleep"))),
    (
        "env-gid-index",
        changed(
            JOB, ("        env:", "        envFrom: [{configMapRef: {name: a}}]\n        env:")
        ),
    ),
    (
        "env-lost-by-shell",
        changed(
            JOB,
            ("        command: [rdmatrain, run, train.py, --checkpoint-dir=/checkpoints]\n", ""),
        ),
    ),
    ("env-interface", changed(JOB, IN_HOST)),
    (
        "identity",
        changed(
            JOB,
            (
                '{name: PET_NNODES, value: "4"}',
                "{name: PET_NNODES, valueFrom: {configMapKeyRef: {name: a, key: b}}}",
            ),
        ),
    ),
    # Their number is right in the end: gang-parallel says what is wrong.
    ("identity", changed(JOB, ("parallelism: 4", "parallelism: 2"))),
    ("dns-leader", changed(JOB, ("kind: Service", "kind: Other"))),
    ("dns-leader", PYTORCH),
    ("memlock", changed(JOB, ("      securityContext:\n        runAsUser: 0\n", ""))),
    ("memlock", changed(JOB, ("runAsUser: 0", "runAsUser: 1000"))),
    ("ipc-lock", changed(JOB, ("      securityContext:\n        runAsUser: 0\n", ""))),
    ("shm", TRAIN_JOB.split("---")[0].replace("volumeMounts", "other")),
    (
        "shm",
        changed(
            JOB,
            (
                "emptyDir: {medium: Memory, sizeLimit: 16Gi}",
                "persistentVolumeClaim: {claimName: a}",
            ),
        ),
    ),
    ("vf-count", TRAIN_JOB.split("---")[0].replace(", nvidia.com/rdma-vf: 2", "")),
    (
        "gang-minimum",
        changed(
            JOB,
            ("kueue.x-k8s.io/queue-name", "app"),
            ("      subdomain", "      schedulingGroup: {podGroupName: g}\n      subdomain"),
        ),
    ),
    (
        "uverbs-nodes",
        changed(
            JOB,
            NO_VFS,
            command("[rdmatrain, run, --require, verbs, x]"),
            ("      subdomain", "      resourceClaims: [{name: nic}]\n      subdomain"),
        ),
    ),
    ("checkpoint-dir", changed(JOB, command("[rdmatrain, run, x]"))),
    ("queue-covers", VOLCANO),
    (
        "gang-secret",
        changed(
            JOB,
            ("RDMATRAIN_SECRET,", "OTHER,"),
            ("        env:", "        envFrom: [{secretRef: {name: a}}]\n        env:"),
        ),
    ),
]


@pytest.fixture(autouse=True)
def _own_checks_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the checks of running pods, which have tests of their own."""

    def misspelt(case: Case) -> Finding:
        odd = "NCCL_SOCKET_IFNAME=eth0" in (case.source.text("/proc/self/environ") or "")
        return (
            warned("NCCL_SOCKET_IFNAME is odd", "unset NCCL_SOCKET_IFNAME")
            if odd
            else passed("all known")
        )

    def contradicts(case: Case) -> Finding:
        odd = "RAIL=0000:16:00.0\0" in (case.source.text("/proc/self/environ") or "")
        return failed("RAIL contradicts", "rename RAIL to TRAIL") if odd else passed("all known")

    judges = dict(zip(BORROWED, (misspelt, contradicts), strict=True))
    made = {name: Check(name, "", "", "", judge) for name, judge in judges.items()}
    monkeypatch.setattr(variables, "by_id", lambda: made)


@pytest.mark.parametrize("name", IDS)
def test_says_what_is_wrong(name: str) -> None:
    rows = [each for each in (*WRONG, *OF_CLUSTER) if each[0] == name]
    assert rows
    for _, verdict, text, evidence, fix in rows:
        found = ask(name, text)
        assert found.verdict.value == verdict, found
        assert evidence in found.evidence
        assert fix in found.fix
        assert PLACE.match(found.evidence), found


@pytest.mark.parametrize("name", IDS)
def test_passes_what_the_manifest_shows(name: str) -> None:
    rows = [each for each in (*RIGHT, *OF_CLUSTER_RIGHT) if each[0] == name]
    assert rows
    for _, text, evidence in rows:
        found = ask(name, text)
        assert (found.verdict.value, found.fix) == ("PASS", ""), found
        assert evidence in found.evidence


@pytest.mark.parametrize(("name", "text"), UNSEEN)
def test_skips_what_may_be_elsewhere(name: str, text: str) -> None:
    assert ask(name, text).verdict.value == "SKIP", ask(name, text)


def test_nothing_is_wrong_with_the_healthy_job() -> None:
    found = verdicts(JOB)
    unseen = {"rdma-namespace", "mtu", "numa-alignment", *BORROWED, "env-network-status"}
    unseen.add("hugepages")
    assert {name for name, verdict in found.items() if verdict != "PASS"} == unseen


def test_nothing_of_rdma_fails_where_nobody_asks_for_it() -> None:
    """Workloads of all kinds without devices may hang, but not for want of RDMA."""
    found = verdicts(WORKLOADS)
    of_rdma = ("vf-count", "uverbs-nodes", "device-granted", "memlock", "env-rdma-off", "shm")
    assert {found[name] for name in of_rdma} <= {"SKIP", "WARN", "PASS"}
    assert found["memlock"] == found["uverbs-nodes"] == "SKIP"


@pytest.mark.parametrize("word", ["--standalone", "--nnodes=1"])
def test_pods_that_are_jobs_of_their_own_need_no_gang(word: str) -> None:
    text = changed(JOB, command(f"[rdmatrain, run, {word}, x]"), ("      subdomain: train\n", ""))
    for name in ("identity", "dns-leader", "gang-minimum", "gang-secret", "hostname"):
        assert ask(name, text).verdict.value == "SKIP", name


def test_values_that_the_pod_fills_in_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def judge(case: Case) -> Finding:
        seen.append(case.source.text("/proc/self/environ") or "")
        return passed("looked at")

    made = {name: Check(name, "", "", "", judge) for name in BORROWED}
    monkeypatch.setattr(variables, "by_id", lambda: made)
    ask("env-misspelt", changed(JOB, env("{name: PET_NODE_RANK, value: $(INDEX)}")))
    assert "PET_NNODES=4" in seen[0]
    assert "PET_NODE_RANK" not in seen[0]


def test_a_job_over_tcp_needs_no_devices() -> None:
    text = changed(JOB, ("add: [IPC_LOCK]", "drop: [ALL]"), env("{name: NCCL_NET, value: Socket}"))
    assert ask("memlock", text, Needs(transport="tcp")).verdict.value == "SKIP"
    assert ask("env-rdma-off", text, Needs(transport="tcp")).verdict.value == "SKIP"


def test_verbs_that_are_needed_must_come_from_somewhere() -> None:
    text = changed(JOB, NO_VFS, NO_NETWORKS)
    assert ask("uverbs-nodes", text).verdict.value == "SKIP"
    assert ask("uverbs-nodes", text, Needs(transport="verbs")).verdict.value == "FAIL"


def test_needs_count() -> None:
    assert ask("memory-cgroup", JOB, Needs(register_mib=1 << 20)).verdict.value == "FAIL"
    assert ask("checkpoint-dir", JOB, Needs(checkpoint_dir="/data")).verdict.value == "WARN"
    assert ask("cpu-quota", JOB, Needs(ranks=17)).verdict.value == "WARN"


def test_many_places_are_counted_not_shown() -> None:
    entries = [f"{{name: A{number}, value: {number}}}" for number in range(9)]
    found = ask("text-quoted", changed(JOB, env(*entries)))
    assert found.evidence.count("is a number") == MAX_PLACES
    assert found.evidence.endswith("; and 6 more")


# A fix that is a patch is one that a person can paste: YAML at a path.
def test_fixes_are_yaml_at_a_path() -> None:
    rows = [each for each in (*WRONG, *OF_CLUSTER) if each[0] != "ipc-lock"]
    for name, _, text, _, _ in rows:
        whole = ask(name, text).fix
        if re.search(r": (remove|add|a request)", whole):
            assert re.match(r"[\w.\[\]]+: ", whole), whole
            continue
        read_back = yaml.safe_load(whole)
        assert isinstance(read_back, dict), whole
        assert len(read_back) == 1, whole


def test_static_checks_are_known_by_their_ids() -> None:
    static = [each.check for each in questions() if each.static]
    ids = [each.id for each in static]
    assert len(ids) == len(set(ids)) == 17
    assert not set(ids) & set(by_id())
    assert [each.id for each in named(ids)] == ids
    assert all(each.why and each.title for each in static)


def test_ids_that_pods_have_too_are_the_same_checks() -> None:
    known = {each.id: each for each in checks()}
    assert "shm" in known
    for each in questions():
        assert each.static or each.check is known.get(each.check.id, each.check)


def test_all_others_are_checks_of_pods() -> None:
    assert {each.check.id for each in questions() if not each.static} <= set(by_id())


def test_every_kind_has_its_pods() -> None:
    pods = read(WORKLOADS).pods
    assert [
        (each.document.origin.label, each.role, each.count, each.siblings) for each in pods
    ] == [
        ("Pod pod", "", 1, 1),
        ("Deployment deployment", "", 2, 2),
        ("StatefulSet statefulset", "", 3, 3),
        ("CronJob cronjob", "", 4, 4),
        ("JobSet jobset", "workers", 10, 10),
        ("PyTorchJob pytorchjob", "Master", 1, 7),
        ("PyTorchJob pytorchjob", "Worker", 6, 7),
        ("MPIJob mpijob", "Launcher", 1, 8),
        ("MPIJob mpijob", "Worker", 7, 8),
        ("Job volcano", "worker", 8, 8),
        ("LeaderWorkerSet lws", "", 1, 9),
        ("LeaderWorkerSet lws", "", 8, 9),
        ("Novelty novelty-", "", 10, 10),
        ("Pod listed", "", 1, 1),
    ]
