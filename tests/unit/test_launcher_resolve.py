# SPDX-License-Identifier: Apache-2.0
"""From a command line, variables and a pod to a job: golden environments, precedence, refusals."""

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import MemorySource, environ

from rdmatrain.discovery.model import Gpu, Machine, Nic
from rdmatrain.discovery.orchestrator import whoami
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.pod_model import Allocation, GrantedGpu, GrantedNic
from rdmatrain.discovery.survey import Survey, survey
from rdmatrain.errors import SettingError
from rdmatrain.launcher.job import Gang, Limits
from rdmatrain.launcher.refusal import RefusalError
from rdmatrain.launcher.resolve import Resolved, resolve

FOLDER = Path(__file__).parents[1] / "fixtures" / "orchestrators"
GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
SECRET = {"RDMATRAIN_SECRET": "0123456789abcdef"}
SCRIPT = str(Path(__file__))
TWO = {"nnodes": "2", "master_addr": "head"}


def source_of(golden: Mapping[str, Any]) -> MemorySource:
    def volume(name: str) -> str:
        pairs = golden.get(name, {}).items()
        return "\n".join(f"{key}={json.dumps(value)}" for key, value in pairs)

    return MemorySource(
        {
            **golden.get("files", {}),
            "/proc/self/environ": environ(golden.get("env", {})),
            "/proc/1/environ": environ(golden.get("env_of_process_1", {})),
            "/etc/podinfo/annotations": volume("annotations"),
            "/etc/podinfo/labels": volume("labels"),
        }
    )


def ask(golden: Mapping[str, Any], gpus: int = 0, **options: Any) -> Resolved:
    """Resolve in an environment that is written down, on a machine with so many GPUs."""
    source = source_of(golden)
    pod = read_pod(source)
    granted = tuple(GrantedGpu(Gpu(index, f"GPU{index}"), ()) for index in range(gpus))
    found = Survey(
        Machine("test", cpus=(0, 1, 2, 3)),
        pod,
        Allocation(gpus=granted),
        identity=whoami(source, pod),
    )
    variables = {**SECRET, **golden.get("env", {})}
    return resolve({"script": SCRIPT, **options}, variables, found)


def by_hand(variables: Mapping[str, str] | None = None, **options: Any) -> Resolved:
    return resolve({"script": SCRIPT, **options}, {**SECRET, **(variables or {})}, None)


def gang(resolved: Resolved) -> tuple[str, int | None, str, int]:
    found = resolved.job.gang
    least, most = found.min_nodes, found.max_nodes
    nodes = str(least) if least == most else f"{least}:{most}"
    return nodes, found.node_rank, found.leader, found.port


def source(resolved: Resolved, name: str) -> str:
    (found,) = (each.source for each in resolved.values if each.name == name)
    return found


