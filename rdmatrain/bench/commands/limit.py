"""``rdmatrain bench limit``: its options."""

import shlex
import sys
from typing import Any

import click

from rdmatrain.bench.commands.sweep import WrongOption, time_budget
from rdmatrain.bench.options import SweepOptions
from rdmatrain.errors import SettingError


@click.command(epilog="Exit code: 1 if a result is wrong or missing, 2 for wrong options.")
@click.option(
    "-b", "--min-bytes", default="8", show_default=True, metavar="SIZE", help="First size."
)
@click.option(
    "-e", "--max-bytes", default="64M", show_default=True, metavar="SIZE", help="Last size."
)
@click.option(
    "-f",
    "--step-factor",
    type=int,
    default=2,
    show_default=True,
    help="From a size to the next one.",
)
@click.option(
    "--transport",
    default="auto",
    show_default=True,
    metavar="LIST",
    help="Of rdmatrain, each a contestant: auto, shm, tcp, verbs.",
)
@click.option("--rounds", type=int, default=5, show_default=True, help="How often all are timed.")
@time_budget("Time for the rounds of all_reduce, and as much for the wire.")
@click.option("--json", default="", metavar="FILE", help="Append JSON lines.")
@click.option("--html", default="", metavar="FILE", help="Write a report.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Measure the ceilings of this machine, and what part of them rdmatrain reaches.

    All-reduce of two ranks of this host is held against the memory's limit, the price of a call,
    and both together; writes, where there is an RDMA device, against perftest. All take turns in
    one run.
    """
    from rdmatrain.bench.limit import run_limit  # noqa: PLC0415 - --help stays fast

    line = shlex.join(["rdmatrain", *sys.argv[1:]])
    try:
        code = run_limit(SweepOptions(operations=(), **given), line, click.echo)
    except SettingError as error:
        raise WrongOption(str(error)) from error
    ctx.exit(code)
