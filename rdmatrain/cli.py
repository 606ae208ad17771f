"""The ``rdmatrain`` command. Each command turns its options into a call of one package."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from rdmatrain import __version__
from rdmatrain.bench import commands as bench
from rdmatrain.errors import RdmatrainError, SettingError
from rdmatrain.k8s import commands as k8s
from rdmatrain.launcher import exit_codes, options
from rdmatrain.topo import tuning

if TYPE_CHECKING:
    from rdmatrain.doctor.report import Style
    from rdmatrain.launcher.job import Job
    from rdmatrain.launcher.resolve import Resolved


class _WrongSetting(click.ClickException):
    """A wrong option or variable, as one line on stderr, and what is to be told after it."""

    def __init__(
        self, message: str, exit_code: int = 2, then: Callable[[], None] | None = None
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it of the instance
        self._then = then

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        super().show(file)
        if self._then:
            self._then()


class _Doctor:
    """The doctor before and after a job: only who wants it imports it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.refuses = False
        # What the job needs is known by the job, or else, where there is none, by the command line.
        self._wanted: Job | Mapping[str, Any] = given

    def before(self, resolved: "Resolved") -> None:
        """Ask it, if the user wants that, and refuse to start the job where a check fails."""
        self._wanted = resolved.job
        if not resolved.preflight:
            return
        from rdmatrain.doctor.around import preflight  # noqa: PLC0415

        self.refuses = True
        preflight(resolved.job, _tell, _style(sys.stderr))
        self.refuses = False

    def after(self, code: int) -> None:
        """Ask it after a fault that may be of this pod, unless it has just said so."""
        if code in exit_codes.OF_PODS and not self.refuses:
            from rdmatrain.doctor.around import aftermath  # noqa: PLC0415

            aftermath(code, self._wanted, _tell, _style(sys.stderr))


def _dashes(name: str) -> str:
    return name.replace("_", "-")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rdmatrain")
def cli() -> None:
    """Distributed PyTorch training over RDMA on Kubernetes."""


class _RunCommand(click.Command):
    """``rdmatrain run``: its options are the table of ``rdmatrain.launcher.options``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say which option was meant where there is none such."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _WrongSetting(options.unknown_option(error.option_name)) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under the headings of the table."""
        records = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        for group in options.GROUPS:
            with formatter.section(group):
                rows = [records.pop(each.field) for each in options.OPTIONS if each.group == group]
                formatter.write_dl(list(filter(None, rows)))


def _completion(context: click.Context, _option: click.Parameter, shell: str | None) -> None:
    """Print what completes commands in a shell, and end, as --help does."""
    if shell is None:
        return
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - seldom asked for

    option = options.BY_FIELD["print_completion"]
    with _one_line():
        kind = get_completion_class(options.read(option, f"--{option.name} ", shell))
    assert kind is not None  # the option's reader knows the shells that click does
    _print(kind(cli, {}, "rdmatrain", "_RDMATRAIN_COMPLETE").source())
    context.exit()


def _from_table(option: options.Option) -> click.Option:
    names = [f"--{option.name}", *([f"-{option.short}"] if option.short else [])]
    text = f"{option.help} [default: {option.default}]" if option.default else option.help
    if option.field == "print_completion":
        eager: dict[str, Any] = {"is_eager": True, "expose_value": False}
        return click.Option(names, metavar=option.metavar, help=text, callback=_completion, **eager)
    if option.metavar:
        return click.Option(names, metavar=option.metavar, help=text)
    return click.Option(names, is_flag=True, default=None, help=text)


@cli.command(
    cls=_RunCommand,
    context_settings={"allow_interspersed_args": False, "token_normalize_func": _dashes},
    params=[_from_table(option) for option in options.OPTIONS],
)
@click.argument("script")
@click.argument("script_args", nargs=-1, type=click.UNPROCESSED)
def run(**given: Any) -> None:
    """Start SCRIPT once per worker with torchrun's environment; return its exit code.

    Everything after SCRIPT is passed to it; a -- right after it is dropped, as torchrun does.
    Options may be written with dashes or with underscores, and each of torchrun's is a variable as
    well: PET_NNODES for --nnodes; rdmatrain's own are RDMATRAIN_GRACE and so on. In a pod, nodes,
    their ranks and workers follow from what its orchestrator says: --explain shows it.
    """
    from rdmatrain.launcher.command import run_job  # noqa: PLC0415 - --help stays fast

    if given["script_args"][:1] == ("--",):
        given["script_args"] = given["script_args"][1:]
    asked = _Doctor(given)
    try:
        code = run_job(given, _print, asked.before)
    except SettingError as error:
        code = getattr(error, "exit_code", exit_codes.USAGE)
        looked = given["explain"] or given["dry_run"]
        then = None if looked else partial(asked.after, code)
        raise _WrongSetting(str(error), code, then) from error
    except RdmatrainError as error:
        raise click.ClickException(str(error)) from error
    asked.after(code)
    click.get_current_context().exit(code)