# Nodes, node rank, node 0 and its port; workers, LOCAL_RANK of the first, LOCAL_WORLD_SIZE.
ALONE = ("1", 0, "", 0, 1, 0, 0)
EXPECT: dict[str, tuple[str, int | None, str, int, int, int, int] | tuple[int, str]] = {
    "foreign_mpi_in_process_1": ALONE,
    "indexed_job": (64, "(indexed-job: JOB_COMPLETION_INDEX in environment: 3)"),
    "indexed_job_by_hand": ("16", 12, "llm-0.llm.train.svc.cluster.local", 29500, 8, 0, 0),
    "indexed_job_no_subdomain": (64, "how many: a Job does not tell its pods: set PET_NNODES"),
    "indexed_job_of_jobset": (64, "JOB_COMPLETION_INDEX in environment: 1"),
    "indexed_job_own_hosts_file": (64, "JOB_COMPLETION_INDEX in environment: 1"),
    "indexed_job_too_few": (64, "node rank 4"),
    "jobset": (64, "set PET_NNODES to the number of all pods"),
    "jobset_driver": (64, "not where node 0 is: set spec.coordinator"),
    "jobset_jobs": ("8", 7, "llm-workers-0-0.llm.train.svc.cluster.local", 29500, 1, 0, 0),
    "jobset_jobs_unknown": (64, "(jobset: label jobset.sigs.k8s.io/job-global-index: 3)"),
    "jobset_no_coordinator": (
        "16", 5, "llm-workers-0-0.net.train.svc.cluster.local", 29500, 8, 0, 0,
    ),
    "lws": ("4", 3, "llm-0.llm.train", 29500, 1, 0, 0),
    "lws_hostile": (2, "PET_NPROC_PER_NODE=eight"),
    "lws_other_label": ("4", 0, "llm-0.llm.train", 29500, 1, 0, 0),
    "mpijob_intel": (64, "not which node this is: the launcher is no node"),
    "mpijob_launcher": (64, "not which node this is: the launcher is no node"),
    "mpijob_launcher_as_worker": ("3", 0, "nccl-launcher.nccl.train.svc", 29500, 8, 0, 0),
    "mpijob_worker": (64, "only the launcher has the list of hosts"),
    "mpirun_hydra": ("8", 6, "n1", 29500, 1, 2, 4),
    "mpirun_in_mpijob": ("16", 11, "nccl-worker-0.nccl.train.svc", 29500, 1, 3, 8),
    "mpirun_in_slurm": ("24", 16, "gpu08", 29500, 1, 0, 8),
    "mpirun_in_volcano": (64, "not where node 0 is: no list of hosts fits the ranks"),
    "mpirun_intel_addresses": ("8", 6, "10.0.0.1", 29500, 1, 2, 4),
    "mpirun_mapped_by_node": (64, "not where node 0 is: no list of hosts fits the ranks"),
    "mpirun_one_host": ("4", 1, "localhost", 29500, 1, 1, 4),
    "mpirun_openmpi5": ("16", 9, "gpu1", 29500, 1, 1, 8),
    "mpirun_part_of_hostfile": (64, "not where node 0 is: no list of hosts fits the ranks"),
    "plain": ALONE,
    "plain_by_hand": ("2", 1, "fd00::17", 29500, 4, 0, 0),
    "plain_hostile": (2, "PET_N"),
    "plain_rank_only": ALONE,
    "pytorchjob_elastic": ("1:4", None, "bert-worker-0", 23456, 8, 0, 0),
    "pytorchjob_elastic_master": ("2:5", None, "bert-master-0", 23456, 1, 0, 0),
    "pytorchjob_elastic_rank": ("1:4", None, "bert-worker-0", 23456, 8, 0, 0),
    "pytorchjob_master": ("2", 0, "bert-master-0", 23456, 8, 0, 0),
    "pytorchjob_no_master": (64, "not where node 0 is: a PyTorchJob gives it only with a Master"),
    "pytorchjob_scheduled_by_volcano": ("2", 1, "bert-master-0", 23456, 1, 0, 0),
    "pytorchjob_worker": (69, "PET_NPROC_PER_NODE gpu: this node has no GPU"),
    "pytorchjob_world_size": ("2", 1, "bert-master-0", 23456, 4, 0, 0),
    "sbatch_script": (64, "start what belongs on each with srun"),
    "slinky": ("2", 1, "gpu-0", 29500, 1, 0, 0),
    "slinky_no_job": ALONE,
    "srun": ("20", 17, "gpu08", 29500, 1, 1, 4),
    "srun_bad_lists": (64, "not where node 0 is: no task of Slurm, or no list of nodes"),
    "srun_other_host_name": ("2", 1, "gpu08", 29500, 1, 0, 0),
    "srun_other_node": ("3", 0, "gpu08", 29500, 1, 0, 0),
    "srun_pmi2": ("3", 2, "gpu08", 29500, 1, 0, 0),
    "srun_requeued": ("2", 1, "gpu08", 29400, 1, 0, 0),
    "torchrun_in_srun": ("16", 11, "gpu08", 29501, 1, 3, 8),
    "torchrun_in_trainer": ("16", 3, "llm-node-0-0.llm", 29501, 1, 3, 8),
    "torchrun_on_one_host": ("2", 1, "127.0.0.1", 40312, 1, 1, 2),
    "trainer": ("2", 1, "llm-node-0-0.llm", 29500, 8, 0, 0),
    "trainer_mixed_ranks": ("2", 0, "llm-node-0-0.llm", 29500, 8, 0, 0),
    "trainer_own_runtime": ("2", 1, "llm-train-0-0.llm", 29500, 8, 0, 0),
    "trainer_restarted": ("2", 1, "llm-node-0-0.llm", 29500, 4, 0, 0),  # auto: the 4 CPUs
    "volcano_bad_lists": ("2", 1, "llm-worker-0.llm", 29500, 1, 0, 0),
    "volcano_env_only": (64, "VC_TASK_INDEX in environment: 1), and nobody says how many"),
    "volcano_host_network": ("4", 3, "llm-master-0.llm", 29500, 1, 0, 0),
    "volcano_hostname_in_template": ("16", 3, "trainer.llm", 29500, 1, 0, 0),
    "volcano_hyphen": ("3", 2, "rl-learner-0.rl", 29500, 1, 0, 0),
    "volcano_master_without_plugin": ("3", 1, "rl-master-0.rl", 29500, 1, 0, 0),
    "volcano_no_files": ("12", 10, "big-worker-0.big", 29500, 1, 0, 0),
    "volcano_pytorch": ("3", 2, "llm-master-0.llm", 23456, 1, 0, 0),
    "volcano_pytorch_renamed": ("3", 1, "llm-chief-0.llm", 23456, 1, 0, 0),
    "volcano_rank_overridden": ("3", 2, "llm-master-0.llm", 23456, 1, 0, 0),
    "volcano_scaled": ("4", 1, "llm-worker-0.llm", 29500, 1, 0, 0),
    "volcano_svc": ("4", 2, "llm-worker-0.llm", 29500, 1, 0, 0),
    "volcano_two_of_one_index": ("2", 1, "llm-worker-0.llm", 29500, 1, 0, 0),
    "volcano_unlisted": (64, "not which node this is: VC_TASK_INDEX counts within a task"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_environment_gives_its_gang(name: str) -> None:
    expect = EXPECT[name]
    if len(expect) == 2:
        code, words = expect
        with pytest.raises(SettingError) as caught:
            ask(GOLDEN[name])
        assert getattr(caught.value, "exit_code", 2) == code
        assert str(words) in str(caught.value)
        return
    job = ask(GOLDEN[name]).job
    assert (*gang(ask(GOLDEN[name])), job.nproc, job.first_local, job.local_world) == expect


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("options", [{"nnodes": "1"}, {"standalone": True}])
def test_one_node_is_one_node_wherever_it_runs(name: str, options: dict[str, Any]) -> None:
    golden = dict(GOLDEN[name])
    if EXPECT[name][0] == 2:  # a variable that is none stays none
        golden["env"] = {
            key: text for key, text in golden["env"].items() if not key.startswith("PET_")
        }
    resolved = ask(golden, nproc_per_node="3", **options)
    job = resolved.job
    assert gang(resolved)[:3] == ("1", 0, "")
    assert (job.nproc, job.first_local, job.local_world, job.gang.epoch) == (3, 0, 0, 0)


@pytest.mark.parametrize("name", GOLDEN)
def test_explicit_options_win(name: str) -> None:
    options = {
        "nnodes": "7", "node_rank": "5", "master_addr": "fd00::9", "master_port": "1234",
        "nproc_per_node": "2", "rdzv_id": "mine", "rdzv_backend": "static",
    }  # fmt: skip
    golden = dict(GOLDEN[name])
    # Both say where node 0 is: the command line wins over that as well.
    resolved = ask(golden, **options)
    assert gang(resolved) == ("7", 5, "fd00::9", 1234)
    assert (resolved.job.nproc, resolved.job.gang.run_id) == (2, "mine")
    told = {"nnodes", "node_rank", "nproc_per_node", "run_id"}
    words = {"run_id": "--rdzv-id"}
    assert {key: source(resolved, key) for key in told} == {
        key: words.get(key, f"--{key.replace('_', '-')}") for key in told
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_all_that_is_in_force_has_a_source(name: str) -> None:
    if len(EXPECT[name]) == 2:
        return
    for each in ask(GOLDEN[name]).values:
        assert each.source and each.source.isprintable()
        assert (
            each.source != "default"
            or each.name not in {"nnodes", "node_rank", "leader"}
            or (EXPECT[name] == ALONE)
        )
        assert SECRET["RDMATRAIN_SECRET"] not in f"{each.value} {each.source}"


@pytest.mark.parametrize(
    ("name", "run_id", "epoch"),
    [
        ("srun", "4711-0-0", 0),
        ("srun_requeued", "4711-0-2", 2),
        ("trainer_restarted", "llm-3", 3),
        ("volcano_svc", "llm-4", 4),
        ("pytorchjob_elastic", "bert", 0),
        ("pytorchjob_master", "bert", 0),
        ("lws", "llm-0", 0),
        ("mpirun_openmpi5", "prterun-gpu1-42@1", 0),
        ("torchrun_on_one_host", "6c1f-0", 0),
        ("torchrun_in_srun", "none", 1),
        ("trainer", "none", 0),
    ],
)
def test_the_job_is_called_as_its_orchestrator_calls_it(name: str, run_id: str, epoch: int) -> None:
    found = ask(GOLDEN[name]).job.gang
    assert (found.run_id, found.epoch) == (run_id, epoch)


def test_jobs_of_one_node_have_a_new_name_each() -> None:
    assert by_hand().job.gang.run_id != by_hand().job.gang.run_id
    assert by_hand(rdzv_id="x").job.gang.run_id == "x"
    assert by_hand(rdzv_id="x", standalone=True).job.gang.run_id != "x"
    # Pods of a Job that does not say that they belong together are jobs of their own.
    pod = {"env": {"JOB_COMPLETION_INDEX": "0"}}
    assert ask(pod).job.gang.run_id != ask(pod).job.gang.run_id


PYTORCHJOB = {"training.kubeflow.org/operator-name": "pytorchjob-controller"}


@pytest.mark.parametrize(
    ("env", "labels", "words"),
    [
        ({"JOB_COMPLETION_INDEX": "0"}, {}, "set PET_NNODES to its completions"),
        (
            {"JOB_COMPLETION_INDEX": "0"},
            {"jobset.sigs.k8s.io/jobset-name": "llm"},
            "set PET_NNODES to the number of all pods",
        ),
        ({"VC_TASK_INDEX": "0"}, {}, "give the Volcano job the svc plugin"),
        (
            {"VC_TASK_INDEX": "0", "HOSTNAME": "llm-0", "MASTER_ADDR": "llm-0.llm"},
            {},
            "give the Volcano job the svc plugin",
        ),
        ({}, PYTORCHJOB, "PET_NNODES, which a PyTorchJob sets, is not here"),
    ],
)
def test_a_pod_that_may_be_one_of_several_is_told_so(
    env: dict[str, str], labels: dict[str, str], words: str
) -> None:
    pod = {"env": env, "labels": labels}
    resolved = ask(pod)
    (message,) = resolved.job.messages
    assert gang(resolved)[:3] == ("1", 0, "")
    assert message.startswith("this is a job of one node: ") and words in message
    assert ask(pod, nnodes="1").job.messages == ()


@pytest.mark.parametrize(
    ("env", "labels", "other"),
    [
        # The first pod of a task, of which another has node 0.
        ({"VC_TASK_INDEX": "0", "MASTER_ADDR": "llm-master-0.llm"}, {}, "MASTER_ADDR in env"),
        ({"PET_RDZV_ENDPOINT": "bert-worker-0:1"}, PYTORCHJOB, "PET_RDZV_ENDPOINT in env"),
        (
            {},
            {
                **PYTORCHJOB,
                "training.kubeflow.org/replica-type": "worker",
                "training.kubeflow.org/replica-index": "1",
            },
            "replica-type and replica-index: 1",
        ),
    ],
)
def test_who_knows_of_another_node_and_not_of_how_many_starts_nothing(
    env: dict[str, str], labels: dict[str, str], other: str
) -> None:
    with pytest.raises(RefusalError) as caught:
        ask({"env": {"HOSTNAME": "bert-worker-1", **env}, "labels": labels})
    assert caught.value.exit_code == 64
    assert other in str(caught.value) and "; --nnodes or --standalone" in str(caught.value)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"HOSTNAME": "ci-0"},
        {"MASTER_ADDR": "head"},  # as with torchrun, by hand it means nothing without --nnodes
    ],
)
def test_a_pod_that_says_nothing_of_others_is_quiet(env: dict[str, str]) -> None:
    resolved = ask({"env": env}, nproc_per_node="2")
    assert gang(resolved) == ("1", 0, "", 0)
    assert (resolved.job.nproc, resolved.job.messages) == (2, ())


