"""``rdmatrain doctor --gang``: from a pod's own results to the gang's, and what is printed."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from rdmatrain import config
from rdmatrain.doctor.gang.judge import document as measured
from rdmatrain.doctor.gang.judge import judge, of_error, of_finish
from rdmatrain.doctor.gang.model import ANSWER, PLAN, Answer, NodeFinding, Plan, from_json, to_json
from rdmatrain.doctor.heatmap import draw
from rdmatrain.doctor.model import Case, Result
from rdmatrain.doctor.report import About, Style, as_lines, as_text, document, exit_code
from rdmatrain.doctor.status import refuse, tell_kubernetes
from rdmatrain.doctor.subject import about
from rdmatrain.errors import RdmatrainError
from rdmatrain.launcher.job import Job, Output, Program
from rdmatrain.launcher.launch import run_to_end
from rdmatrain.launcher.resolve import resolve
from rdmatrain.launcher.runtime import Runtime
from rdmatrain.topo.terminal import printable

RANK = "rdmatrain.doctor.gang.rank"
# The launcher ends a rank that is stopped for so long, if there is so much time.
HANG_S = 8.0
# Refused by the launcher of a job, and told by the gang, who knows more.
_OF_DEVICES = ("RDMATRAIN_TRANSPORT", "RDMATRAIN_REQUIRE")


@dataclass(frozen=True)
class GangOptions:
    """How long to wait, and how to print.

    Attributes:
        timeout_s: longest wait for the other pods.
        json: as JSON.
        quiet: only what is wrong.
        plot: where rank 0 draws the bandwidths; empty for nowhere.
        style: of texts.
        unasked: ids of the gang's checks that are not to be asked.

    """

    timeout_s: float = 60.0
    json: bool = False
    quiet: bool = False
    plot: str = ""
    style: Style = field(default_factory=Style)
    unasked: tuple[str, ...] = ()


def run_gang(
    case: Case, results: Sequence[Result], options: GangOptions, write: Callable[[str], None]
) -> int:
    """Take part in the gang's examination; return its exit code, the same on all pods.

    Args:
        case: this pod.
        results: of its own checks.
        options: of the command.
        write: prints.

    """
    start = perf_counter()
    try:
        with closing(Runtime()) as runtime:
            found = _examine(case, results, options, runtime.folder)
    except RdmatrainError as error:
        fix = "start it with the options or variables of rdmatrain run"
        found = of_error(str(error), fix, options.unasked)
    if isinstance(found, Answer) and found.gathering is None:
        write(_line(found, options))
        if found.exit_code:
            refuse(_text(found), found.exit_code)
        return found.exit_code
    gang: dict[str, Any] = {}
    if isinstance(found, Answer):
        assert found.gathering is not None
        every, gang = judge(found.gathering, options.unasked), measured(found.gathering)
    else:
        every = [*found, *results]  # first what all pods say, as does the exit code
    tell_kubernetes(every)
    _show(every, gang, _about(case, perf_counter() - start), options, write)
    if options.plot:
        _plot(gang, Path(options.plot))
    return exit_code(found) if isinstance(found, list) else found.exit_code


def _plot(gang: Mapping[str, Any], path: Path) -> None:
    """Draw what was measured; where that fails, the exit code is the gang's all the same."""
    why = "nothing was measured"
    if gang:
        try:
            draw(gang["hosts"], gang["gbps"], path)
        except Exception as error:
            why = str(error) or type(error).__name__
        else:
            return
    print(printable(f"--plot {path} was not drawn: {why}"), file=sys.stderr)  # noqa: T201


def _about(case: Case, seconds: float) -> About:
    host, versions = about(case.source)
    return About("all pods of the job", host, versions, seconds)


def _show(
    results: Sequence[Result],
    gang: Mapping[str, Any],
    about: About,
    options: GangOptions,
    write: Callable[[str], None],
) -> None:
    if options.json:
        write(json.dumps(document(results, "gang", about) | {"gang": gang}, indent=1))
    elif options.quiet:
        if lines := as_lines(results, options.style):
            write(lines)
    else:
        write(as_text(results, options.style, about))


def _line(answer: Answer, options: GangOptions) -> str:
    """Return what a pod prints that is not rank 0's."""
    if options.json:
        told = {"verdict": answer.verdict, "exit_code": answer.exit_code}
        told |= {"rank": answer.rank, "shown_by": answer.leader}
        return json.dumps(document([], "gang") | told, indent=1)
    return _text(answer)


def _text(answer: Answer) -> str:
    return (
        f"rank {answer.rank}: the gang's verdict is {answer.verdict} (exit code "
        f"{answer.exit_code}): rank 0, on {answer.leader}, shows why"
    )


def _examine(
    case: Case, results: Sequence[Result], options: GangOptions, folder: Path
) -> Answer | list[Result]:
    """Return what this pod's rank was told, or what the end of the launcher says."""
    job = gang_job(case, config.inherited_environment(), options.timeout_s, folder)
    (folder / PLAN).write_text(to_json(_plan(case, results, options)), "utf-8")
    finish = run_to_end(job)
    try:
        answer: Answer = from_json(Answer, (folder / ANSWER).read_text("utf-8"))
    except (OSError, ValueError):
        return of_finish(finish, options.unasked)
    return answer


def _plan(case: Case, results: Sequence[Result], options: GangOptions) -> Plan:
    findings = (
        NodeFinding(
            id=each.check.id,
            verdict=each.finding.verdict.value,
            evidence=each.finding.evidence,
            fix=each.finding.fix,
        )
        for each in results
    )
    return Plan(
        timeout_s=options.timeout_s,
        gpus=tuple(each.gpu.model or each.gpu.vendor for each in case.found.allocation.gpus),
        findings=tuple(findings),
        unasked=options.unasked,
    )


def gang_job(case: Case, environ: Mapping[str, str], timeout_s: float, folder: Path) -> Job:
    """Return the job whose workers are the gang's ranks: nodes as the job's, one worker on each.

    Args:
        case: this pod.
        environ: its variables.
        timeout_s: longest wait for the other pods.
        folder: where plan and answer are.

    Raises:
        SettingError: ``rdmatrain run`` could not start here either; says why.

    """
    given = {
        "script": RANK,
        "script_args": (str(folder),),
        "module": True,
        "nproc_per_node": "1",
        "max_restarts": "0",
    }
    # A pod without devices takes part, so that it can be named.
    told = {name: value for name, value in environ.items() if name not in _OF_DEVICES}
    job = resolve(given, told, case.found).job
    gang = replace(
        job.gang,
        run_id=f"doctor of {job.gang.run_id or 'a job without a name'}",
        join_s=timeout_s,
        # Pods that start are busy; who is lost is named in time all the same.
        lost_s=max(job.gang.lost_s, timeout_s / 2),
    )
    required = case.needs.transport
    return replace(
        job,
        program=Program(script=RANK, args=(str(folder),), module=True),
        gang=gang,
        output=Output(),
        limits=replace(job.limits, hang_s=min(HANG_S, timeout_s / 2)),
        settings={"require": required} if required else {},
        bind_cpus=False,
        numa_binding="",
        virtual_local_rank=False,
        preload=(),
        messages=(),
    )
