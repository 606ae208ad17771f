"""A script for sbatch: one launcher on each node, started by srun."""

from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import has_secret
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Part
from rdmatrain.k8s.spec import TCP, Spec
from rdmatrain.k8s.targets import slurm_script as script
from rdmatrain.k8s.targets.placing import refuse_tier
from rdmatrain.k8s.targets.target import Target


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the script, as a text: there is no object of Kubernetes.

    Raises:
        SettingError: it has a tier of more than one switch, and no label; a digest of an image; a
            path with a comma.

    """
    del cluster
    if "@" in spec.image:
        raise SettingError(
            f"image: {shown(spec.image, 80)} has a digest, which Pyxis and enroot do not take: "
            "give a tag"
        )
    for field, path in _paths(spec):
        if "," in path:
            raise SettingError(
                f"{field} is {shown(path, 80)}: Pyxis takes a comma for the end of a mount, give a "
                "path without"
            )
    if not script.switches(spec):
        refuse_tier(spec)
    name = f"{spec.name}.sbatch"
    notes = Notes(name)
    _note_request(spec, notes)
    _note_script(spec, notes)
    _note_absent(spec, notes)
    return Part(notes=notes.all(), texts=((name, script.script(spec)),))


def _paths(spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield what is mounted into the container, each with its field."""
    if spec.checkpoint.claim:
        yield "checkpoint.path", spec.checkpoint.path
    for path in spec.volumes:
        yield "volumes", path


def _note_request(spec: Spec, notes: Notes) -> None:
    notes.add("name", "--job-name", spec.name, "How squeue and the output's file call it.")
    why = "The allocation is the gang: Slurm starts nothing before all nodes are there."
    notes.add("nodes", "--nodes", spec.nodes, why)
    why = "One launcher on each node, which starts the workers there."
    notes.add("workers", "--ntasks-per-node 1, --nproc-per-node", spec.nproc, why)
    why = "Of each node; the whole node is the job's, as its NICs are shared."
    notes.add("gpus", "--gpus-per-node", spec.gpus or "none", why)
    why = "The launcher's task's, which deals them out to its workers; said to srun, too."
    notes.add("cpus", "--cpus-per-task", spec.cpus, why)
    why = "Of a node; what lies in /dev/shm counts."
    notes.add("memory_bytes", "--mem", script.memory(spec), why)
    notes.add("queue", "--partition", spec.queue or "the default", "Slurm's word for a queue.")
    why = "Slurm's word for who goes first."
    notes.add("priority", "--qos", spec.priority or "the default", why)
    switches = script.switches(spec) or "none"
    why = "Labels of nodes are not Slurm's: one switch for all, or after a wait any."
    for field in ("topology.label", "topology.required", "topology.tier"):
        notes.add(field, "--switches", switches, why)