# Workers


IN_A_POD = {"env": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}}


@pytest.mark.parametrize(
    ("golden", "gpus", "given", "nproc"),
    [
        ({}, 0, None, 1),
        ({}, 4, None, 1),  # a machine of one's own: as torchrun
        (IN_A_POD, 4, None, 4),
        (IN_A_POD, 0, None, 1),
        (GOLDEN["lws"], 8, None, 8),
        (GOLDEN["trainer"], 4, None, 8),
        (GOLDEN["trainer"], 4, "2", 2),
        (GOLDEN["trainer_restarted"], 6, None, 6),  # auto
        (GOLDEN["srun"], 4, None, 1),
        (GOLDEN["srun"], 4, "2", 2),
        (GOLDEN["srun_pmi2"], 4, None, 4),  # one task a node
        (GOLDEN["mpirun_one_host"], 4, None, 1),
        (GOLDEN["mpijob_launcher_as_worker"], 2, None, 8),
        ({}, 3, "gpu", 3),
        ({}, 3, "auto", 3),
        ({}, 0, "auto", 4),
        ({}, 3, "cpu", 4),
        ({"env": {"PET_NPROC_PER_NODE": " auto "}}, 3, None, 3),
    ],
)
def test_workers(golden: dict[str, Any], gpus: int, given: str | None, nproc: int) -> None:
    options = {"nproc_per_node": given} if given else {}
    job = ask(golden, gpus=gpus, **options).job
    assert job.nproc == nproc
    assert job.local_world in {0, 4 * nproc}


