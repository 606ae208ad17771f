"""How a module of :mod:`rdmatrain.doctor.manifest.checks` writes down a question to a manifest."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import Manifest
from rdmatrain.doctor.model import (
    GRAVITY,
    Case,
    Check,
    Finding,
    Needs,
    Verdict,
    failed,
    passed,
    skipped,
    warned,
)

# More places of one fault are counted, not shown.
MAX_PLACES = 3
# What is longer is cut.
MAX_TEXT, MAX_PATCH = 400, 2000
Judge = Callable[[Manifest, Needs], Iterable[Finding]]


class Patch(str):
    """A change of a manifest: a line for people, and what a program applies.

    Attributes:
        node: that is changed.
        change: in YAML, as Kubernetes' strategic merge patch: null removes, mappings and lists of
            what has names are merged, all else replaces what is there. Empty: nothing that a
            program could do.
        whole: the change is an object of its own, which is added behind the node's document.
        guess: a value of it that nobody said, as ``mtu: 4220``; empty where all follow from the
            manifest.

    """

    node: Node
    change: str
    whole: bool
    guess: str

    @classmethod
    def of(
        cls, node: Node, change: str, said: str = "", *, whole: bool = False, guess: str = ""
    ) -> "Patch":
        """Return a change of a node.

        Args:
            node: that is changed.
            change: as :attr:`change`.
            said: what people read instead of it.
            whole: as :attr:`whole`.
            guess: as :attr:`guess`.

        """
        safe = shown(said or change, MAX_PATCH)
        made = cls(f"{node.path}: {safe}" if node.path and not whole else safe)
        made.node, made.change, made.whole, made.guess = node, change, whole, guess
        return made


@dataclass(frozen=True)
class Question:
    """What is asked of a manifest.

    Attributes:
        check: with the id; the catalogue's is taken where it has that id.
        judge: finds something at each place that it looks at.
        nothing: why it looked at none.
        static: only a manifest shows it: a running pod has no such check.

    """

    check: Check
    judge: Judge
    nothing: str
    static: bool

    def ask(self, manifest: Manifest, needs: Needs) -> Finding:
        """Put together what it finds."""
        return together(self.judge(manifest, needs), self.nothing)


def question(
    name: str, title: str, *, nothing: str, known: str = "", exit_code: int = 78, after: str = ""
) -> Callable[[Judge], Question]:
    """Make a question, with the id of a check of pods, of a function."""

    def made(judge: Judge) -> Question:
        why = " ".join((judge.__doc__ or "").split())
        causes = tuple(after.split())
        check = Check(name, "manifest", title, why, _of_a_pod, known, causes, exit_code)
        return Question(check, judge, nothing, static=False)

    return made


def static_question(
    name: str, title: str, *, nothing: str, known: str = "", exit_code: int = 78, after: str = ""
) -> Callable[[Judge], Question]:
    """Make a question that only a manifest answers; the docstring says why it matters."""
    made = question(name, title, nothing=nothing, known=known, exit_code=exit_code, after=after)
    return lambda judge: replace(made(judge), static=True)


def _of_a_pod(_case: Case) -> Finding:
    """Answer for a check that a running pod cannot answer."""
    return skipped("only a manifest shows it: rdmatrain doctor -f FILE")


def together(findings: Iterable[Finding], nothing: str) -> Finding:
    """Put findings together: the gravest, at the first places, with the first one's fix."""
    every = list(findings)
    if not every:
        return skipped(nothing)
    verdict = max((each.verdict for each in every), key=GRAVITY.__getitem__)
    chosen = [each for each in every if each.verdict is verdict]
    texts = list(dict.fromkeys(each.evidence for each in chosen))
    more = len(texts) - MAX_PLACES
    evidence = "; ".join(texts[:MAX_PLACES]) + (f"; and {more} more" if more > 0 else "")
    return Finding(verdict, evidence, chosen[0].fix, tuple(each.fix for each in chosen))


def fail(node: Node, text: str, fix: str) -> Finding:
    """Return a FAIL at a place."""
    return failed(_said(node, text), fix)


def warn(node: Node, text: str, fix: str) -> Finding:
    """Return a WARN at a place."""
    return warned(_said(node, text), fix)


def fine(node: Node, text: str) -> Finding:
    """Return a PASS at a place."""
    return passed(_said(node, text))


def unseen(node: Node, text: str) -> Finding:
    """Return a SKIP at a place."""
    return skipped(_said(node, text))


def patch(node: Node, change: str, said: str = "", guess: str = "") -> Patch:
    """Return a change of a manifest, as ``spec.template.spec: {hostNetwork: null}``.

    Args:
        node: that is changed.
        change: in YAML, see :class:`Patch`.
        said: what people read instead, where the whole change is long.
        guess: a value of it that nobody said.

    """
    return Patch.of(node, change, said, guess=guess)


def advice(node: Node, text: str) -> Patch:
    """Return a change that only people can make: a value is to be chosen."""
    return Patch.of(node, "", text)


def addition(node: Node, text: str, said: str, guess: str = "") -> Patch:
    """Return a change that adds an object beside the one that a node is in."""
    return Patch.of(node, text, said, whole=True, guess=guess)


def _said(node: Node, text: str) -> str:
    """Return an evidence with its place: short, and without what a terminal would obey."""
    return f"{node.place}: {shown(text, MAX_TEXT)}"


def gravity(finding: Finding) -> bool:
    """Tell whether it is worse than PASS."""
    return finding.verdict in {Verdict.WARN, Verdict.FAIL}


def wants_rdma(box: Container, needs: Needs) -> str:
    """Return why a container should have RDMA; empty if it need not.

    Args:
        box: the container.
        needs: of the job.

    """
    if needs.transport in {"tcp", "shm"}:
        return ""
    return next(_reasons(box, needs), "")


def _reasons(box: Container, needs: Needs) -> Iterator[str]:
    if box.nics:
        yield "it requests " + ", ".join(f"{name}: {number}" for name, number in box.nics.items())
    for name in ("RDMATRAIN_TRANSPORT", "RDMATRAIN_REQUIRE"):
        if box.value(name) == "verbs":
            yield f"{name}=verbs"
    for name in ("transport", "require"):
        if box.option(name) == "verbs":
            yield f"--{name} verbs"
    if needs.transport == "verbs":
        yield "the job needs verbs"
    if host_nodes(box):
        yield "it mounts /dev/infiniband of the host"


def with_lock(box: Container) -> str:
    """Return the capabilities that a container adds, and IPC_LOCK with them, as a change."""
    added = box.node.get("securityContext", "capabilities", "add").texts()
    return (
        f"{{add: [{', '.join(shown(each, 40) for each in dict.fromkeys([*added, 'IPC_LOCK']))}]}}"
    )


def host_nodes(box: Container) -> Node | None:
    """Return the mount of the host's /dev/infiniband; None if there is none."""
    for mount, volume in box.mounts:
        path = volume.get("hostPath", "path").text.rstrip("/")
        if path in {"/dev", "/dev/infiniband"} or path.startswith("/dev/infiniband/"):
            return mount
    return None
