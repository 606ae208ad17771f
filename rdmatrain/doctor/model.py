"""What a check is, what it looks at and what it finds: plain data that this package speaks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

# Whoever lists or explains checks looks at nothing, and is to be answered at once.
if TYPE_CHECKING:
    from rdmatrain.discovery.source import Source
    from rdmatrain.discovery.survey import Survey


class Verdict(str, Enum):
    """What a check says; of several the gravest counts, in this order."""

    SKIP = "SKIP"  # it could not see, or has nothing to look at: never taken for PASS
    PASS = "PASS"
    WARN = "WARN"  # it will run, slower or at a risk
    FAIL = "FAIL"  # it will not run, or not over RDMA


GRAVITY = {verdict: place for place, verdict in enumerate(Verdict)}


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        verdict: what it says.
        evidence: what was seen, with its place and value: a line.
        fix: one thing to do, a shell line or a patch of a manifest; empty for PASS and SKIP.
        fixes: what is to be done at all places, where it was found at several.

    """

    verdict: Verdict
    evidence: str
    fix: str = ""
    fixes: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Needs:
    """What the job that is to run needs, as far as somebody said so.

    Attributes:
        transport: that must join ranks of different hosts: ``verbs``, ``tcp``; empty: the best.
        register_mib: how much memory each rank registers with its NIC, in MiB.
        ranks: processes of this pod; 0: what discovery found.
        nodes: of the job, each with as many processes; 0: what discovery found.
        leader: ``host:port`` of node 0's launcher; empty: what discovery found.
        checkpoint_dir: where checkpoints go; empty: not known.
        checkpoint_mib: how large one is, in MiB.
        nnodes: of a job that the launcher has resolved, as its option has it, ``2`` or ``1:64``.
        node_rank: this node's there; None where it is dealt out.

    """

    transport: str = ""
    register_mib: int = 512
    ranks: int = 0
    nodes: int = 0
    leader: str = ""
    checkpoint_dir: str = ""
    checkpoint_mib: int = 1024
    nnodes: str = ""
    node_rank: int | None = None


class UnansweredError(Exception):
    """A probe came to no end in time, so that what it would have found out is not known.

    Attributes:
        probe: its name.

    """

    def __init__(self, probe: str, why: str) -> None:
        super().__init__(f"{probe}: {why}")
        self.probe = probe


@dataclass(frozen=True)
class Case:
    """What checks look at. Every fact comes from ``source``, so that a saved one gives the same.

    Attributes:
        source: files, and probes by name; see :mod:`rdmatrain.doctor.probes`.
        found: what discovery makes of it.
        needs: what the job needs.

    """

    source: "Source"
    found: "Survey"
    needs: Needs = field(default_factory=Needs)

    def probe(self, name: str) -> Mapping[str, Any] | None:
        """Return what a probe found out; None where it was not made, as in most snapshots.

        Raises:
            UnansweredError: it hangs; :func:`~rdmatrain.doctor.examine.examine` makes a finding.

        """
        answer = self.source.probe(name)
        if not isinstance(answer, Mapping):
            return None
        if answer.get("unanswered"):
            raise UnansweredError(name, str(answer.get("error")))
        return answer

    @property
    def wants_rdma(self) -> bool:
        """The job is not one that runs over TCP on purpose."""
        return self.needs.transport not in {"tcp", "shm"}


@dataclass(frozen=True)
class Check:
    """A question with a stable id.

    Attributes:
        id: short, with dashes; never changes its meaning.
        group: heading of a module's checks.
        title: what is checked: ``memory can be locked and registered``.
        why: why it matters, in a sentence or two.
        known: the issue behind it, as ``pytorch#119856: what happened``; empty if there is none.
        judge: answers it.
        after: ids of checks whose FAIL is the cause of this one's, which is then not asked.
        exit_code: the launcher's, see :mod:`rdmatrain.launcher.exit_codes`, where it fails.
        since: the version of rdmatrain that has had it first.

    """

    id: str
    group: str
    title: str
    why: str
    judge: Callable[[Case], Finding]
    known: str = ""
    after: tuple[str, ...] = ()
    exit_code: int = 69
    since: str = "0.1.0"


@dataclass(frozen=True)
class Result:
    """A check that was asked, what it found, and how long that took in seconds."""

    check: Check
    finding: Finding
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """What the check says."""
        return self.finding.verdict


def passed(evidence: str) -> Finding:
    """Return a PASS."""
    return Finding(Verdict.PASS, evidence)


def skipped(evidence: str) -> Finding:
    """Return a SKIP, with why nothing could be seen."""
    return Finding(Verdict.SKIP, evidence)


def warned(evidence: str, fix: str) -> Finding:
    """Return a WARN, and what to do."""
    return Finding(Verdict.WARN, evidence, fix)


def failed(evidence: str, fix: str) -> Finding:
    """Return a FAIL, and what to do."""
    return Finding(Verdict.FAIL, evidence, fix)


def gravest(findings: Iterable[Finding], nothing: str) -> Finding:
    """Put findings together, as of several devices: the gravest ones, with the first one's fix.

    Args:
        findings: of each.
        nothing: why there are none, if so: a SKIP says it.

    """
    every = list(findings)
    if not every:
        return skipped(nothing)
    verdict = max((each.verdict for each in every), key=GRAVITY.__getitem__)
    chosen = [each for each in every if each.verdict is verdict]
    evidence = "; ".join(dict.fromkeys(each.evidence for each in chosen))
    return Finding(verdict, evidence, chosen[0].fix)