@pytest.mark.parametrize("kind", ["gpu", "xpu"])
def test_devices_that_are_not_there_are_missing(kind: str) -> None:
    with pytest.raises(RefusalError, match=f"--nproc-per-node {kind}: ") as caught:
        ask({}, nproc_per_node=kind)
    assert caught.value.exit_code == 69


def test_several_workers_of_each_task_share_the_counting_of_its_host() -> None:
    job = ask(GOLDEN["srun"], nproc_per_node="2").job
    assert (job.first_local, job.local_world, job.gang.node_rank) == (2, 8, 17)
    # Which of its CPUs each has is up to who started it.
    assert job.bind_cpus is False
    assert ask(GOLDEN["srun_pmi2"]).job.bind_cpus is True
    assert ask(GOLDEN["srun_pmi2"], no_bind=True).job.bind_cpus is False


def test_a_pods_variables_are_not_those_of_each_task_in_it() -> None:
    golden = GOLDEN["torchrun_in_trainer"]
    assert golden["env"]["PET_NNODES"] == "2"
    assert gang(ask(golden))[:2] == ("16", 3)
    # What a person sets for srun is.
    env = {**GOLDEN["srun"]["env"], "PET_NPROC_PER_NODE": "3"}
    assert ask({**GOLDEN["srun"], "env": env}).job.nproc == 3


