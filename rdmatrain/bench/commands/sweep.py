"""``rdmatrain bench OP``: its options, in nccl-tests' spelling where that has them."""

import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from rdmatrain.bench.options import DTYPES, REDOPS, SweepOptions
from rdmatrain.errors import RdmatrainError, SettingError

_Command = TypeVar("_Command", bound=Callable[..., Any])


class WrongOption(click.ClickException):
    """A wrong option, as one line on stderr."""

    exit_code = 2


def time_budget(text: str) -> Callable[[_Command], _Command]:
    """Return the option of that name; the text says what of the command it bounds."""
    return click.option(
        "--time-budget",
        "time_budget_s",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help=f"{text} [default: no bound]",
    )


@click.command(epilog="Exit code: 1 if a result is wrong or missing, 2 for wrong options.")
@click.option(
    "-b", "--min-bytes", default="8", show_default=True, metavar="SIZE", help="First size."
)
@click.option(
    "-e",
    "--max-bytes",
    default="64M",
    show_default=True,
    metavar="SIZE",
    help="Last size; K, M and G are powers of two. A size is that of a rank's larger tensor.",
)
@click.option(
    "-f",
    "--step-factor",
    type=int,
    default=2,
    show_default=True,
    help="From a size to the next one.",
)
@click.option("-i", "--step-bytes", default="", metavar="SIZE", help="The same, as a distance.")
@click.option(
    "-n", "--iters", type=int, default=0, help="Timed calls of a round. [default: what 20 ms hold]"
)
@click.option(
    "-w",
    "--warmup-iters",
    type=int,
    default=-1,
    help="Calls before them. [default: a tenth of them, at least 2]",
)
@click.option(
    "-c",
    "--check",
    type=click.Choice(["0", "1"]),
    default="1",
    show_default=True,
    help="Compare the results of each size, before it is timed.",
)
@click.option(
    "-d",
    "--dtype",
    default="float32",
    show_default=True,
    metavar="LIST",
    help=f"{', '.join(DTYPES)}, or all; nccl-tests' names too.",
)
@click.option(
    "-o",
    "--op",
    "redop",
    default="sum",
    show_default=True,
    metavar="LIST",
    help=f"Reductions: {', '.join(REDOPS)}, or all.",
)
@click.option("-r", "--root", type=int, default=0, show_default=True, help="Root rank.")
@click.option("--ranks", type=int, default=2, show_default=True, help="Ranks of each contestant.")
@click.option(
    "--transport",
    default="auto",
    show_default=True,
    metavar="LIST",
    help="Of rdmatrain, each a contestant: auto, shm, tcp, verbs.",
)
@click.option(
    "--vs",
    default="",
    metavar="LIST",
    help="Peers: gloo, nccl, openmpi, mpich, intelmpi, perftest; see rdmatrain bench peers. "
    "Ceilings of an all_reduce: limit (memory alone), fake (a call that does nothing).",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where rdmatrain's tensors are; auto: on cuda where nccl takes part, as NCCL's are. "
    "With --transport verbs, cuda has write's NIC write from GPU to GPU.",
)
@click.option("--rounds", type=int, default=5, show_default=True, help="How often all are timed.")
@time_budget("Time for the rounds; fewer calls, then fewer rounds are made.")
@click.option("--json", default="", metavar="FILE", help="Append JSON lines.")
@click.option("--csv", default="", metavar="FILE", help="Append CSV.")
@click.option("--html", default="", metavar="FILE", help="Write a report.")
@click.option("--png", default="", metavar="FILE", help="Draw.")
@click.option("--svg", default="", metavar="FILE", help="Draw.")
@click.option("--plot", is_flag=True, help="Draw in the terminal.")
@click.option(
    "--no-pin",
    "pin",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Let ranks move between CPUs.",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(ctx: click.Context, /, *, check: str, **given: Any) -> None:
    """Time operations over rdmatrain and its peers, all in one run, and compare them.

    Operations have commas between them; all is all of them. Rounds go through all sizes and
    contestants, so that drift hits all alike. Ctrl-C shows what was measured so far.
    """
    from rdmatrain.bench.command import run_sweep  # noqa: PLC0415 - --help stays fast

    names = tuple(ctx.meta["operations"])
    line = shlex.join(["rdmatrain", *sys.argv[1:]])
    try:
        by_factor = ctx.get_parameter_source("step_factor") is not ParameterSource.DEFAULT
        if given["step_bytes"] and by_factor:
            raise SettingError("-f and -i contradict each other: give one of them")
        code = run_sweep(SweepOptions(names, check=check == "1", **given), line, click.echo)
    except SettingError as error:
        raise WrongOption(str(error)) from error
    except RdmatrainError as error:
        raise click.ClickException(str(error)) from error
    ctx.exit(code)
