"""The ``rdmatrain`` command. Each command turns its options into a call of one package."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from click.core import ParameterSource

from rdmatrain import __version__
from rdmatrain.errors import RdmatrainError, SettingError


class _WrongSetting(click.ClickException):
    """A wrong option or variable, as one line on stderr."""

    exit_code = 2


def _dashes(name: str) -> str:
    return name.replace("_", "-")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rdmatrain")
def cli() -> None:
    """Distributed PyTorch training over RDMA on Kubernetes."""


@cli.command(context_settings={"allow_interspersed_args": False, "token_normalize_func": _dashes})
@click.option(
    "--nproc-per-node",
    type=int,
    default=1,
    show_default=True,
    help="Workers to start on this node.",
)
@click.option(
    "--nnodes",
    type=int,
    default=1,
    show_default=True,
    help="Nodes in the job; run the same command on each.",
)
@click.option(
    "--node-rank",
    type=int,
    default=0,
    show_default=True,
    help="This node's number, 0 to nnodes - 1.",
)
@click.option(
    "--master-addr",
    metavar="HOST",
    help="Address of node 0, the same on every node. [default: 127.0.0.1 for one node]",
)
@click.option(
    "--master-port",
    type=int,
    metavar="PORT",
    help="Free TCP port on node 0, the same on every node. [default: a free one for one node]",
)
@click.option(
    "--transport",
    metavar="NAME",
    help="What joins every pair of ranks: verbs, shm or tcp. [default: the best for each, auto]",
)
@click.option(
    "--require",
    metavar="NAME",
    help="What must join ranks of different hosts, verbs or tcp; shm: there are none.",
)
@click.option(
    "-m", "--module", is_flag=True, help="SCRIPT is the name of a module, run as python -m does."
)
@click.argument("script")
@click.argument("script_args", nargs=-1, type=click.UNPROCESSED)
def run(**options: object) -> None:
    """Start SCRIPT once per worker with torchrun's environment; return its exit code.

    Everything after SCRIPT is passed to it untouched. Options may be written with dashes or with
    underscores. Output is forwarded line by line behind the rank. The exit code is 0 when every
    worker ended with 0; else that of the first worker that failed, or 128 + N after signal N.
    """
    from rdmatrain.launcher import LaunchSpec, launch  # noqa: PLC0415 - --help stays fast

    try:
        code = launch(LaunchSpec(**options))  # type: ignore[arg-type]  # names match the options
    except SettingError as error:
        raise _WrongSetting(str(error)) from error
    except RdmatrainError as error:
        raise click.ClickException(str(error)) from error
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
@click.option(
    "--tuning",
    is_flag=True,
    help="Only the switch points of collectives, and their source.",
)
@click.option(
    "--ranks",
    type=click.IntRange(1, 4096),
    default=2,
    show_default=True,
    help="Ranks of the group, for --tuning.",
)
@click.option(
    "--hosts",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Hosts that they are spread over: of several, the cost of each way of an all_reduce.",
)
def topo(*, tuning: bool, ranks: int, hosts: int, **options: object) -> None:
    """Show what this pod got: GPUs, RDMA devices, which belong together, and what is wrong.

    FILE may be a snapshot (--dump), topology XML of NCCL, XML of hwloc, the text of nvidia-smi topo
    -m, or ResourceSlices, of which several are put together.
    """
    if hosts > ranks:
        raise _WrongSetting(f"--hosts {hosts} is more than --ranks {ranks}")
    with _one_line():
        if tuning:
            if any(options.values()):
                raise _WrongSetting("--tuning goes with --ranks and --hosts, with nothing else")
            _show_tuning(ranks, hosts)
            return
        if (ranks, hosts) != (2, 1):
            raise _WrongSetting("--ranks and --hosts are of the tuning table: add --tuning")
        from rdmatrain.topo.command import TopoOptions, show_topology  # noqa: PLC0415

        show_topology(TopoOptions(**options), _print)  # type: ignore[arg-type]  # names match


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


def _show_tuning(ranks: int, hosts: int) -> None:
    from rdmatrain.comm.tuning import parse_tuning, tuning_table, ways_table  # noqa: PLC0415
    from rdmatrain.config import load_settings  # noqa: PLC0415

    changes = parse_tuning(load_settings().tuning)
    _print(tuning_table(ranks, changes))
    if hosts > 1:
        _print("\n" + ways_table(ranks, hosts, changes))


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except SettingError as error:
        from rdmatrain.topo.terminal import printable  # noqa: PLC0415 - only errors need it

        raise _WrongSetting(printable(str(error))) from error


def _print(text: str) -> None:
    """Print what a terminal of any encoding can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding))
    except BrokenPipeError:
        raise  # click ends quietly: the reader has seen enough
    except OSError as error:
        raise click.ClickException(f"cannot write to standard output: {error}") from error


def main() -> None:
    """Run the command line in ``sys.argv``; always ends by ``sys.exit``."""
    cli(prog_name="rdmatrain")


if __name__ == "__main__":
    main()