def test_tasks_that_nobody_counts_hosts_of_are_a_node_each() -> None:
    env = {
        "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "MASTER_ADDR": "head", "MASTER_PORT": "4000",
    }  # fmt: skip
    resolved = ask({"env": env}, gpus=8)
    assert (*gang(resolved), resolved.job.nproc) == ("2", 1, "head", 4000, 8)


# By hand


@pytest.mark.parametrize(
    ("options", "expect"),
    [
        ({}, ("1", 0, "", 0)),
        ({"master_port": "4000"}, ("1", 0, "", 4000)),
        ({"rdzv_endpoint": "localhost:0"}, ("1", 0, "", 0)),
        ({"rdzv_endpoint": "localhost:4000"}, ("1", 0, "", 4000)),
        ({"rdzv_endpoint": "localhost:4000", "standalone": True}, ("1", 0, "", 0)),
        ({"nnodes": "1:1", "master_addr": "x"}, ("1", 0, "", 0)),
        ({"standalone": True, "rdzv_backend": "etcd"}, ("1", 0, "", 0)),
        (TWO, ("2", 0, "head", 29500)),
        ({**TWO, "node_rank": "1", "master_port": "4000"}, ("2", 1, "head", 4000)),
        ({"nnodes": "2", "rdzv_endpoint": "[fd00::1]:4000"}, ("2", 0, "fd00::1", 4000)),
        ({"nnodes": "2", "rdzv_endpoint": "h", "master_port": "3"}, ("2", 0, "h", 3)),
        ({**TWO, "rdzv_endpoint": "h:3"}, ("2", 0, "h", 3)),  # torchrun takes that one too
        ({**TWO, "rdzv_backend": "c10d"}, ("2", None, "head", 29500)),
        ({**TWO, "rdzv_backend": "rdmatrain"}, ("2", None, "head", 29500)),
        ({**TWO, "rdzv_backend": "rdmatrain", "node_rank": "1"}, ("2", 1, "head", 29500)),
        ({"nnodes": "1:3", "master_addr": "head"}, ("1:3", None, "head", 29500)),
        ({"nnodes": "1:3", "master_addr": "head", "node_rank": "2"}, ("1:3", 2, "head", 29500)),
    ],
)
def test_a_gang_by_hand(options: dict[str, Any], expect: tuple[Any, ...]) -> None:
    assert gang(by_hand(**options)) == expect
    # Variables say the same.
    variables = {
        f"PET_{name.upper()}": "1" if value is True else value for name, value in options.items()
    }
    assert gang(by_hand(variables)) == expect


def test_the_command_line_says_where_node_0_is_whatever_variables_say() -> None:
    variables = {"PET_RDZV_ENDPOINT": "other:1", "PET_RDZV_BACKEND": "static"}
    assert gang(by_hand(variables, **TWO)) == ("2", 0, "head", 29500)


def test_numbers_are_not_dealt_out_where_the_orchestrator_gives_them_with_node_0() -> None:
    assert gang(ask(GOLDEN["lws"], rdzv_backend="c10d"))[1] == 3
    assert gang(ask(GOLDEN["lws"], rdzv_backend="c10d", master_addr="x"))[1] is None


