"""Whether a pod of a manifest learns its number, how many there are, and who is first."""

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.commands import option_changed
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import fail, fine, patch, unseen
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import TRAIN_JOB, Pod
from rdmatrain.doctor.model import Finding

# Workloads that tell a pod neither how many there are nor where the first is.
_SILENT = frozenset(["Job", "CronJob", "JobSet", "StatefulSet", "Deployment", "ReplicaSet"])
NAMELESS = frozenset(["Deployment", "ReplicaSet", "DaemonSet"])


def container_names(pod: Pod) -> list[str]:
    """Return the names of a pod's containers."""
    return [each.node.get("name").text for each in pod.containers]


def identified(pod: Pod) -> Finding:
    """Say how a pod of several learns its place."""
    if pod.volcano:
        return _of_volcano(pod)
    if pod.kind == "PyTorchJob":
        return _of_pytorchjob(pod)
    if pod.kind in {TRAIN_JOB, "LeaderWorkerSet", "MPIJob"}:
        return fine(pod.template, f"{pod.siblings} pods, numbered by the {pod.kind}")
    if pod.kind in NAMELESS and not any(map(_dealt, pod.trainers)):
        text = f"{pod.siblings} pods of a {pod.kind}, which has no numbers for them"
        return fail(pod.document.get("kind"), text, "kind: StatefulSet, or a Job that is Indexed")
    job = pod.template.parent or pod.document
    mode = job.get("completionMode")
    if pod.kind in {"Job", "CronJob"} and mode.text != "Indexed":
        text = f"{pod.siblings} pods without numbers: completionMode is not Indexed"
        change = f"{{completionMode: Indexed, completions: {pod.siblings}}}"
        return fail(job, text, patch(job, change))
    return _counted(pod) if pod.kind in _SILENT else unseen(pod.template, "of an unknown kind")


def _dealt(box: Container) -> bool:
    """Tell whether a variable, an option or the rendezvous numbers this pod."""
    options = [box.option(name) for name in ("rdzv-endpoint", "node-rank")]
    names = ("PET_RDZV_ENDPOINT", "PET_NODE_RANK")
    return any(options) or any(box.variable(name) for name in names)


def _counted(pod: Pod) -> Finding:
    """Judge pods that their workload does not tell how many they are."""
    found = (_told(pod, each) for each in pod.trainers if each.launches)
    nothing = unseen(pod.template, "what runs in it is not rdmatrain run, or not to be seen")
    return next((each for each in found if each is not None), nothing)


def _told(pod: Pod, box: Container) -> Finding | None:
    """Judge what tells a container how many pods there are; None where that is not to be seen."""
    variable = box.variable("PET_NNODES")
    said = box.option("nnodes") or box.value("PET_NNODES")
    if variable is not None and variable.value is None and not said:
        return unseen(variable.node, "PET_NNODES is not in the manifest")
    if said.isdecimal() and len(said) < 10 and int(said) != pod.siblings:
        return _other_number(pod, box, int(said))
    if said:
        return _ranked(pod, box, shown(said, 20))
    if box.hidden_variables:
        return None
    text = f"{pod.siblings} pods, and nothing says so: each would train alone"
    return fail(box.node, text, _nnodes(pod, box))


def _other_number(pod: Pod, box: Container, nodes: int) -> Finding:
    """Judge pods that are told of another number than they are at the same time."""
    job = pod.template.parent or pod.document
    if job.get("completions").number == nodes and job.get("parallelism").number == pod.siblings:
        return unseen(box.node, f"{nodes} nodes, and as many pods in the end: see gang-parallel")
    text = f"{pod.siblings} pods, and {nodes} nodes are waited for"
    return fail(box.node, text, _nnodes(pod, box))


