"""The ``rdmatrain`` command. Each command turns its options into a call of one package."""

import click

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


@cli.command()
@click.option(
    "--tuning",
    is_flag=True,
    expose_value=False,
    help="The switch points of collectives and their source; so far all there is.",
)
@click.option(
    "--ranks",
    type=click.IntRange(1, 4096),
    default=2,
    show_default=True,
    help="Ranks of the group.",
)
@click.option(
    "--hosts",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Hosts that they are spread over: of several, the cost of each way of an all_reduce.",
)
def topo(*, ranks: int, hosts: int) -> None:
    """Show what the backend would use here."""
    from rdmatrain.comm.tuning import parse_tuning, tuning_table, ways_table  # noqa: PLC0415
    from rdmatrain.config import load_settings  # noqa: PLC0415

    if hosts > ranks:
        raise _WrongSetting(f"--hosts {hosts} is more than --ranks {ranks}")
    try:
        changes = parse_tuning(load_settings().tuning)
        click.echo(tuning_table(ranks, changes))
        if hosts > 1:
            click.echo("\n" + ways_table(ranks, hosts, changes))
    except SettingError as error:
        raise _WrongSetting(str(error)) from error


def main() -> None:
    """Run the command line in ``sys.argv``; always ends by ``sys.exit``."""
    cli(prog_name="rdmatrain")


if __name__ == "__main__":
    main()