def test_a_number_that_does_not_count_is_said_to() -> None:
    job = by_hand(**TWO, rdzv_backend="c10d", node_rank="1").job
    assert job.gang.node_rank is None
    assert job.messages == (
        "--node-rank 1 does not count: with --rdzv-backend c10d, as with torchrun, numbers of "
        "nodes are dealt out",
    )


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"node_rank": "1"}, ["node rank 1 (--node-rank)", "1 node (default)", "--nnodes"]),
        ({"nnodes": "1", "node_rank": "1"}, ["node rank 1 (--node-rank)", "1 node (--nnodes)"]),
        ({**TWO, "node_rank": "2"}, ["node rank 2 (--node-rank)", "2 nodes (--nnodes)", "0 to 1"]),
        ({"nnodes": "2"}, ["2 nodes (--nnodes)", "not where node 0 is", "--master-addr"]),
        ({**TWO, "standalone": True}, ["--standalone", "--nnodes 2", "leave out one"]),
        ({"rdzv_backend": "etcd"}, ["--rdzv-backend etcd", "--rdzv-endpoint"]),
        ({"module": True, "no_python": True}, ["--module and --no-python", "leave out one"]),
        ({"script": "gone.py"}, ["script 'gone.py' was not found", str(Path.cwd())]),
        ({"script": "a\0b"}, [r"script 'a\x00b'"]),
        ({"script": "/"}, ["script '/' is not a file"]),
        ({"script": "no-such-program", "no_python": True}, ["program 'no-such-program'"]),
        ({"no_python": True}, ["may not be executed"]),
    ],
)
def test_what_contradicts_itself_is_refused_with_64(
    options: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(RefusalError) as caught:
        by_hand(**options)
    assert caught.value.exit_code == 64
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_what_nobody_says_is_asked_for_once() -> None:
    with pytest.raises(RefusalError) as caught:
        ask({}, nnodes="2")
    assert str(caught.value) == (
        "it is known that there are 2 nodes (--nnodes), but not where node 0 is: nothing here "
        "tells; give --master-addr HOST, or --nnodes 1 for a job of one node"
    )


def test_a_variable_that_the_command_line_overrules_contradicts_nothing() -> None:
    variables = {"PET_NNODES": "4", "PET_NODE_RANK": "3", "PET_MASTER_ADDR": "x"}
    assert gang(by_hand(variables, standalone=True)) == ("1", 0, "", 0)
    assert gang(by_hand(variables, nnodes="1")) == ("1", 0, "", 0)
    assert gang(by_hand({"PET_STANDALONE": "1"}, **TWO)) == ("2", 0, "head", 29500)
    with pytest.raises(RefusalError, match="PET_STANDALONE"):
        by_hand({**variables, "PET_STANDALONE": "1"})
    with pytest.raises(RefusalError, match=r"PET_NODE_RANK"):
        by_hand({"PET_NODE_RANK": "3"})


def test_several_nodes_need_a_secret() -> None:
    for variables in ({}, {"RDMATRAIN_SECRET": ""}):
        with pytest.raises(RefusalError, match=r"2 nodes need a secret.*--insecure") as caught:
            resolve({"script": SCRIPT, **TWO}, variables, None)
        assert caught.value.exit_code == 64
    job = resolve({"script": SCRIPT, **TWO, "insecure": True}, {}, None).job
    assert (job.insecure, job.secret) == (True, b"")
    assert resolve({"script": SCRIPT}, {}, None).job.secret == b""
    assert by_hand({"RDMATRAIN_INSECURE": "1"}, **TWO).job.insecure is True


def test_tasks_on_one_host_need_none(tmp_path: Path) -> None:
    env = {**GOLDEN["mpirun_one_host"]["env"], "TMPDIR": str(tmp_path), "RDMATRAIN_SECRET": ""}
    secrets = {ask({"env": env}).job.secret for _ in range(2)}
    assert [len(secret) for secret in secrets] == [64]  # 32 bytes as text
    # Tasks on several hosts do.
    other = {**GOLDEN["srun"]["env"], "TMPDIR": str(tmp_path), "RDMATRAIN_SECRET": ""}
    with pytest.raises(RefusalError, match="20 nodes need a secret"):
        ask({"env": other})


def test_a_secret_is_read_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"a secret of a file\n")
    path.chmod(0o600)
    resolved = by_hand({}, **TWO, secret_file=str(path))
    assert resolved.job.secret == b"a secret of a file"
    assert source(resolved, "secret") == "--secret-file"
    assert "a secret of" not in repr(resolved)
    assert by_hand(**TWO).job.secret == SECRET["RDMATRAIN_SECRET"].encode()