def _not_empty(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuse what a shell's unset variable leaves, which would be taken for no option at all."""
    default = context.get_parameter_source(option.name or "") is ParameterSource.DEFAULT
    if not default and "" in (value if isinstance(value, tuple) else (value,)):
        raise _WrongSetting(f"{option.opts[0]} is empty: give a name, or leave it out")
    return value


_file_option = click.option(
    "-F",
    "files",
    multiple=True,
    metavar="FILE",
    callback=_not_empty,
    help="Look at a file instead of this machine; - is standard input. May be repeated.",
)
_root_option = click.option(
    "--root",
    default="",
    metavar="DIR",
    callback=_not_empty,
    help="Read the files of the machine whose root this is.",
)
_json_option = click.option("--json", is_flag=True, help="Print JSON, and nothing else.")


@cli.command()
@_file_option
@_root_option
@_json_option
@click.option(
    "--svg",
    default="",
    metavar="FILE",
    callback=_not_empty,
    help="Save a drawing too; - prints it.",
)
@click.option(
    "--nccl-topo",
    default="",
    metavar="FILE",
    callback=_not_empty,
    help="Save a topology file for NCCL_TOPO_FILE too, for machines that hide theirs; - prints it.",
)
@click.option(
    "--dump",
    default="",
    metavar="FILE",
    callback=_not_empty,
    help="Save all that was read too, for a bug report; - prints it. -F shows it again.",
)
@click.option("--redact", is_flag=True, help="Save no names, addresses and foreign variables.")
@tuning.options
def topo(**given: Any) -> None:
    """Show what this pod got: GPUs, RDMA devices, which belong together, and what is wrong.

    FILE may be a snapshot (--dump), topology XML of NCCL, XML of hwloc, the text of nvidia-smi topo
    -m, or ResourceSlices, of which several are put together.
    """
    from rdmatrain.topo.command import TopoOptions, show_topology  # noqa: PLC0415

    asked = given.pop("tuning")
    group = tuning.Group(**{each.name: given.pop(each.name) for each in fields(tuning.Group)})
    with _one_line():
        if not tuning.show(asked, group, any(given.values()), _print):
            show_topology(TopoOptions(**given), _print)


@cli.command()
@_file_option
@_root_option
@_json_option
def whoami(**options: object) -> None:
    """Show who this process is in its job, by which orchestrator, and who says so.

    FILE is a snapshot that rdmatrain topo --dump saved.
    """
    from rdmatrain.topo.command import WhoamiOptions, show_identity  # noqa: PLC0415

    with _one_line():
        show_identity(WhoamiOptions(**options), _print)  # type: ignore[arg-type]  # names match


def _text_option(name: str, metavar: str, text: str) -> Any:
    return click.option(name, default="", metavar=metavar, callback=_not_empty, help=text)


def _ids_option(name: str, text: str) -> Any:
    return click.option(name, multiple=True, metavar="ID", callback=_not_empty, help=text)


def _mib_option(name: str, default: int, text: str) -> Any:
    kind = click.IntRange(1, 1 << 40)
    return click.option(
        name, type=kind, default=default, metavar="MIB", show_default=True, help=text
    )


_DOCTOR_OPTIONS = [
    click.option(
        "-f", "manifests", multiple=True, metavar="FILE", callback=_not_empty,
        help="Look at a manifest of Kubernetes, and run nothing; - is standard input. Repeatable.",
    ),
    click.option(
        "-F", "snapshot", default="", metavar="FILE", callback=_not_empty,
        help="Look at a saved machine (--dump) instead of this one; - is standard input.",
    ),
    click.option("--gang", is_flag=True, help="Examine all pods of a job; run it on each of them."),
    click.option(
        "--gang-timeout", type=click.FloatRange(1, 3600), default=60.0, show_default=True,
        metavar="S", help="Longest wait for the pods of --gang, and then for what they measure.",
    ),
    _text_option("--plot", "FILE", "Draw the bandwidths of --gang too: a .png or .svg."),
    _json_option,
    click.option("--quiet", is_flag=True, help="Print only what is wrong; nothing if nothing is."),
    click.option("--verbose", is_flag=True, help="Print a line for every check."),
    click.option("--list", is_flag=True, help="List all checks."),
    click.option("--markdown", is_flag=True, help="With --list: as a page of Markdown."),
    _text_option("--explain", "ID", "Say what a check asks, why it matters, who was hit by it."),
    _ids_option("--only", "Ask this check alone. May be repeated."),
    _ids_option("--skip", "Do not ask this one. May be repeated."),
    _text_option("--dump", "FILE", "Save all that was seen too; - prints it. -F shows it again."),
    click.option("--redact", is_flag=True, help="Save no names, addresses and foreign variables."),
    _text_option(
        "--transport", "NAME",
        "What must join ranks of different hosts: verbs or tcp; shm: there are none. "
        "Default: as RDMATRAIN_REQUIRE says, or the best.",
    ),
    click.option(
        "--ranks", type=click.IntRange(0, 4096), default=0, metavar="N",
        help="Processes of this pod. Default: as the orchestrator says, or one for each GPU.",
    ),
    click.option(
        "--nodes", type=click.IntRange(0, 65536), default=0, metavar="N",
        help="Nodes of the job. Default: as the orchestrator says.",
    ),
    _text_option("--leader", "HOST:PORT", "Where node 0 is. Default: as the orchestrator says."),
    _text_option("--checkpoint-dir", "DIR", "Where checkpoints go."),
    _mib_option("--checkpoint-mib", 1024, "How large a checkpoint is."),
    _mib_option("--register-mib", 512, "Memory that each rank registers with its NIC."),
]  # fmt: skip


def _doctor_options(command: Any) -> Any:
    for each in reversed(_DOCTOR_OPTIONS):
        command = each(command)
    return command


@cli.command()
@_doctor_options
def doctor(**given: Any) -> None:
    """Say why this pod will, or will not, train over RDMA, with the line to change.

    The exit code is 0 if no check fails, or else that which a job would have here.
    """
    from rdmatrain.doctor.command import DoctorOptions, run_doctor  # noqa: PLC0415
    from rdmatrain.doctor.model import Needs  # noqa: PLC0415

    said = [each.name for each in fields(Needs) if each.name in given]
    needs = Needs(**{name: given.pop(name) for name in said})
    with _one_line():
        code = run_doctor(DoctorOptions(**given, needs=needs), _print, sys.stdout)
    click.get_current_context().exit(code)


cli.add_command(bench.group)
cli.add_command(k8s.group)


def _style(stream: TextIO) -> "Style":
    from rdmatrain.doctor.report import Style  # noqa: PLC0415 - only the doctor has one

    return Style.of(stream)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except SettingError as error:
        from rdmatrain.topo.terminal import printable  # noqa: PLC0415 - only errors need it

        raise _WrongSetting(printable(str(error))) from error


def _tell(text: str) -> None:
    """Print on stderr, where the launcher tells; a reader that has left is no error."""
    with suppress(OSError):
        click.echo(text.encode(_encoding(sys.stderr), "backslashreplace"), err=True)


def _encoding(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _print(text: str) -> None:
    """Print what a terminal of any encoding can show."""
    encoding = _encoding(sys.stdout)
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding))
    except BrokenPipeError:
        raise  # click ends quietly: the reader has seen enough
    except OSError as error:
        raise click.ClickException(f"cannot write to standard output: {error}") from error


def _end_early(number: int, frame: FrameType | None) -> None:
    """End before there is a job that could be stopped."""
    sys.exit(128 + number)


def main() -> None:
    """Run the command line in ``sys.argv``; always ends by ``sys.exit``."""
    # As PID 1 of a pod, a process without a handler does not get SIGTERM at all.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_early)
    try:
        cli(prog_name="rdmatrain")
    except SystemExit as end:
        _end_beside_hung_probes(end.code)
        raise


def _end_beside_hung_probes(code: object) -> None:
    """End at once where a probe still hangs: libraries that clean up would wait for its lock."""
    deadline = sys.modules.get("rdmatrain.discovery.deadline")
    # After a signal, somebody waits for the end.
    by_signal = isinstance(code, int) and 128 < code <= 128 + signal.SIGRTMAX
    if deadline is None or deadline.all_ended(at_once=by_signal):
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # it is None or closed, as by >&-
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
