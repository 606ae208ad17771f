# SPDX-License-Identifier: Apache-2.0
"""LeaderWorkerSet, MPIJob, and a script for sbatch that is run beside a pretended Slurm."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import k8s_schemas
import pytest
from pod_scenarios import write

from rdmatrain.cli import run
from rdmatrain.discovery.survey import survey
from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.invariants import broken
from rdmatrain.k8s.render import render
from rdmatrain.k8s.spec import TCP, Checkpoint, JobSecret, Network, Spec, Topology
from rdmatrain.k8s.targets.slurm_script import pyxis_image, script
from rdmatrain.launcher.exit_codes import MEANING, may_be_retried
from rdmatrain.launcher.resolve import resolve

SPEC = Spec(
    name="llm",
    namespace="train",
    image="registry.example/team/train:1",
    command=("rdmatrain", "run", "train.py", "--text", "two words"),
    nodes=3,
    gpus=8,
    cpus=16,
    network=Network(vfs=8),
    env={"GREETING": "it's $HOME"},
    queue="research",
    max_restarts=2,
    topology=Topology("example.com/rack"),
)


def objects(target, **changes):
    return render(replace(SPEC, **changes), target, Cluster()).objects


def workload(target, **changes):
    return objects(target, **changes)[-1]


@k8s_schemas.needs_crds
@pytest.mark.parametrize("name", ["lws", "mpijob"])
@pytest.mark.parametrize("nodes", [1, 2, 300])
def test_objects_are_valid_and_sound(name, nodes):
    found = objects(name, nodes=nodes)
    assert [error for each in found for error in k8s_schemas.errors(each)] == []
    assert broken(found) == []


def test_a_leader_worker_set_is_one_group_of_all_nodes():
    spec = workload("lws")["spec"]
    group = spec["leaderWorkerTemplate"]
    assert (spec["replicas"], group["size"]) == (1, 3)
    assert group["restartPolicy"] == "RecreateGroupOnPodRestart"
    # The leader is made of the same template.
    assert "leaderTemplate" not in group
    assert group["workerTemplate"]["spec"]["restartPolicy"] == "Always"
    labels = workload("lws")["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "research"
    assert "kueue.x-k8s.io/queue-name" not in workload("lws", queue="")["metadata"]["labels"]


def test_an_mpijob_has_one_pod_for_each_node_and_the_gang_counts_all():
    spec = workload("mpijob")["spec"]
    replicas = spec["mpiReplicaSpecs"]
    assert spec["runLauncherAsWorker"] is True
    assert sum(each["replicas"] for each in replicas.values()) == 3
    assert spec["runPolicy"]["schedulingPolicy"] == {"minAvailable": 3, "queue": "research"}
    # Were it to wait for the workers, and they for the gang, none would ever start.
    assert spec["launcherCreationPolicy"] == "AtStartup"
    assert replicas["Launcher"]["template"] == replicas["Worker"]["template"]
    assert replicas["Launcher"]["template"] is not replicas["Worker"]["template"]
    command = replicas["Worker"]["template"]["spec"]["containers"][0]["command"]
    at = command.index("--master-addr")
    assert command[at + 1] == "llm-launcher.llm.train.svc"
    assert command[command.index("--nnodes") + 1] == "3"
    assert list(workload("mpijob", nodes=1)["spec"]["mpiReplicaSpecs"]) == ["Launcher"]


def test_the_queue_that_an_mpijob_names_is_made():
    found = render(SPEC, "mpijob", Cluster(), with_cluster=True).objects
    (queue,) = [each for each in found if each["kind"] == "Queue"]
    named = workload("mpijob")["spec"]["runPolicy"]["schedulingPolicy"]["queue"]
    assert queue["metadata"]["name"] == named
    assert queue["spec"]["capability"]["nvidia.com/gpu"] == 24


@pytest.mark.parametrize(
    ("target", "length", "nodes"),
    # Of a StatefulSet's label with its hash; of a pod of the launcher's Job; of the last worker.
    [("lws", 50, 2), ("mpijob", 48, 2), ("mpijob", 48, 100)],
)
def test_names_at_their_limit_are_taken_and_longer_ones_refused(target, length, nodes):
    assert workload(target, name="a" * length, nodes=nodes)
    with pytest.raises(SettingError, match=r"^name: a+ .* shorten it by 1$"):
        workload(target, name="a" * (length + 1), nodes=nodes)


@pytest.mark.parametrize("name", ["lws", "mpijob", "jobset", "kueue", "pytorchjob", "slurm"])
def test_a_tier_without_a_label_is_refused(name):
    with pytest.raises(SettingError, match=r"^topology\.tier: 2 .* give topology\.label"):
        workload(name, topology=Topology(tier=2))


def test_the_first_tier_is_one_switch_for_slurm():
    assert "#SBATCH --switches=1\n" in script(replace(SPEC, topology=Topology(tier=1)))
    assert not objects("slurm", topology=Topology(tier=1))


@pytest.mark.parametrize(
    ("image", "named"),
    [
        ("registry.example/team/train:1", "registry.example#team/train:1"),
        ("localhost:5000/train", "localhost:5000#train"),
        ("team/train:1", "team/train:1"),
        ("train", "train"),
    ],
)
def test_an_image_is_named_as_pyxis_does(image, named):
    assert pyxis_image(image) == named


def directives(text):
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line]
    return dict(line.partition("=")[::2] for line in lines)


def test_the_script_asks_for_what_the_spec_says():
    text = script(replace(SPEC, priority="high", memory_bytes=(1 << 30) + 1, shm_bytes=1 << 28))
    assert directives(text) == {
        "job-name": "llm",
        "nodes": "3",
        "ntasks-per-node": "1",
        "cpus-per-task": "16",
        "mem": "1025M",
        "gpus-per-node": "8",
        "partition": "research",
        "qos": "high",
        "switches": "1",
        "signal": "B:USR1@150",
        "open-mode": "append",
        "output": "%x-%j.out",
        "exclusive": "",
        "requeue": "",
    }
    plain = directives(script(replace(SPEC, queue="", gpus=0, topology=Topology())))
    assert {"partition", "qos", "gpus-per-node", "switches"} & {*plain} == set()
    soft = replace(SPEC, topology=Topology("example.com/rack", required=False))
    assert directives(script(soft))["switches"] == "1@00:10:00"


def shellcheck():
    beside = str(Path(sys.executable).parent)
    return shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"checkpoint": Checkpoint("ckpt", "/data dir")},
        {"secret": JobSecret(create=True), "preflight": False},
        {"nodes": 1, "network": Network(devices=TCP), "env": {}},
    ],
)
def test_shellcheck_finds_nothing(changes):
    program = shellcheck()
    if not program:
        pytest.skip("shellcheck is not installed")
    text = script(replace(SPEC, **changes))
    command = [program, "--severity=warning", "-"]  # quotes keep a $ on purpose
    result = subprocess.run(command, check=False, input=text, capture_output=True, text=True)
    assert result.stdout == ""


class Slurm:
    """Programs that stand for Slurm's, and what they were asked."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        # A task that ends by SIGTERM as the launcher does.
        self.program(
            "srun",
            'printf "%s\\n" "$@" >"$LOG/srun.new"; env >"$LOG/env"; echo $$ >"$LOG/pid"; '
            'mv "$LOG/srun.new" "$LOG/srun"; trap "exit ${AFTER:-143}" TERM; '
            'if [ -n "${LONG:-}" ]; then sleep 30 >/dev/null 2>&1 & wait; fi; exit "$CODE"',
        )
        self.program("scontrol", 'echo "$@" >>"$LOG/scontrol"')
        self.program("scancel", 'echo "$@" >>"$LOG/scancel"; kill -TERM "$(cat "$LOG/pid")"')

    def program(self, name, text):
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def start(self, spec, code=0, without="", **variables):
        home = self.folder / "home"
        (home / ".rdmatrain").mkdir(parents=True, exist_ok=True)
        (home / ".rdmatrain/llm-secret").write_text("a secret of some length\n")
        environ = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(home),
            "LOG": str(self.folder),
            "CODE": str(code),
            "SLURM_JOB_ID": "1234567",
            "SLURM_CLUSTER_NAME": "east",
            "SLURM_CPUS_PER_TASK": str(spec.cpus),
            **variables,
        }
        environ.pop(without, None)
        path = self.folder / "job.sbatch"
        path.write_text(script(spec))
        return subprocess.Popen(
            ["bash", str(path)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, spec, code=0, **variables):
        process = self.start(spec, code, **variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output.decode()

    def asked(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def variables(self):
        return dict(line.partition("=")[::2] for line in self.asked("env"))


@pytest.fixture
def slurm(tmp_path):
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    return Slurm(tmp_path)


def test_srun_starts_one_launcher_on_each_node(slurm):
    assert slurm.run(SPEC) == (0, "")
    words = slurm.asked("srun")
    # srun does not take it from sbatch since Slurm 22.05, and would give the launcher one CPU.
    assert words[:2] == ["--ntasks-per-node=1", f"--cpus-per-task={SPEC.cpus}"]
    assert words[2:4] == ["--kill-on-bad-exit=0", "--wait=0"]
    assert words[4] == "--container-image=registry.example#team/train:1"
    home = slurm.folder / "home/.rdmatrain"
    assert words[5] == f"--container-mounts={home}:{home}"
    assert words[6:] == [
        "rdmatrain", "run", "--nproc-per-node", "8", "--max-restarts", "2", "--metrics-port",
        "9400", "--preflight", "train.py", "--text", "two words",
    ]  # fmt: skip
    variables = slurm.variables()
    assert variables["GREETING"] == "it's $HOME"
    assert variables["RDMATRAIN_GRACE"] == "120"
    assert variables["RDMATRAIN_JOIN_TIMEOUT"] == "600"
    assert variables["RDMATRAIN_REQUIRE"] == "verbs"
    assert variables["RDMATRAIN_SECRET_FILE"] == f"{home}/llm-secret"
    assert variables["MASTER_PORT"] == "24567"
    assert slurm.asked("scontrol") == []


def test_a_checkpoints_folder_is_mounted_and_tcp_demands_nothing(slurm):
    spec = replace(SPEC, checkpoint=Checkpoint("ckpt", "/data"), network=Network(devices=TCP))
    assert slurm.run(spec)[0] == 0
    assert slurm.asked("srun")[5].endswith("/.rdmatrain,/data:/data")
    assert slurm.run(replace(spec, volumes={"/mnt/text": "x"}))[0] == 0
    assert slurm.asked("srun")[5].endswith("/.rdmatrain,/data:/data,/mnt/text:/mnt/text")
    assert "RDMATRAIN_REQUIRE" not in slurm.variables()


@pytest.mark.parametrize(
    ("resource", "network", "visible"),
    [
        ("nvidia.com/gpu", Network(devices=TCP), {"NVIDIA_VISIBLE_DEVICES": "all"}),
        ("nvidia.com/mig-1g.10gb", Network(devices=TCP), {"NVIDIA_VISIBLE_DEVICES": "all"}),
        ("amd.com/gpu", Network(vfs=8), {"MELLANOX_VISIBLE_DEVICES": "all"}),
        ("amd.com/gpu", Network(devices=TCP), {}),
    ],
)
def test_the_hooks_of_enroot_mount_the_jobs_devices(slurm, resource, network, visible):
    """They mount nothing where these are not set, as in an image that sets none."""
    spec = replace(SPEC, gpu_resource=resource, network=network)
    assert slurm.run(spec)[0] == 0
    found = slurm.variables()
    assert {name: found[name] for name in found if name.endswith("_VISIBLE_DEVICES")} == visible
    by_driver = {"compute", "utility"} if "NVIDIA_VISIBLE_DEVICES" in visible else {""}
    assert {*found.get("NVIDIA_DRIVER_CAPABILITIES", "").split(",")} == by_driver


def test_a_digest_is_refused_where_enroot_imports_the_image():
    image = f"registry.example/team/train@sha256:{'0' * 64}"
    with pytest.raises(SettingError, match=r"^image: registry.example.* has a digest"):
        render(replace(SPEC, image=image), "slurm", Cluster())


# A worker's own codes, those of signals, and one that says nothing.
@pytest.mark.parametrize("code", sorted({*MEANING, 3, 130, 134, 255} - {0}))
def test_a_fault_that_may_pass_is_tried_again_and_no_other(slurm, code):
    assert slurm.run(SPEC, code)[0] == code
    retried = (code in MEANING and may_be_retried(code) and code != 143) or code == 134
    assert slurm.asked("scontrol") == (["requeue 1234567"] if retried else [])


FAULTS = "home/.rdmatrain/east-1234567.faults"


def counted(slurm):
    """Faults of the job that the script knows of."""
    return slurm.asked(FAULTS)


def test_restarts_after_faults_have_a_limit_of_their_own(slurm):
    # Starts that Slurm counts may have had other reasons: the time, a node, preemption.
    for fault, start in enumerate((7, 8, 9)):
        assert slurm.run(SPEC, 201, SLURM_RESTART_COUNT=str(start))[0] == 201
        assert slurm.asked("scontrol") == ["requeue 1234567"] * min(fault + 1, SPEC.max_restarts)
    assert counted(slurm) == [], "the job has ended, and leaves nothing"


def test_faults_stay_counted_where_slurm_itself_starts_the_job_again(slurm):
    slurm.run(SPEC, 204)
    slurm.run(SPEC, 143, SLURM_RESTART_COUNT="1")
    assert counted(slurm) == ["204"]
    slurm.run(SPEC, SLURM_RESTART_COUNT="2")
    assert counted(slurm) == []


def test_without_a_place_to_count_faults_nothing_starts_again(slurm):
    spec = replace(SPEC, nodes=1, network=Network(devices=TCP))
    nowhere = slurm.folder / "file"
    nowhere.write_text("")
    code, output = slurm.run(spec, 201, HOME=str(nowhere))
    assert (code, slurm.asked("scontrol")) == (201, [])
    assert f"faults cannot be counted in {nowhere}/.rdmatrain/east-1234567.faults: " in output


def test_faults_of_another_job_of_that_number_do_not_count(slurm):
    slurm.run(SPEC)
    (slurm.folder / FAULTS).write_text("201\n" * 9)
    slurm.run(SPEC, 202)
    assert counted(slurm) == ["202"]
    assert slurm.asked("scontrol") == ["requeue 1234567"]


def test_a_job_starts_no_more_than_a_thousand_times_whatever_was_counted(slurm):
    assert slurm.run(SPEC, 201, SLURM_RESTART_COUNT="1000")[0] == 201
    assert slurm.asked("scontrol") == []


def test_a_job_ends_with_its_own_code_where_slurm_does_not_start_it_again(slurm):
    slurm.program("scontrol", "echo no >&2; exit 1")
    assert slurm.run(SPEC, 201) == (201, "no\n")
    assert counted(slurm) == []


def test_a_job_that_needs_no_home_ends_well_without_one(slurm):
    spec = replace(SPEC, nodes=1, network=Network(devices=TCP))
    assert slurm.run(spec, without="HOME") == (0, "")


def signalled(slurm, number, **variables):
    process = slurm.start(SPEC, 0, LONG="1", **variables)
    deadline = time.monotonic() + 30
    while not slurm.asked("srun"):
        assert time.monotonic() < deadline, "srun was not started"
        time.sleep(0.02)
    # srun's trap and the script's are set a moment after.
    time.sleep(0.5)
    process.send_signal(number)
    if number == signal.SIGTERM:
        os.kill(int(slurm.asked("pid")[0]), signal.SIGTERM)  # as Slurm does to all steps
    process.communicate(timeout=60)
    return process.returncode


def test_the_end_of_its_time_stops_the_launchers_and_goes_on_later(slurm):
    # More often than after a fault: the last restart has saved.
    assert signalled(slurm, signal.SIGUSR1, SLURM_RESTART_COUNT="9") == 143
    assert slurm.asked("scancel") == ["--signal=TERM 1234567"]
    assert slurm.asked("scontrol") == ["requeue 1234567"]


@pytest.mark.parametrize(
    ("code", "count", "again"),
    [(64, 0, False), (78, 0, False), (3, 0, False), (201, 9, True), (143, 1000, False)],
)  # fmt: skip
def test_what_would_fail_again_is_no_matter_of_time(slurm, code, count, again):
    variables = {"AFTER": str(code), "SLURM_RESTART_COUNT": str(count)}
    assert signalled(slurm, signal.SIGUSR1, **variables) == code
    assert slurm.asked("scancel") == ["--signal=TERM 1234567"]
    assert slurm.asked("scontrol") == ["requeue 1234567"] * again


def test_a_job_that_ends_well_at_its_time_is_done(slurm):
    assert signalled(slurm, signal.SIGUSR1, AFTER="0") == 0
    assert slurm.asked("scontrol") == []


def test_a_job_that_somebody_cancels_is_not_started_again(slurm):
    assert signalled(slurm, signal.SIGTERM) == 143
    assert slurm.asked("scancel") == []
    assert slurm.asked("scontrol") == []


def test_a_secret_is_to_be_there_or_made_for_its_owner_alone(slurm):
    missing = replace(SPEC, secret=JobSecret("other"))
    code, output = slurm.run(missing)
    assert code == 64
    assert "head -c 32 /dev/urandom" in output
    assert slurm.asked("srun") == []
    made = replace(SPEC, secret=JobSecret("other", create=True))
    assert slurm.run(made) == (0, "")
    path = slurm.folder / "home/.rdmatrain/other"
    text = path.read_text()
    assert len(text) > 40
    assert path.stat().st_mode & 0o077 == 0
    assert slurm.run(made)[0] == 0
    assert path.read_text() == text


def test_every_task_finds_its_place_by_what_slurm_says(slurm, tmp_path):
    command = ("rdmatrain", "run", "-m", "json.tool")
    spec = replace(SPEC, command=command, gpus=0, workers=8, network=Network(devices=TCP))
    assert slurm.run(spec)[0] == 0
    words = slurm.asked("srun")
    given = run.make_context("run", words[words.index("run") + 1 :]).params
    for rank in range(3):
        own = {
            **slurm.variables(),
            "SLURM_JOB_NODELIST": "gpu[07-09]",
            "SLURM_STEP_NODELIST": "gpu[07-09]",
            "SLURM_STEP_ID": "0",
            "SLURM_NNODES": "3",
            "SLURM_STEP_NUM_NODES": "3",
            "SLURM_NTASKS": "3",
            "SLURM_STEP_NUM_TASKS": "3",
            "SLURM_STEP_TASKS_PER_NODE": "1(x3)",
            "SLURM_NODEID": str(rank),
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": "0",
            "SLURM_RESTART_COUNT": "4",
        }
        scenario = {"environment": own, "files": {"/etc/hostname": f"gpu0{7 + rank}\n"}}
        found = survey(write(scenario, tmp_path / f"node{rank}"))
        job = resolve(given, own, found).job
        assert found.identity.orchestrator == "srun"
        gang = job.gang
        assert (gang.min_nodes, gang.max_nodes, gang.node_rank, gang.epoch) == (3, 3, rank, 4)
        assert (gang.leader, gang.port) == ("gpu07", 24567)
        assert job.nproc == 8
        assert (job.limits.max_restarts, job.limits.grace_s) == (2, 120)
        assert job.secret