# Limits, output and settings


def test_limits() -> None:
    limits = by_hand().job.limits
    assert limits == Limits()
    one = by_hand(shutdown_timeout="40").job.limits
    assert (one.shutdown_s, one.grace_s) == (40.0, 40.0)
    both = by_hand(shutdown_timeout="40", grace="50", hang_timeout="0", max_restarts="3").job.limits
    assert (both.shutdown_s, both.grace_s, both.hang_s, both.max_restarts) == (40, 50, 0, 3)
    inherited = by_hand({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7", "RDMATRAIN_GRACE": "8"}).job.limits
    assert (inherited.shutdown_s, inherited.grace_s) == (7, 8)
    with pytest.raises(SettingError, match="TORCH_ELASTIC_SHUTDOWN_TIMEOUT=soon"):
        by_hand({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "soon"})


@pytest.mark.parametrize(
    ("options", "join_s", "last_call_s", "lost_s"),
    [
        ({}, Gang.join_s, Gang.last_call_s, Gang.lost_s),
        ({"join_timeout": "5"}, 5, Gang.last_call_s, Gang.lost_s),
        ({"rdzv_conf": "timeout=7"}, 7, Gang.last_call_s, Gang.lost_s),
        ({"rdzv_conf": "timeout=7,join_timeout=6,last_call_timeout=2"}, 6, 2, Gang.lost_s),
        ({"rdzv_conf": "join_timeout=6", "join_timeout": "5"}, 5, Gang.last_call_s, Gang.lost_s),
        ({"rdzv_conf": "keep_alive_interval=2"}, Gang.join_s, Gang.last_call_s, 6),
        (
            {"rdzv_conf": "keep_alive_max_attempt=4,keep_alive_interval=1"},
            Gang.join_s, Gang.last_call_s, 4,
        ),
    ],
)  # fmt: skip
def test_how_long_a_gang_waits(
    options: dict[str, str], join_s: float, last_call_s: float, lost_s: float
) -> None:
    found = by_hand(**options).job.gang
    assert (found.join_s, found.last_call_s, found.lost_s) == (join_s, last_call_s, lost_s)


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ("join_timout=5", "did you mean join_timeout?"),
        ("bogus=1", "known are join_timeout"),
        ("join_timeout=soon", "join_timeout=soon is not allowed: give a number of seconds"),
        ("keep_alive_interval=0", "not allowed to be 0"),
    ],
)
def test_a_wrong_conf_is_refused(conf: str, words: str) -> None:
    with pytest.raises(SettingError) as caught:
        by_hand(rdzv_conf=conf)
    assert words in str(caught.value) and "--rdzv-conf" in str(caught.value)
    assert not isinstance(caught.value, RefusalError)


def test_what_makes_no_sense_here_is_accepted_and_said_once() -> None:
    options = {
        "monitor_interval": "1", "start_method": "fork", "event_log_handler": "x",
        "logs_specs": "y", "exit_barrier_timeout": "9", "rdzv_conf": "read_timeout=5,is_host=1",
    }  # fmt: skip
    messages = by_hand(**options).job.messages
    for name in options:
        (line,) = (each for each in messages if f"--{name.replace('_', '-')}" in each)
        assert "not used: " in line
    assert len(messages) == len(options)