def _ranked(pod: Pod, box: Container, nodes: str) -> Finding:
    """Judge pods that know how many they are, by whether each has a number of its own."""
    replicated = pod.document.get("spec", "replicatedJobs").items()
    counts = [each.get("replicas") for each in replicated]
    jobs = sum(each.number or 0 if each.there else 1 for each in counts)
    if _dealt(box) or box.hidden_variables:
        return fine(box.node, f"{pod.siblings} pods, {nodes} nodes, numbered by hand")
    if pod.kind == "StatefulSet":
        field = "metadata.labels['apps.kubernetes.io/pod-index']"
        change = f'valueFrom: {{fieldRef: {{fieldPath: "{field}"}}}}'
        text = "no PET_NODE_RANK, and a StatefulSet's pods are numbered by a label alone"
        return fail(
            box.node, text, patch(box.node, f"{{env: [{{name: PET_NODE_RANK, {change}}}]}}")
        )
    if jobs > 1 and not _annotations(pod):
        text = f"pods of each of {jobs} jobs are numbered from 0, and no volume has annotations"
        item = "{path: annotations, fieldRef: {fieldPath: metadata.annotations}}"
        mounts = "volumeMounts: [{name: podinfo, mountPath: /etc/podinfo}]"
        name = shown(box.node.get("name").text, 63)
        volume = f"{{name: podinfo, downwardAPI: {{items: [{item}]}}}}"
        change = f"{{volumes: [{volume}], containers: [{{name: {name}, {mounts}}}]}}"
        return fail(box.node, text, patch(pod.spec, change))
    return fine(box.node, f"{pod.siblings} pods, {nodes} nodes")


def _annotations(pod: Pod) -> bool:
    """Tell whether a volume shows the pod its annotations."""
    fields = (
        item.get("fieldRef", "fieldPath").text
        for volume in pod.volumes.values()
        for item in volume.get("downwardAPI", "items").items()
    )
    return any(each.startswith("metadata.annotations") for each in fields)


def _nnodes(pod: Pod, box: Container) -> str:
    if box.option("nnodes"):  # which wins over the variable
        return option_changed(box, "nnodes", str(pod.siblings))
    return patch(box.node, f'{{env: [{{name: PET_NNODES, value: "{pod.siblings}"}}]}}')


def plugins_of(pod: Pod) -> Node:
    """Return the plugins of a Volcano Job."""
    return pod.job.get("plugins")


def _of_volcano(pod: Pod) -> Finding:
    plugins = plugins_of(pod)
    names = dict(plugins.entries())
    if "pytorch" in names:
        return _of_plugin_pytorch(pod, plugins)
    if "svc" in names:
        return fine(plugins, "the plugin svc lists the pods")
    launched = any(each.launches and not _dealt(each) for each in pod.trainers)
    if "mpi" in names or "tensorflow" in names or not launched:
        return unseen(plugins, "no plugin svc, which may not be needed")
    text = "no plugin svc: the pods know neither their number nor their names"
    change = '{plugins: {env: [], svc: ["--publish-not-ready-addresses=true"]}}'
    return fail(plugins, text, patch(pod.job, change))


def _of_plugin_pytorch(pod: Pod, plugins: Node) -> Finding:
    tasks = [each.get("name").text for each in pod.job.get("tasks").items()]
    words = plugins.get("pytorch").texts()
    master = next((w.partition("=")[2] for w in words if w.startswith("--master=")), "master")
    if master in tasks:
        return fine(plugins, "the plugin pytorch numbers the pods")
    text = f"no task is called {shown(master, 40)}: the plugin pytorch tells nothing"
    change = f'{{pytorch: ["--master={shown(tasks[0], 40) if tasks else "master"}"]}}'
    return fail(plugins.get("pytorch"), text, patch(plugins, change))


def _of_pytorchjob(pod: Pod) -> Finding:
    spec = pod.document.get("spec")
    replicas = spec.get("pytorchReplicaSpecs")
    if replicas.get("Master").there:
        return fine(replicas, f"{pod.siblings} pods, numbered behind the Master")
    if spec.get("elasticPolicy").there:
        return fine(spec.get("elasticPolicy"), "an elastic job's rendezvous deals out numbers")
    text = "neither Master nor elasticPolicy: no pod is told its number or who is first"
    replicas_range = f"minReplicas: {pod.siblings}, maxReplicas: {pod.siblings}"
    change = f"{{elasticPolicy: {{rdzvBackend: c10d, {replicas_range}}}}}"
    return fail(replicas, text, patch(spec, change))
