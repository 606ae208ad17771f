"""From options, variables and what discovery found to a job, with the source of each value."""

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rdmatrain import config
from rdmatrain.discovery.survey import Survey
from rdmatrain.errors import SettingError
from rdmatrain.launcher import options
from rdmatrain.launcher.exit_codes import NO_DEVICES, NO_JOB
from rdmatrain.launcher.host_secret import host_secret
from rdmatrain.launcher.job import Gang, Job, Metrics, Output, Program
from rdmatrain.launcher.ledger import DEFAULT, Choices, Known, Ledger, Value, known
from rdmatrain.launcher.limits import find_limits, find_waits
from rdmatrain.launcher.position import Position, find_position
from rdmatrain.launcher.refusal import RefusalError
from rdmatrain.launcher.run_id import find_run_id
from rdmatrain.launcher.tasks import Task
from rdmatrain.launcher.workers import find_nproc
from rdmatrain.secret import load_secret

# Complaints about this node's position that matter to a job that rdmatrain run starts.
_TOLD = {"identity-conflict", "not-in-a-step", "not-in-hosts", "stale-hosts", "maybe-jobset"}
_TEMPLATE = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"


@dataclass(frozen=True)
class Resolved:
    """What is to be done, and why.

    Attributes:
        job: this node's part.
        values: for each value in force, where it comes from; without secrets.
        preflight: the doctor is to be asked first.

    """

    job: Job
    values: tuple[Value, ...]
    preflight: bool = False


def resolve(
    given: Mapping[str, Any], environ: Mapping[str, str], survey: Survey | None
) -> Resolved:
    """Return this node's part of the job: nothing in it is still to be looked up.

    Args:
        given: what the command line has, by the option's field: a text, or True for a flag;
            ``script``, and ``script_args``.
        environ: variables of this process.
        survey: what discovery found; None for nothing.

    Raises:
        SettingError: a name or value is not allowed; the launcher is to exit with 2.
        RefusalError: values contradict each other, or devices are missing; has the exit code.

    """
    _require_known_names(environ)
    choices: Choices = options.choose(given, environ)
    _refuse_etcd(choices)
    program = _program(given, choices, environ)
    identity = survey.identity if survey else None
    position, choices = find_position(choices, identity, environ)
    ledger = Ledger(choices)
    ledger.notes += position.notes
    ledger.note("program", Known(program.command()[0], f"starts {program.script}"))
    job = _job(ledger, program, position, survey, environ)
    job = replace(job, secret=_secret(ledger, job, position.task, environ))
    _require_devices(job, survey, environ)
    preflight: bool = ledger.take("preflight", False)
    _note_what_does_not_count(ledger, position)
    job = replace(job, messages=tuple(ledger.notes))
    return Resolved(job, tuple(ledger.values), preflight)


def _require_known_names(environ: Mapping[str, str]) -> None:
    lines = [*map(str, config.unknown_settings(environ)), *options.unknown_variables(environ)]
    if lines:
        raise SettingError("\n".join(lines))


def _refuse_etcd(choices: Choices) -> None:
    backend = choices["rdzv_backend"]
    if str(backend.value).startswith("etcd") and not choices["standalone"].value:
        raise RefusalError(
            f"{backend.source} {backend.value} is not supported: nodes meet at node 0 itself; "
            "leave it out and give --master-addr, or --rdzv-endpoint with the host of node 0",
            NO_JOB,
        )


def _program(given: Mapping[str, Any], choices: Choices, environ: Mapping[str, str]) -> Program:
    module, no_python, run_path = (choices[name] for name in ("module", "no_python", "run_path"))
    if module.value and no_python.value and not run_path.value:
        raise RefusalError(
            f"{module.source} and {no_python.source} contradict each other, as a module needs "
            "Python: leave out one",
            NO_JOB,
        )
    program = Program(
        script=str(given["script"]),
        args=tuple(given.get("script_args", ())),
        module=module.value and not run_path.value,
        no_python=no_python.value and not run_path.value,
        run_path=run_path.value,
    )
    _require_script(program)
    python = environ.get("PYTHON_EXEC", "")
    return replace(program, python=python) if python else program