def test_output() -> None:
    options = {
        "log_dir": "/l", "redirects": "3", "tee": "0:1", "local_ranks_filter": "1", "only": "8-9",
        "duplicate_stderr_filters": "a,b", "log_line_prefix_template": "${hostname}:${rank} ",
    }  # fmt: skip
    environ = {
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "x", "NO_COLOR": "", "RDMATRAIN_GREP": "loss",
    }  # fmt: skip
    output = by_hand(environ, **options).job.output
    assert (output.log_dir, output.redirects, output.tee) == ("/l", "3", "0:1")
    assert (output.only_local, output.only, output.grep) == ((1,), (8, 9), "loss")
    assert (output.template, output.stderr_filters) == ("${host}:${rank} ", ("a", "b"))
    assert output.color is True
    plain = by_hand({"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "x", "NO_COLOR": "1"}).job.output
    assert (plain.template, plain.color) == ("x", False)


def test_settings_of_the_workers_are_checked() -> None:
    assert by_hand(transport="tcp", require="tcp").job.settings == {
        "transport": "tcp",
        "require": "tcp",
    }
    assert by_hand({"RDMATRAIN_TRANSPORT": "tcp"}).job.settings == {}
    assert source(by_hand({"RDMATRAIN_REQUIRE": "tcp"}), "require") == "RDMATRAIN_REQUIRE"
    for options, words in (
        ({"transport": "ib"}, "--transport='ib'"),
        ({"require": "auto"}, "--require='auto'"),
        ({"transport": "tcp", "require": "verbs"}, "contradict each other"),
    ):
        with pytest.raises(SettingError, match=words):
            by_hand(**options)
    with pytest.raises(SettingError, match="RDMATRAIN_TRANSPORT='ib'"):
        by_hand({"RDMATRAIN_TRANSPORT": "ib"})


@pytest.mark.parametrize(
    ("options", "port", "refused"),
    [
        ({**TWO, "require": "verbs"}, 0, True),
        ({"transport": "verbs"}, 0, True),
        ({**TWO, "require": "verbs"}, 1, False),
        ({"require": "verbs"}, 0, False),  # one host needs none
        ({**TWO, "require": "tcp"}, 0, False),
    ],
)
def test_rdma_that_is_asked_for_has_to_be_there(
    options: dict[str, str], port: int, refused: bool
) -> None:
    nic = GrantedNic(Nic("mlx5_0"), port, None, "", ())
    found = Survey(Machine("test"), allocation=Allocation(nics=(nic,)))
    if not refused:
        resolve({"script": SCRIPT, **options}, SECRET, found)
        return
    with pytest.raises(RefusalError, match="no RDMA port of this node works") as caught:
        resolve({"script": SCRIPT, **options}, SECRET, found)
    assert caught.value.exit_code == 69


def test_programs() -> None:
    assert by_hand(script="pkg.t", module=True).job.program.command()[1:] == ["-u", "-m", "pkg.t"]
    args = ("--x", "", "--")
    command = by_hand(script="true", no_python=True, script_args=args).job.program.command()
    assert command == ["true", *args]
    program = by_hand(run_path=True, no_python=True, module=True, script_args=args).job.program
    assert (program.run_path, program.module, program.no_python) == (True, False, False)
    assert program.command()[-4:] == [SCRIPT, *args]
    assert by_hand({"PYTHON_EXEC": "/p"}).job.program.command() == ["/p", "-u", SCRIPT]


def test_unknown_names_are_all_told() -> None:
    with pytest.raises(SettingError) as caught:
        by_hand({"PET_NNODE": "2", "RDMATRAIN_GRACES": "1", "RDMATRAIN_WATCH": "x"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "did you mean RDMATRAIN_GRACE?" in lines[0]
    assert "did you mean PET_NNODES?" in lines[1]


# Whatever is in the environment


NAMES = sorted(
    {name for golden in GOLDEN.values() for name in golden.get("env", {})}
    | {"PET_STANDALONE", "PET_RDZV_CONF", "PET_TEE", "RDMATRAIN_GRACE", "SLURM_STEP_NUM_TASKS"}
)
TEXTS = ["", "0", "1", "2", "7", "-1", "x", "a:1", "2:4", "8(x2),4", "\udcff", "\x1b[0m", "c10d"]


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 1 << 30))
def test_any_environment_gives_a_job_or_one_reason(seed: int) -> None:
    rng = random.Random(seed)
    base = dict(rng.choice(list(GOLDEN.values())))
    changed = {rng.choice(NAMES): rng.choice(TEXTS) for _ in range(rng.randrange(6))}
    base["env"] = {**base["env"], **changed}
    try:
        job = ask(base).job
    except SettingError as error:
        assert str(error) and getattr(error, "exit_code", 2) in {2, 64, 69}
        return
    found = job.gang
    assert 1 <= found.min_nodes <= found.max_nodes and job.nproc >= 1
    assert found.alone or (found.leader and found.port)
    assert found.node_rank is None or 0 <= found.node_rank < found.max_nodes
    assert job.local_world == 0 or job.first_local + job.nproc <= job.local_world
    assert dataclasses.is_dataclass(job)


def test_a_real_survey_is_understood() -> None:
    found = survey(source_of(GOLDEN["trainer"]))
    resolved = resolve({"script": SCRIPT}, {**SECRET, **GOLDEN["trainer"]["env"]}, found)
    assert gang(resolved) == ("2", 1, "llm-node-0-0.llm", 29500)


def test_certificates_are_asked_for() -> None:
    secret = {"RDMATRAIN_SECRET": "sixteen bytes at least"}
    assert by_hand(secret, **TWO).job.tls == ""
    resolved = by_hand({**secret, "RDMATRAIN_TLS_DIR": "/tls"}, **TWO)
    assert resolved.job.tls == "/tls"
    assert source(resolved, "tls_dir") == "RDMATRAIN_TLS_DIR"
