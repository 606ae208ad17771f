"""Variables that a manifest sets, and what becomes of them."""

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.nccl import NameList
from rdmatrain.discovery.source import Source
from rdmatrain.doctor.catalog import by_id
from rdmatrain.doctor.manifest.commands import (
    plain_words,
    simple_words,
    without_assignment,
    without_option,
)
from rdmatrain.doctor.manifest.containers import Container, Variable
from rdmatrain.doctor.manifest.define import (
    Patch,
    advice,
    fail,
    fine,
    gravity,
    patch,
    question,
    static_question,
    unseen,
    wants_rdma,
    warn,
)
from rdmatrain.doctor.manifest.networks import Networks
from rdmatrain.doctor.manifest.nodes import BOOLEAN, LIST, NUMBER, Node
from rdmatrain.doctor.manifest.workloads import TRAIN_JOB, Manifest, Pod
from rdmatrain.doctor.model import Case, Finding, Needs, Verdict

# Variables are looked at in no more containers: each takes a survey.
MAX_CASES = 50
_RESERVED = frozenset(
    f"PET_{each}"
    for each in ("NNODES", "NPROC_PER_NODE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
)
_GID_INDEX = ("NCCL_IB_GID_INDEX", "RDMATRAIN_GID_INDEX", "UCX_IB_GID_INDEX", "FI_VERBS_GID_IDX")
_UNPIN = "leave it out with NCCL from 2.21 on"
_DEVICES = ("NCCL_IB_HCA", "RDMATRAIN_DEVICES")
_SOCKETS = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
_NO_VARIABLE = "no container sets such a variable"


@static_question(
    "text-quoted",
    "variables, arguments and annotations are texts",
    nothing="no container has variables or arguments",
    exit_code=64,
)
def text_quoted(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Kubernetes refuses an unquoted number or boolean where it wants a text."""
    for pod in manifest.pods:
        texts = list(_texts(pod))
        wrong = [each for each in texts if each.kind in {NUMBER, BOOLEAN}]
        for each in wrong:
            text = f"{shown(each.text, 60)} is a {each.kind}: Kubernetes wants a text"
            yield fail(each, text, patch(each, f'"{shown(each.text, 60)}"'))
        yield from _one_text(pod)
        if texts and not wrong:
            yield fine(pod.template, f"{len(texts)} values are texts")


def _texts(pod: Pod) -> Iterator[Node]:
    for name in ("annotations", "labels"):
        yield from (node for _, node in pod.template.get("metadata", name).entries())
    for box in pod.everything:
        yield from (
            value for each in box.node.get("env").items() if (value := each.get("value")).there
        )
        for name in ("command", "args"):
            yield from box.node.get(name).items()


def _one_text(pod: Pod) -> Iterator[Finding]:
    """Find commands that are a text, of which Kubernetes wants the words."""
    for box in pod.everything:
        for name in ("command", "args"):
            place = box.node.get(name)
            if place.there and place.kind != LIST:
                text = f"{shown(place.text, 60)} is no list of words, as Kubernetes wants it"
                words = plain_words(place.text)
                listed = advice(place, "a list of words")
                yield fail(place, text, patch(place, json.dumps(words)) if words else listed)


def launched(manifest: Manifest) -> Iterator[Container]:
    """Return the containers whose variables count."""
    for pod in manifest.pods:
        yield from pod.containers


def _rdma_documents(manifest: Manifest, needs: Needs) -> set[int]:
    """Return the workloads that should have RDMA."""
    return {
        id(pod.document)
        for pod in manifest.training
        for box in pod.trainers
        if wants_rdma(box, needs)
    }


def _pinned(manifest: Manifest, needs: Needs) -> Iterator[Container]:
    wanted = _rdma_documents(manifest, needs)
    yield from (box for box in launched(manifest) if id(box.pod.document) in wanted)


def removed(variable: Variable, container: Container, guess: str = "") -> Patch:
    """Return the change that takes a variable away."""
    if variable.node.get("name").text == variable.name:
        change = f"{{env: [{{name: {shown(variable.name, 60)}, $patch: delete}}]}}"
        return patch(container.node, change, guess=guess)
    without = without_assignment(variable.node.text, variable.name)
    return patch(variable.node, json.dumps(without), f"remove {variable.name}", guess)


@question("env-misspelt", "every variable has a name that somebody reads", nothing=_NO_VARIABLE)
def env_misspelt(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Misspelt variables do nothing, and say nothing."""
    yield from _as_in_a_pod("env-misspelt", manifest, needs)


@question("env-contradicts", "variables do not contradict each other", nothing=_NO_VARIABLE)
def env_contradicts(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Of two variables that contradict each other, one is obeyed, and nobody knows which."""
    for pod in manifest.pods:
        entries = (
            pod.document.get("spec", "trainer", "env").items() if pod.kind == TRAIN_JOB else []
        )
        for each in entries:
            name = each.get("name").text
            if name in _RESERVED:
                text = f"{name} is set by the TrainJob itself, which is refused with it"
                trainer = pod.document.get("spec", "trainer")
                change = f"{{env: [{{name: {name}, $patch: delete}}]}}"
                yield fail(each, text, patch(trainer, change))
    yield from _as_in_a_pod("env-contradicts", manifest, needs)


class _Variables(Source):
    """A machine of which only a process's variables are known."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__()
        self._text = "".join(f"{name}={value}\0" for name, value in variables.items())

    def probe(self, name: str) -> None:
        """Return nothing: nothing is called."""

    def _read(self, real: str) -> str:
        if real == "/proc/self/environ":
            return self._text
        raise _absent(real)

    def _list(self, real: str) -> list[str]:
        raise _absent(real)

    def _readlink(self, path: str) -> str:
        raise _absent(path)


def _absent(path: str) -> OSError:
    return OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _as_in_a_pod(name: str, manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Ask the check of running pods, which looks at nothing but variables."""
    from rdmatrain.discovery.survey import survey  # noqa: PLC0415 - --list has no need of it

    check = by_id().get(name)
    for number, box in enumerate(launched(manifest)):
        given = _given(box)
        if check is None or not given or number >= MAX_CASES:
            continue
        source = _Variables(given)
        finding = check.judge(Case(source, survey(source, "manifest"), needs))
        place = _env(box)
        text = f"{place.place}: {finding.evidence}"
        if gravity(finding):
            yield Finding(finding.verdict, text, _in_a_manifest(finding.fix, box))
        elif finding.verdict is Verdict.PASS and not box.hidden_variables:
            yield fine(place, finding.evidence)


def _given(box: Container) -> dict[str, str]:
    """Return the variables whose values are known."""
    # $(NAME) becomes the value of another variable, in the pod.
    return {
        each.name: each.value.replace("\0", "")
        for each in box.variables
        if each.name and each.value and "$" not in each.value
    }


def _env(box: Container) -> Node:
    env = box.node.get("env")
    return env if env.there else box.node


def _in_a_manifest(fix: str, box: Container) -> Patch:
    """Return what is to be done in a shell as a change of a manifest, where it is one."""
    match = re.fullmatch(r"(?:unset|rename) (\w+)(?: to (\w+))?", fix)
    variable = box.variable(match[1]) if match else None
    if match is None or variable is None:
        return advice(_env(box), fix)
    if match[2] is None:
        return removed(variable, box)
    new = f'{{name: {match[2]}, value: "{shown(variable.value or "", 200)}"}}'
    return patch(box.node, f"{{env: [{{name: {match[1]}, $patch: delete}}, {new}]}}")


@question(
    "env-lost-by-shell",
    "no shell drops variables on the way",
    nothing="no container gets variables with a dash in their names",
)
def env_lost_by_shell(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Device plugins name a variable after the resource; dash and busybox drop it for its dash."""
    for pod in manifest.training:
        for box in pod.trainers:
            names = [each for each in box.vfs if "-" in each.rpartition("/")[2]]
            command = box.node.get("command")
            if not names:
                continue
            variable = "PCIDEVICE_" + re.sub(r"[./]", "_", names[0]).upper()
            if box.shell in {"sh", "dash", "ash"}:
                text = f"{box.shell} drops {shown(variable, 80)} where it is dash or busybox"
                yield warn(command, text, _without_shell(box))
            elif not command.there or command.get(0).text.endswith(".sh"):
                yield unseen(box.node, "the image says what is run, or a script which shell")
            else:
                yield fine(command, f"{box.shell or 'no shell'} keeps {shown(variable, 80)}")


@question(
    "env-gid-index",
    "no variable pins a GID index",
    nothing="no container should have RDMA",
    known="nccl#890: the index differs between HCAs",
)
def env_gid_index(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Indexes of GIDs differ by pod and NIC; NCCL from 2.21 on finds them by itself."""
    given = _documents_with_vfs(manifest)
    for box in _pinned(manifest, needs):
        pinned = [each for each in box.variables if each.name in _GID_INDEX]
        pinned = [each for each in pinned if each.value not in {"", "-1", None}]
        for each in pinned:
            text = f"{each.name}={shown(each.value, 20)} is one index for all NICs"
            # NICs of the node have the same index in every pod: it may be what makes it work.
            own = id(box.pod.document) in given
            fix = removed(each, box, "NCCL is 2.21 or newer") if own else advice(box.node, _UNPIN)
            yield warn(each.node, text, fix)
        if not pinned and not box.hidden_variables:
            yield fine(box.node, "pins no GID index")


@question(
    "env-devices",
    "no variable names devices that differ by pod",
    nothing="no container is given virtual functions",
    known="nccl-tests#327: pods of one job have different mlx5 numbers",
)
def env_devices(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Which virtual functions a pod is given is known when it runs; a fixed list fits by chance."""
    given = _documents_with_vfs(manifest)
    for box in _pinned(manifest, needs):
        if id(box.pod.document) not in given:
            continue
        fixed = [(each, names) for each in box.variables if (names := _numbered(each))]
        for each, names in fixed:
            text = f"{each.name}={shown(each.value, 60)} names {names[0]}, which differs by pod"
            yield warn(each.node, text, removed(each, box))
        if not fixed and not box.hidden_variables:
            yield fine(box.node, "names no device by its number")


def _without_shell(box: Container) -> Patch:
    """Return the change that runs the launcher itself."""
    said = '{command: ["rdmatrain", "run", ...]}'
    words = simple_words(box)
    if words:
        return patch(box.node, f"{{command: {json.dumps(words)}, args: null}}", said)
    return advice(box.node, f"{said}, or bash, if the image has it")


def _documents_with_vfs(manifest: Manifest) -> set[int]:
    """Return the workloads that are given virtual functions."""
    return {id(pod.document) for pod in manifest.training if any(box.vfs for box in pod.containers)}


def _numbered(variable: Variable) -> list[str]:
    if variable.name not in _DEVICES or not variable.value:
        return []
    entries = NameList.parse(variable.value[:4096]).entries
    return [shown(name, 40) for name, _ in entries if name[-1:].isdigit() and name != "mlx5"]


@question(
    "env-interface",
    "variables name interfaces that the pod will have",
    nothing=_NO_VARIABLE,
    known="marin#7018: no socket interface found, by a name of another cluster",
    exit_code=78,
)
def env_interface(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """NCCL and gloo end at once where no interface has the name that they are told."""
    for box in launched(manifest):
        names = ["lo", "eth0", *Networks.of(box.pod).interfaces]
        for each in box.variables:
            if each.name in _SOCKETS and each.value:
                yield _interface(box, each, names)


def _interface(box: Container, variable: Variable, names: list[str]) -> Finding:
    pod, value = box.pod, variable.value or ""
    text = f"{variable.name}={shown(value, 60)}"
    if pod.host_network or pod.claims or not pod.whole or "$" in value:
        return unseen(variable.node, f"{text}: the interfaces are not to be seen here")
    wanted = NameList.parse(
        value[:4096] if variable.name.startswith("NCCL") else f"={value[:4096]}"
    )
    if any(wanted.allows(name) for name in names):
        return fine(variable.node, f"{text}: of {', '.join(names[:8])}")
    fix = removed(variable, box)
    return fail(variable.node, f"{text}: the pod has {', '.join(names[:8])}", fix)


@question(
    "env-rdma-off",
    "no variable turns RDMA off",
    nothing="no container should have RDMA",
)
def env_rdma_off(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Variables left over from a test make a job ten times slower that was granted devices."""
    for box in _pinned(manifest, needs):
        off = [each for each in box.variables if _turns_off(each)]
        for each in off:
            text = f"{each.name}={shown(each.value, 20)}, and devices are asked for"
            yield fail(each.node, text, removed(each, box))
        off_options = _off_options(box)
        for text in off_options:
            place = box.node.get("args") if box.node.get("args").there else box.node.get("command")
            fix = patch(place, json.dumps(without_option(place.texts(), text)), f"remove {text}")
            yield fail(place, f"{text}, and devices are asked for", fix)
        if not (off or off_options or box.hidden_variables):
            yield fine(box.node, "turns nothing off")


def _off_options(box: Container) -> list[str]:
    said = [f"--{name} {box.option(name)}" for name in ("transport", "require")]
    return [each for each in said if each.endswith((" tcp", " shm"))]


def _turns_off(variable: Variable) -> bool:
    value = (variable.value or "").strip().lower()
    values: dict[str, Iterable[str]] = {
        "NCCL_IB_DISABLE": ("1",),
        "NCCL_NET": ("socket",),
        "RDMATRAIN_TRANSPORT": ("tcp", "shm"),
        "RDMATRAIN_REQUIRE": ("tcp", "shm"),
    }
    return value in values.get(variable.name, ())