def _require_script(program: Program) -> None:
    path = Path(program.script)
    if program.module or (not program.no_python and _can_be_run(path)):
        return
    if program.no_python and shutil.which(program.script):
        return
    what = "program" if program.no_python else "script"
    state = "is not a file" if path.exists() else "was not found"
    if program.no_python and path.is_file():
        state = "may not be executed"
    raise RefusalError(
        f"{what} {program.script!r} {state} (working directory {Path.cwd()}): "
        "give a path from there or an absolute one, or -m for a module",
        NO_JOB,
    )


def _can_be_run(path: Path) -> bool:
    try:
        return path.is_file() or (path / "__main__.py").is_file()
    except ValueError:  # a null byte, which no path has
        return False


def _job(
    ledger: Ledger,
    program: Program,
    position: Position,
    survey: Survey | None,
    environ: Mapping[str, str],
) -> Job:
    found = find_nproc(ledger.choices["nproc_per_node"], position, survey)
    nproc: int = ledger.note("nproc_per_node", found)
    task = position.task
    return Job(
        program=program,
        nproc=nproc,
        first_local=task.local_rank * nproc if task else 0,
        local_world=task.local_size * nproc if task else 0,
        gang=_gang(ledger, position, survey, environ),
        output=_output(ledger, environ),
        limits=find_limits(ledger, environ),
        metrics=_metrics(ledger, task),
        role=ledger.take("role", "default"),
        settings=_settings(ledger, environ),
        bind_cpus=_bind_cpus(ledger, task),
        numa_binding=ledger.take("numa_binding", ""),
        virtual_local_rank=ledger.take("virtual_local_rank", False),
        insecure=ledger.take("insecure", False),
        tls=ledger.take("tls_dir", ""),
    )


def _metrics(ledger: Ledger, task: Task | None) -> Metrics:
    port = known(ledger.choices["metrics_port"], 0)
    if port.value and task and task.local_rank:
        where = f"{port.source}; {task.by} has {task.local_rank} launchers before it on this host"
        port = Known(port.value + task.local_rank, where)
    return Metrics(port=ledger.note("metrics_port", port), addr=ledger.take("metrics_addr", ""))


def _bind_cpus(ledger: Ledger, task: Task | None) -> bool:
    if task and not ledger.choices["no_bind"].level:
        # Dividing CPUs that were divided already would leave most of them idle.
        return not ledger.note("no_bind", Known(True, f"{task.by} gives its tasks their CPUs"))
    return not ledger.take("no_bind", False)


def _gang(
    ledger: Ledger, position: Position, survey: Survey | None, environ: Mapping[str, str]
) -> Gang:
    nodes = ledger.note("nnodes", position.nodes)
    identity = position.identity
    epoch = Known(0, DEFAULT)
    if identity:
        words = f"{identity.orchestrator}: {identity.decided_by['epoch']}"
        epoch = Known(identity.epoch or 0, words)
    return Gang(
        min_nodes=nodes.least,
        max_nodes=nodes.most,
        node_rank=ledger.note("node_rank", position.node_rank),
        leader=ledger.note("leader", position.leader),
        port=ledger.note("port", position.port),
        local_addr=ledger.take("local_addr", ""),
        run_id=ledger.note("run_id", _run_id(ledger, position, survey, environ)),
        epoch=ledger.note("epoch", epoch),
        **find_waits(ledger),
    )


def _run_id(
    ledger: Ledger, position: Position, survey: Survey | None, environ: Mapping[str, str]
) -> Known:
    choice = ledger.choices["rdzv_id"]
    # As torchrun has it, a standalone job has a name of its own.
    if choice.level and not ledger.choices["standalone"].value:
        return Known(choice.value, choice.source)
    found = find_run_id(position.identity, survey, environ)
    if found.value:
        return found
    alone = position.nodes.value.most == 1
    return Known(str(uuid.uuid4()), "made for this job") if alone else Known("none", DEFAULT)


