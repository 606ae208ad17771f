"""How the pods of a manifest find each other."""

import json
import re
from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.commands import with_option
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    Patch,
    addition,
    advice,
    fail,
    fine,
    patch,
    question,
    static_question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.identities import (
    NAMELESS,
    container_names,
    identified,
    plugins_of,
)
from rdmatrain.doctor.manifest.nodes import LIST, MAP, Node
from rdmatrain.doctor.manifest.workloads import HOST_REASON, NETWORKS, TRAIN_JOB, Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs

ALONE = "no workload has several pods"
# Where the renderer mounts it.
_SECRET_FILE = "/etc/rdmatrain/secret"
_EPHEMERAL = 32768
_HOST_DNS = "ClusterFirstWithHostNet"
_JOB_NAME = ("job-name", "batch.kubernetes.io/job-name")
AUTOMATIC = (
    "batch.kubernetes.io/", "job-name", "controller-uid", "jobset.sigs.k8s.io/", "volcano.sh/",
    "training.kubeflow.org/", "statefulset.kubernetes.io/", "apps.kubernetes.io/",
    "leaderworkerset.sigs.k8s.io/", "trainer.kubeflow.org/", "pod-template-hash",
)  # fmt: skip


@question(
    "identity",
    "each pod learns its number, how many there are, and who is first",
    nothing=ALONE,
    exit_code=64,
)
def identity(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods that do not know of each other each train alone, and all of them end well."""
    for pod in manifest.training:
        if pod.kind == "PyTorchJob" and "pytorch" not in container_names(pod):
            box = pod.containers[0].node
            text = "a PyTorchJob trains in the container pytorch, and there is none"
            yield fail(box.get("name"), text, patch(box, "{name: pytorch}"))
        elif pod.many:
            yield identified(pod)


@question("hostname", "each pod has a name of its own", nothing=ALONE, exit_code=78)
def hostname(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods with one name for all are one host to DNS, and the leader cannot be found."""
    for pod in manifest.training:
        place = pod.spec.get("hostname")
        if (pod.count or 0) > 1 and place.there:
            text = f"{pod.count} pods are all called {shown(place.text, 60)}"
            yield fail(place, text, patch(pod.spec, "{hostname: null}"))
        elif pod.many and pod.kind in NAMELESS:
            text = f"pods of a {pod.kind} have other names each time"
            yield warn(pod.document.get("kind"), text, "kind: StatefulSet")
        elif pod.many:
            yield fine(pod.template, "named by its workload")


@question(
    "dns-leader",
    "the first pod's name is in DNS before it is ready",
    nothing=ALONE,
    known="pytorch#73682: a name that is not there yet is fatal",
    exit_code=200,
    after="hostname",
)
def dns_leader(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods have names in DNS by a headless Service only, and without more only once ready."""
    for pod in manifest.training:
        if not pod.many or pod.kind in NAMELESS:
            continue
        if pod.host_network and pod.spec.get("dnsPolicy").text != _HOST_DNS:
            text = "hostNetwork without dnsPolicy: names of the cluster are not looked up"
            fix = patch(pod.spec, f"{{dnsPolicy: {_HOST_DNS}}}")
            yield fail(pod.spec.get("hostNetwork"), text, fix)
        elif pod.volcano:
            yield _volcano_service(pod)
        elif pod.kind in {"JobSet", TRAIN_JOB} or pod.document.get("spec", "network").there:
            yield _jobset_service(pod)
        elif pod.kind in {"Job", "CronJob", "StatefulSet"}:
            yield from _own_service(pod)
        else:
            yield unseen(pod.template, f"the controller of the {pod.kind} makes the Service")


def _volcano_service(pod: Pod) -> Finding:
    plugins = plugins_of(pod)
    words = plugins.get("svc").texts()
    if "--publish-not-ready-addresses=true" in words:
        return fine(plugins.get("svc"), "names are published before pods are ready")
    change = '{svc: ["--publish-not-ready-addresses=true"]}'
    if "svc" in dict(plugins.entries()):
        text = "without --publish-not-ready-addresses=true names come once pods are ready"
        return warn(plugins.get("svc"), text, patch(plugins, change))
    if any(name in dict(plugins.entries()) for name in ("pytorch", "mpi", "tensorflow")):
        return unseen(plugins, "Volcano adds the plugin svc by itself")
    text = "no plugin svc: no pod has a name in DNS"
    return fail(plugins, text, patch(pod.job, f"{{plugins: {change}}}"))


def _jobset_service(pod: Pod) -> Finding:
    network = pod.document.get("spec", "network")
    if pod.kind == TRAIN_JOB:
        owner = pod.template.origin
        runtime = next((each for each in pod.manifest.documents if each.origin is owner), None)
        if runtime is None or not pod.whole:
            return unseen(pod.template, "the runtime of the TrainJob is not in the manifest")
        network = runtime.get("spec", "template", "spec", "network")
    names, early = network.get("enableDNSHostnames"), network.get("publishNotReadyAddresses")
    if names.there and not names.true:
        return fail(names, "no pod has a name in DNS", patch(network, "{enableDNSHostnames: true}"))
    if early.there and not early.true:
        fix = patch(network, "{publishNotReadyAddresses: true}")
        return _late(pod, early, "names come once pods are ready", fix)
    return fine(network, "a JobSet names its pods before they are ready")


def _late(pod: Pod, place: Node, text: str, fix: str) -> Finding:
    """Judge names that come once pods are ready: late, or never where a probe has to see them."""
    probed = [
        each for each in pod.containers
        if each.node.get("readinessProbe").there or each.node.get("startupProbe").there
    ]  # fmt: skip
    if probed:
        return fail(place, f"{text}, which a probe decides after the rendezvous", fix)
    return warn(place, text, fix)


def _own_service(pod: Pod) -> Iterator[Finding]:
    stateful = pod.kind == "StatefulSet"
    place = pod.document.get("spec", "serviceName") if stateful else pod.spec.get("subdomain")
    name = place.text
    service = _named_service(pod, name)
    if not name:
        yield from _without_service(pod)
    elif service is None:
        yield unseen(place, f"the Service {shown(name, 60)} is not in the manifest")
    else:
        yield _service(pod, service.get("spec"))


def _named_service(pod: Pod, name: str) -> Node | None:
    services = pod.manifest.of_kind("Service")
    return next((each for each in services if each.get("metadata", "name").text == name), None)


def _without_service(pod: Pod) -> Iterator[Finding]:
    name = shown(pod.name, 60) or "train"
    if pod.kind == "StatefulSet":
        spec = pod.document.get("spec")
        yield fail(spec, "no serviceName", patch(spec, f"{{serviceName: {name}}}"))
    elif any(
        box.variable("MASTER_ADDR") or box.variable("PET_MASTER_ADDR") for box in pod.trainers
    ):
        yield unseen(pod.spec, "the leader is set by a variable")
    else:
        text = "no subdomain: no pod has a name in DNS"
        yield fail(pod.spec, text, patch(pod.spec, f"{{subdomain: {name}}}"))
        if pod.kind == "Job" and pod.name and _named_service(pod, name) is None:
            yield fail(pod.spec, text, _headless(pod))


def _headless(pod: Pod) -> Patch:
    """Return the Service by which pods of a Job have names in DNS, before they are ready."""
    space = pod.document.get("metadata", "namespace").text
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": pod.name, **({"namespace": space} if space else {})},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": pod.name},
        },
    }
    said = f"add the headless Service {shown(pod.name, 63)}"
    return addition(pod.document, json.dumps(service), said)


def _service(pod: Pod, spec: Node) -> Finding:
    if spec.get("clusterIP").text != "None":
        text = "not headless: it has one address, and pods have no names"
        return fail(spec, text, patch(spec, "{clusterIP: None}"))
    labels = dict(pod.template.get("metadata", "labels").entries())
    for key, value in spec.get("selector").entries():
        if pod.kind == "Job" and key in _JOB_NAME and value.text != pod.name:
            text = f"pods of {shown(value.text, 60)}, and this Job is {shown(pod.name, 60)}"
            return fail(value, text, patch(value, shown(pod.name, 60)))
        given = labels[key].text if key in labels else ""
        if given != value.text and not key.startswith(AUTOMATIC):
            text = f"no pod of this template has the label {shown(f'{key}={value.text}', 80)}"
            fix = patch(pod.template, f'{{metadata: {{labels: {{"{key}": "{value.text}"}}}}}}')
            return fail(value, text, fix)
    if spec.get("publishNotReadyAddresses").true:
        return fine(spec, "headless, with addresses of pods that are not ready")
    fix = patch(spec, "{publishNotReadyAddresses: true}")
    return _late(pod, spec, "names come once pods are ready", fix)


@question(
    "rendezvous-port",
    "the port of the rendezvous is one, and free",
    nothing="no container says a port",
    exit_code=200,
)
def rendezvous_port(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """All pods have to name the same port, which nobody else has on the first one."""
    said: dict[int, tuple[str, Node]] = {}
    for pod in manifest.training:
        for box in pod.trainers:
            for name, port, place in _ports(box):
                yield _port(pod, name, port, place)
                first, where = said.setdefault(id(pod.document), (port, place))
                if port != first:
                    text = f"{name} is {shown(port, 20)}, and {shown(first, 20)} at {where.path}"
                    yield fail(place, text, _with_port(place, name, shown(first, 20)))


def _ports(box: Container) -> Iterator[tuple[str, str, Node]]:
    for name in ("MASTER_PORT", "PET_MASTER_PORT"):
        variable = box.variable(name)
        if variable is not None and variable.value and "$" not in variable.value:
            yield name, variable.value, variable.node
    option = box.option("master-port")
    if option and "$" not in option:
        place = box.node.get("args") if box.node.get("args").there else box.node.get("command")
        yield "--master-port", option, place


def _port(pod: Pod, name: str, port: str, place: Node) -> Finding:
    text = f"{name} {shown(port, 20)}"
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    if not 0 < number < 65536:
        return fail(place, f"{text} is no port", _with_port(place, name, "29500"))
    if pod.host_network:
        return warn(place, f"{text}, which others of the node may have", no_host_network(pod))
    if number >= _EPHEMERAL:
        text = f"{text} is among those that outgoing connections get, from {_EPHEMERAL}"
        return warn(place, text, _with_port(place, name, "29500"))
    return fine(place, text)


def _with_port(place: Node, name: str, port: str) -> Patch:
    """Return the change that says another port: in a variable, an option or a script."""
    if place.kind == MAP:
        return patch(place, f'{{value: "{port}"}}', port)
    if place.kind == LIST:
        return patch(place, json.dumps(with_option(place.texts(), name, port)), port)
    text = re.sub(rf"\b{name}=[^\s\"';]*", f"{name}={port}", place.text)
    return patch(place, json.dumps(text), port)


def no_host_network(pod: Pod) -> Patch:
    """Return the change that gives a pod a network of its own.

    Only where virtual functions are to come into it: others may have no RDMA without the node's.
    """
    dns = ", dnsPolicy: null" if pod.spec.get("dnsPolicy").text == _HOST_DNS else ""
    change = f"{{hostNetwork: null{dns}}}"
    meant = pod.annotation.there and any(each.vfs for each in pod.containers)
    return patch(pod.spec, change) if meant and not _reason(pod) else advice(pod.spec, change)


def _reason(pod: Pod) -> str:
    return pod.template.get("metadata", "annotations", HOST_REASON).text


@static_question(
    "host-network",
    "pods have a network of their own",
    nothing="there is no pod",
    exit_code=69,
)
def host_network(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """In its node's network a pod gets no network attached, and shares ports with all others."""
    for pod in manifest.training:
        place = pod.spec.get("hostNetwork")
        vfs = any(each.vfs for each in pod.containers)
        if not pod.host_network:
            yield fine(pod.spec, "no hostNetwork")
        elif pod.annotation.there or vfs:
            what = NETWORKS if pod.annotation.there else "virtual functions"
            text = f"hostNetwork, in which Multus attaches nothing: {what} are of no use"
            yield fail(place, text, no_host_network(pod))
        elif _reason(pod):
            yield fine(place, f"hostNetwork: {shown(_reason(pod), 200)}")
        else:
            yield warn(place, "hostNetwork: ports are those of the node", no_host_network(pod))


@static_question(
    "gang-secret",
    "the launchers have a secret",
    nothing="no container of several pods starts rdmatrain run",
    exit_code=78,
)
def gang_secret(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """No gang of several nodes is started that whoever reaches its port could join."""
    for pod in manifest.pods:  # one that asks for no devices is of the gang all the same
        for box in pod.containers:
            words = " ".join(box.command)
            if not pod.many or not re.search(r"\brdmatrain\s+run\b", words):
                continue
            settled = _settled(box, words)
            if settled:
                yield fine(box.node, settled[0])
            elif box.hidden_variables or not pod.whole:
                yield unseen(box.node, "a secret may come from elsewhere")
            else:
                text = f"{pod.siblings} pods, and neither RDMATRAIN_SECRET_FILE nor --insecure"
                yield fail(box.node, text, secret_as_file(box))


def _settled(box: Container, words: str) -> list[str]:
    """Return what gives a launcher a secret, or does without one."""
    names = [each.name for each in box.variables]
    given = [each for each in names if each.startswith("RDMATRAIN_SECRET")]
    options = [each for each in ("--secret-file", "--insecure") if each in words]
    return given + options + [each for each in names if each == "RDMATRAIN_INSECURE"]


def secret_as_file(box: Container) -> Patch:
    """Return the change that gives a launcher a Secret as a file: variables show up in logs."""
    pod, (folder, _, key) = box.pod, _SECRET_FILE.rpartition("/")
    secret, volume = f"{pod.name or 'train'}-{key}", "secret"
    if volume in pod.volumes:
        volume = "rdmatrain-secret"
    taken = volume in pod.volumes or any(
        mount.get("mountPath").text.rstrip("/") == folder for mount, _ in box.mounts
    )
    own = {
        "name": box.node.get("name").text,
        "env": [
            {"name": "RDMATRAIN_SECRET", "$patch": "delete"},
            {"name": "RDMATRAIN_SECRET_FILE", "value": _SECRET_FILE},
        ],
        "volumeMounts": [{"name": volume, "mountPath": folder, "readOnly": True}],
    }
    boxes = "containers" if box in pod.containers else "initContainers"
    source: dict[str, object] = {"secretName": secret}
    if pod.spec.get("securityContext", "fsGroup").there:  # without it none but root could read it
        source["defaultMode"] = 0o440
    change = {"volumes": [{"name": volume, "secret": source}], boxes: [own]}
    said = f"key {key} of the Secret {shown(secret, 63)} as the file {_SECRET_FILE}"
    return advice(pod.spec, said) if taken else patch(pod.spec, json.dumps(change), said)
