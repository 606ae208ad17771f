"""``rdmatrain bench train``: its options."""

import shlex
import sys
from typing import Any

import click

from rdmatrain.bench.commands.sweep import WrongOption, time_budget
from rdmatrain.errors import SettingError


@click.command(epilog="Exit code: 1 if a result is wrong or missing, 2 for wrong options.")
@click.option(
    "--ranks",
    default="1,2",
    show_default=True,
    metavar="LIST",
    help="Numbers of ranks; with 1 among them there is an efficiency.",
)
@click.option(
    "--strategy", default="ddp,fsdp2", show_default=True, metavar="LIST", help="ddp, fsdp2, or all."
)
@click.option("--vs", default="gloo", show_default=True, metavar="LIST", help='Peers; "" for none.')
@click.option("--steps", type=int, default=30, show_default=True, help="Timed, of each contestant.")
@click.option("--width", type=int, default=96, show_default=True, help="Of the model.")
@click.option("--layers", type=int, default=3, show_default=True, help="Of the transformer.")
@click.option("--heads", type=int, default=6, show_default=True, help="Of attention.")
@click.option("--seq-len", type=int, default=128, show_default=True, help="Bytes of a sequence.")
@click.option("--batch", type=int, default=6, show_default=True, help="Sequences of each rank.")
@time_budget("Time for the rounds; fewer are made.")
@click.option("--json", default="", metavar="FILE", help="Append JSON lines.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Time the steps of the demo's model under DDP and FSDP2.

    Steps over rdmatrain, its peers, and nothing alternate in one run: what a step takes beyond the
    one that communicates nothing is exposed communication.
    """
    from rdmatrain.bench.train import TrainOptions, run_train  # noqa: PLC0415 - --help stays fast
    from rdmatrain.bench.train_results import Model  # noqa: PLC0415

    names = ("width", "layers", "heads", "seq_len", "batch")
    model = Model(**{name: given.pop(name) for name in names})
    try:
        line = shlex.join(["rdmatrain", *sys.argv[1:]])
        code = run_train(TrainOptions(model=model, **given), line, click.echo)
    except SettingError as error:
        raise WrongOption(str(error)) from error
    ctx.exit(code)
