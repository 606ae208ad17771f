"""``rdmatrain bench scale``: how cost grows with the number of ranks."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rdmatrain.bench.commands.sweep import WrongOption, time_budget
from rdmatrain.bench.sizes import parse_size
from rdmatrain.errors import SettingError

if TYPE_CHECKING:
    from rdmatrain.bench.scale.simulate import Network


def _numbers(text: str, option: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise SettingError(f"{option}: {text} is no list of numbers with commas between them")
    return tuple(sorted({int(word) for word in words}))


def _words(text: str, option: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = text.split(",")
    for word in words:
        if word not in known:
            raise SettingError(f"{option}: {word} is none of {', '.join(known)}")
    return tuple(dict.fromkeys(words))


def _network(ctx: click.Context) -> tuple["Network", str]:
    """Return what the simulation is fed with, and where that comes from."""
    from rdmatrain.bench.scale.command import GIVEN  # noqa: PLC0415 - --help stays fast
    from rdmatrain.bench.scale.fed import network_of  # noqa: PLC0415
    from rdmatrain.bench.scale.simulate import Network  # noqa: PLC0415

    us = [ctx.params[f"{name}_us"] / 1e6 for name in ("latency", "message", "hop")]
    given = Network(ctx.params["gbps"], *us)
    if not ctx.params["fed"]:
        return given, GIVEN
    for name in ("gbps", "latency_us"):
        _refuse_beside_fed(ctx, name)
    network, fed_from = network_of(Path(ctx.params["fed"]), given)
    if network.message_s != given.message_s:
        _refuse_beside_fed(ctx, "message_us")
    return network, fed_from


def _refuse_beside_fed(ctx: click.Context, name: str) -> None:
    if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
        option = f"--{name.replace('_', '-')}"
        raise SettingError(f"{option} and --fed contradict each other: give one of them")


@click.command(
    epilog="Exit code: 1 if a part failed, a result is wrong, or no part that was asked for can be "
    "done here; 2 for wrong options."
)
@click.option("--measure", is_flag=True, help="all_reduce and barrier here, many ranks to a CPU.")
@click.option("--setup", is_flag=True, help="How long a group takes to form, and to meet.")
@click.option("--simulate", is_flag=True, help="Our plans on large fabrics; needs SimGrid.")
@click.option("--validate", is_flag=True, help="Predictions beside namespaces; needs root too.")
@click.option("--ranks", default="2,4,8,16,32,64", show_default=True, help="Of --measure.")
@click.option("--setup-ranks", default="2,8,32,128,256", show_default=True, help="Of --setup.")
@click.option("--kinds", default="lazy,hash", show_default=True, help="Of --setup: how they meet.")
@click.option("--gpus", default="8,64,256,1024,4096,16384", show_default=True, help="Simulated.")
@click.option("--fabric", default="fat-tree,rail", show_default=True, help="Simulated.")
@click.option(
    "--bytes", "sizes", default="64,64M", show_default=True, help="Measured and simulated sizes."
)
@click.option(
    "--gbps",
    type=float,
    default=392.0,
    show_default=True,
    help="What a NIC of 400 Gbit/s carries: ib_write_bw's in NCCL's issue 2409.",
)
@click.option(
    "--latency-us",
    type=click.FloatRange(0),
    default=2.5,
    show_default=True,
    help="Of an exchange, without switches: net_latency of verbs in our tuning table.",
)
@click.option(
    "--message-us",
    type=click.FloatRange(0),
    default=0.4,
    show_default=True,
    help="Of each message that a rank sends: net_message of verbs.",
)
@click.option(
    "--hop-us",
    type=click.FloatRange(0),
    default=0.3,
    show_default=True,
    help="Of each switch and its cable.",
)
@click.option(
    "--fed",
    default="",
    metavar="FILE",
    help="Results of rdmatrain bench write,pingpong between hosts without a switch, in place of "
    "--gbps, --latency-us and, where a write of 64 B or less is among them, --message-us.",
)
@time_budget("After which nothing more is begun.")
@click.option("--json", default="", metavar="FILE", help="Append JSON lines, as they are found.")
@click.option("--png", default="", metavar="FILE", help="Draw the simulation.")
@click.option("--svg", default="", metavar="FILE", help="Draw the simulation.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Show how cost grows with the ranks: measured here, and simulated to 16,384 GPUs.

    Without one of the first four options it does all four.
    """
    from rdmatrain.bench.scale import command as scale  # noqa: PLC0415 - --help stays fast
    from rdmatrain.bench.scale.setup import KINDS  # noqa: PLC0415
    from rdmatrain.bench.scale.simulate import FABRICS, Plan  # noqa: PLC0415

    try:
        network, fed_from = _network(ctx)
        options = scale.ScaleOptions(
            parts=tuple(part for part in scale.PARTS if given[part]) or scale.PARTS,
            ranks=_numbers(given["ranks"], "--ranks"),
            setup_ranks=_numbers(given["setup_ranks"], "--setup-ranks"),
            kinds=_words(given["kinds"], "--kinds", KINDS),
            plan=Plan(
                fabrics=_words(given["fabric"], "--fabric", FABRICS),
                gpus=_numbers(given["gpus"], "--gpus"),
                sizes=tuple(parse_size(word, "--bytes") for word in given["sizes"].split(",")),
            ),
            network=network,
            json=given["json"],
            drawings=tuple(filter(None, (given["png"], given["svg"]))),
            fed_from=fed_from,
            time_budget_s=given["time_budget_s"],
            quiet=given["quiet"],
        )
        line = shlex.join(["rdmatrain", *sys.argv[1:]])
        code = scale.run_scale(options, line, click.echo)
    except SettingError as error:
        raise WrongOption(str(error)) from error
    ctx.exit(code)