def _output(ledger: Ledger, environ: Mapping[str, str]) -> Output:
    choice, inherited = ledger.choices["log_line_prefix_template"], environ.get(_TEMPLATE, "")
    template = Known(choice.value or "", choice.source or DEFAULT)
    if not choice.level and inherited:
        template = Known(inherited, _TEMPLATE)
    ledger.note("log_line_prefix_template", template)
    return Output(
        log_dir=ledger.take("log_dir", ""),
        redirects=ledger.take("redirects", "0"),
        tee=ledger.take("tee", "0"),
        only_local=ledger.take("local_ranks_filter", ()),
        only=ledger.take("only", ()),
        grep=ledger.take("grep", ""),
        template=template.value.replace("${hostname}", "${host}"),
        stdout_filters=ledger.take("duplicate_stdout_filters", ()),
        stderr_filters=ledger.take("duplicate_stderr_filters", ()),
        color=config.color_allowed(environ),
    )


def _settings(ledger: Ledger, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the workers' settings that options gave; check those that variables give as well."""
    given = {
        name: ledger.choices[name].value
        for name in ("transport", "require")
        if ledger.choices[name].level
    }
    checked = config.load_settings(environ, given, "--{}")
    for name in ("transport", "require"):
        value = getattr(checked, name)
        source = checked.name_of(name) if value not in {"", "auto"} else DEFAULT
        ledger.note(name, Known(value, source))
    return given


def _secret(ledger: Ledger, job: Job, task: Task | None, environ: Mapping[str, str]) -> bytes:
    choice = ledger.choices["secret_file"]
    # A file on the command line goes before a secret in a variable.
    told = {config.SECRET_FILE: choice.value} if choice.level == options.COMMAND_LINE else environ
    secret = load_secret(told)
    if secret or job.gang.alone or job.insecure:
        source = choice.source or config.SECRET
        return _given(ledger, secret, source if secret else DEFAULT)
    if task and task.local_size == task.size:
        secret, path = host_secret(environ)
        return _given(ledger, secret, f"{path}, as all tasks are on this host")
    raise RefusalError(
        f"{job.gang.max_nodes} nodes need a secret that all of them have: give --secret-file "
        f"FILE, or set {config.SECRET_FILE} or {config.SECRET}, as from a Secret "
        "of Kubernetes; or --insecure, to let whoever reaches node 0 take part",
        NO_JOB,
    )


def _given(ledger: Ledger, secret: bytes, source: str) -> bytes:
    """Note that there is a secret, not which."""
    ledger.note("secret", Known("given" if secret else "none", source))
    return secret


def _require_devices(job: Job, survey: Survey | None, environ: Mapping[str, str]) -> None:
    """Refuse what cannot work: RDMA is asked for, and the node has none that works."""
    asked = config.load_settings(environ, job.settings, "--{}")
    field = "transport" if asked.transport == "verbs" else "require"
    if field == "require" and (job.gang.alone or asked.require != "verbs"):
        return
    if survey is None or any(nic.port for nic in survey.allocation.nics):
        return
    reasons = (str(each) for each in survey.complaints if each.id.startswith("nic-"))
    why = next(reasons, "rdmatrain topo shows what it has")
    raise RefusalError(
        f"{asked.name_of(field)}=verbs, but no RDMA port of this node works for the job: {why}",
        NO_DEVICES,
    )


def _note_what_does_not_count(ledger: Ledger, position: Position) -> None:
    for option in options.OPTIONS:
        choice = ledger.choices[option.field]
        if option.instead and choice.level:
            ledger.notes.append(f"{choice.source} is not used: {option.instead}")
    if position.identity and position.nodes.value.most > 1:
        told = [each for each in position.identity.complaints if each.id in _TOLD]
        ledger.notes += [f"warning: {each}" for each in told]