def _note_script(spec: Spec, notes: Notes) -> None:
    why = "Pyxis runs it; empty the list where rdmatrain is installed on the nodes."
    notes.add("image", "srun --container-image", script.pyxis_image(spec.image), why)
    notes.add("command", "srun", list(spec.command), "The same on each node.")
    notes.add("env", "export", sorted(spec.env), "srun passes all variables on.")
    visible = sorted(script.visible(spec))
    why = "By these the hooks of Pyxis' enroot mount devices, and none where they are not set."
    notes.add("", "export", visible or "no *_VISIBLE_DEVICES", why)
    why = (
        "The signal comes so early; the script passes SIGTERM on, and asks for a new start if the "
        "launchers end with 143, having saved."
    )
    notes.add("grace_s", "--signal=B:USR1, RDMATRAIN_GRACE", spec.grace_s, why)
    why = "How long the launchers wait for each other, which srun starts at the same time."
    notes.add("join_timeout_s", "RDMATRAIN_JOIN_TIMEOUT", spec.join_timeout_s, why)
    why = (
        "In place by the launcher; and by the script, so often after faults whose exit codes may "
        "be retried, which it counts in ~/.rdmatrain. That the time was up is no fault."
    )
    notes.add("max_restarts", "--max-restarts, scontrol requeue", spec.max_restarts, why)
    notes.add("", "restart epoch", "SLURM_RESTART_COUNT", "Slurm counts it; the launcher reads it.")
    where = script.secret_file(spec) if has_secret(spec) else "none"
    why = "A file in a folder that all nodes see: it is on no command line, and in no variable."
    notes.add("secret.name", "RDMATRAIN_SECRET_FILE", where, why)
    why = "The script makes it, if it is not there." if spec.secret.create else "It is to be there."
    notes.add("secret.create", "RDMATRAIN_SECRET_FILE", spec.secret.create, why)
    require = "unset" if spec.network.devices == TCP else "verbs"
    why = "A job that was promised RDMA fails rather than train over TCP unnoticed."
    notes.add("network.devices", "RDMATRAIN_REQUIRE", require, why)
    notes.add("preflight", "--preflight", spec.preflight, "Each launcher asks the doctor first.")
    why = "Each launcher serves its node's metrics there."
    notes.add("monitoring.port", "--metrics-port", spec.monitoring.port, why)
    _note_mounts(spec, notes)


def _note_mounts(spec: Spec, notes: Notes) -> None:
    for field in ("checkpoint.path", "volumes"):
        paths = ", ".join(path for name, path in _paths(spec) if name == field)
        why = "The container sees no such folder of the nodes."
        if paths:
            why = f"To be there on all nodes, or the container does not start: {paths}."
        notes.add(field, "--container-mounts", paths or "none", why, urgent=bool(paths))


def _note_absent(spec: Spec, notes: Notes) -> None:
    """Note what means nothing here."""
    why = "Processes are the user's own, in the network of the node, with all of its NICs."
    network = (
        "vfs", "resource", "networks", "link", "mtu", "pfs", "subnet", "device_class", "gpu_class",
        "aligned", "host_network_reason",
    )  # fmt: skip
    for field in ("user", *(f"network.{each}" for each in network)):
        notes.add(field, "", "nothing", why)
    notes.add("network.host_network", "", "the node's", why)
    notes.add("gpu_resource", "", "nothing", "Slurm calls them GPUs, whoever made them.")
    why = "There are no monitors: Prometheus has to be told the nodes and the port."
    for field in ("monitoring.namespace", "monitoring.labels"):
        notes.add(field, "", "nothing", why)
    why = "The nodes' own limit counts: srun passes the user's on, so submit with ulimit -l."
    notes.add("ipc_lock", "", "nothing", why)
    notes.add("shm_bytes", "", "nothing", "The node's /dev/shm is the job's.")
    why = "A folder is there, or is not: Slurm makes no volumes."
    for field in ("checkpoint.claim", "checkpoint.size_bytes", "checkpoint.storage_class"):
        notes.add(field, "", "nothing", why)
    notes.add("namespace", "", "nothing", "Slurm has none.")
    why = "A partition has its nodes, and none of Kubernetes' taints."
    notes.add("tolerations", "", "nothing", why)
    labels = ", ".join(f"{name}={value}" for name, value in spec.node_selector.items())
    why = (
        f"Slurm knows no labels, so the job may be on any node of its partition, not only on those "
        f"with {labels}: say it with a partition, or with --constraint of sbatch."
    )
    if not labels:
        why = "Any node of the partition."
    notes.add("node_selector", "", "nothing", why, urgent=bool(labels))
    pulled = ", ".join(spec.pull_secrets)
    why = "enroot pulls the image as the user does, by ~/.config/enroot/.credentials."
    if pulled:
        why = f"{why[:-1]}: what is in {pulled} is to be there."
    notes.add("pull_secrets", "", "nothing", why, urgent=bool(pulled))


TARGET = Target("slurm", render, has_service=True, alone=True)
