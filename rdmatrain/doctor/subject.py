"""What is examined: this pod, or a saved one, and what its job needs."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rdmatrain.config import REQUIRABLE, inherited_environment
from rdmatrain.discovery.snapshot import Recorder
from rdmatrain.discovery.source import Source, Tree
from rdmatrain.discovery.survey import survey
from rdmatrain.doctor.model import Case, Needs
from rdmatrain.errors import SettingError

if TYPE_CHECKING:
    from rdmatrain.launcher.job import Job

HERE = "this machine"


def this_pod(needs: Needs) -> Case:
    """Look at this pod; the source remembers what was asked of it, for a snapshot.

    Args:
        needs: what its job needs, as far as somebody said so.

    """
    from rdmatrain.doctor.probes import live  # noqa: PLC0415 - only this machine has them

    told = replace(needs, transport=needs.transport or _transport_of(inherited_environment()))
    source = Recorder(Tree(probes=live(told)))
    # For whoever reads the snapshot: nothing else asks for them.
    source.probe("needs")
    about(source)
    return Case(source, survey(source, HERE), told)


def saved_pod(file: str, needs: Needs) -> Case:
    """Look at a pod of which a snapshot was saved.

    Args:
        file: the snapshot; ``-`` is standard input.
        needs: what its job needs; what nobody says is what was said when it was saved.

    Raises:
        SettingError: the file cannot be read, or is no snapshot.

    """
    from rdmatrain.topo.inputs import name_of, open_input  # noqa: PLC0415 - seldom asked for

    source = open_input((file,), "")
    if not isinstance(source, Source):
        raise SettingError(
            f"{source.origin} describes a machine: give a snapshot, which has a pod's facts "
            "(rdmatrain doctor --dump, or rdmatrain topo --dump)"
        )
    source = Recorder(source)
    needs = _filled(needs, source.probe("needs"))
    found = survey(source, name_of((file,), ""))
    variables = {each.name: each.value for each in (found.pod.variables if found.pod else ())}
    told = replace(needs, transport=needs.transport or _transport_of(variables))
    return Case(source, found, told)


def needs_of(job: "Job", environ: Mapping[str, str]) -> Needs:
    """Return what a job of the launcher needs on this node.

    Args:
        job: resolved.
        environ: what its workers inherit.

    """
    asked = {name: job.settings.get(name, "") for name in ("transport", "require")}
    named = {f"RDMATRAIN_{name.upper()}": value for name, value in asked.items() if value}
    host = f"[{job.gang.leader}]" if ":" in job.gang.leader else job.gang.leader
    return Needs(
        transport=_transport_of({**environ, **named}),
        ranks=job.num_local,
        nodes=_hosts(job),
        leader="" if job.gang.alone else f"{host}:{job.gang.port}",
        nnodes=f"{job.gang.min_nodes}:{job.gang.max_nodes}",
        node_rank=job.gang.node_rank,
    )


def _hosts(job: "Job") -> int:
    """Return how many hosts a job has: each may have several launchers, which are nodes.

    What the fewest nodes of an elastic job need is what it must have.
    """
    return max(1, job.gang.min_nodes * job.nproc // job.num_local)


def about(source: Source) -> tuple[str, dict[str, str]]:
    """Return what the host, which is the pod, is called, and the versions of what is installed.

    Both are empty where nobody says so.
    """
    host = (source.text("/proc/sys/kernel/hostname") or "").strip()
    versions = source.probe("versions")
    found = versions.items() if isinstance(versions, Mapping) else ()
    return host, {str(name): str(version) for name, version in found}


def _transport_of(variables: Mapping[str, str]) -> str:
    """Return what must join ranks of different hosts, by the user's settings; empty: the best.

    What is no transport says nothing here: there is a check of names and values.
    """
    said = (variables.get(f"RDMATRAIN_{name}", "").strip() for name in ("REQUIRE", "TRANSPORT"))
    return next((each for each in said if each in REQUIRABLE), "")


def _filled(needs: Needs, saved: Any) -> Needs:
    """Put what was saved where nobody says anything else."""
    if not isinstance(saved, Mapping):
        return needs
    plain = Needs()
    found: dict[str, Any] = {}
    for each in fields(Needs):
        default, value = getattr(plain, each.name), saved.get(each.name)
        unsaid = getattr(needs, each.name) == default
        if unsaid and type(value) is type(default):
            found[each.name] = value
    return replace(needs, **found)
