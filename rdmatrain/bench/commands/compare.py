"""``rdmatrain bench compare``: its options, and what it shows."""

import json
import shlex
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdmatrain.bench.commands.sweep import WrongOption, time_budget
from rdmatrain.errors import SettingError

if TYPE_CHECKING:
    from rdmatrain.bench.change import Change
    from rdmatrain.bench.compare import Comparison, Judged

SWEEP = ("all_reduce", "-b", "8", "-e", "2M", "-f", "8", "--rounds", "3")
HEADER = f"{'#':1} {'bytes':>12} {'place':>5} {'a p50 us':>12} {'b p50 us':>12}   b/a  interval"
WORDS = {
    "slower": "b is slower",
    "faster": "b is faster",
    "same": "no slow-down",
    "unsure": "no slow-down was found; noise may hide one of {most:.0%}: measure more rounds, on a "
    "machine that does nothing else",
}


@click.command(
    epilog="Exit code: 1 if b is slower, or its ranks were joined in another way; 2 for files or "
    "options that are wrong; 128 and the signal that stopped --builds; else 0."
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--threshold",
    type=click.FloatRange(0.0, 10.0),
    default=0.02,
    show_default=True,
    help="Part of the time by which b may be slower.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1.0, min_open=True, max_open=True),
    default=0.99,
    show_default=True,
    help="At which nothing is called slower that is not, and of the intervals.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
@click.option(
    "--builds",
    nargs=2,
    metavar="PYTHON PYTHON",
    help="Measure first, in turns, and write A and B: interpreters that have the two builds.",
)
@click.option("--starts", type=click.IntRange(1), help="How often, of each build. [default: 24]")
@click.option("--sweep", metavar="ARGS", help="What of. [default: " + " ".join(SWEEP) + "]")
@click.option("--resume", is_flag=True, help="Go on with A and B, that --builds has begun.")
@time_budget("Time for the starts of --builds; fewer are made.")
@click.pass_context
def command(ctx: click.Context, /, *, a: Path, b: Path, as_json: bool, **given: Any) -> None:
    """Tell whether the results of file B are slower than those of file A.

    Surest is --builds, which starts the ranks of both builds many times, in turns, and compares
    start by start; what was measured before Ctrl-C is compared and can be gone on with. Otherwise
    files are what --json of the operations wrote; if one has several
    runs, they are put together, and the fastest rounds count, after what the machine's pace changed
    by: measure both on the same machine, at once after each other, with at least 10 rounds.
    """
    from rdmatrain.bench.compare import compare  # noqa: PLC0415 - --help stays fast
    from rdmatrain.bench.records import read_json  # noqa: PLC0415

    threshold, confidence = given.pop("threshold"), given.pop("confidence")
    try:
        stopped_by = _measure(a, b, **given)
        found = compare(read_json(a), read_json(b), threshold, confidence)
    except SettingError as error:
        raise WrongOption(str(error)) from error
    if as_json:
        click.echo(json.dumps(as_data(found, threshold, confidence)))
    else:
        click.echo("\n".join(as_text(found, a, b, confidence)))
    ctx.exit(128 + stopped_by if stopped_by else found.exit_code)


def _measure(a: Path, b: Path, builds: tuple[str, str] | None, **given: Any) -> int:
    """Measure the builds, if there are any; return the signal that stopped it, or 0.

    Exits where there is too little to compare.

    """
    if not builds:
        if any(given.values()):
            raise SettingError(
                "--starts, --sweep, --resume and --time-budget are of what is measured: add "
                "--builds"
            )
        return 0
    from rdmatrain.bench.builds import Builds, measure  # noqa: PLC0415 - --help stays fast
    from rdmatrain.bench.progress import say  # noqa: PLC0415
    from rdmatrain.bench.starts import GOOD_STARTS, MIN_STARTS  # noqa: PLC0415

    sweep, budget_s = given["sweep"], given["time_budget_s"]
    if not budget_s >= 0:  # nan is none
        raise SettingError(f"--time-budget {budget_s:g}: give 0 or more")
    starts = given["starts"] or GOOD_STARTS
    arguments = shlex.split(sweep) if sweep else SWEEP
    made, stopped_by = measure(
        Builds(builds, (a, b), starts, arguments, budget_s, given["resume"]), say
    )
    if made < starts:
        why = f"stopped by {signal.Signals(stopped_by).name}" if stopped_by else "time is up"
        say(f"{why} after {made} of {starts} starts of each build: --resume goes on")
    if stopped_by and made < MIN_STARTS:
        say(f"fewer than {MIN_STARTS} are not compared")
        raise click.exceptions.Exit(128 + stopped_by)
    return stopped_by


def as_text(found: "Comparison", a: Path, b: Path, confidence: float) -> list[str]:
    """Return lines: what is not alike, a table of cases, a line for each group, the verdict."""
    groups = [each for each in found.judged if each.level != "case"]
    return [
        f"# a: {a}",
        f"# b: {b}",
        *_remarks(found, confidence),
        *_table(found, confidence),
        "#",
        *(_group_line(each, confidence) for each in groups),
        f"# verdict: {_verdict(found, confidence)}",
    ]


def _remarks(found: "Comparison", confidence: float) -> list[str]:
    lines = [f"# TRANSPORT CHANGED: {text}" for text in found.changed_transports]
    lines += [f"# warning: {text}" for text in found.warnings]
    lines += [f"# only in a: {key}" for key in found.only_a]
    lines += [f"# only in b: {key}" for key in found.only_b]
    if found.starts:
        lines.append(f"# {found.starts} starts of each, compared in turns")
    if found.pace:
        lines.append(
            f"# pace: the machine took {_ratio(found.pace, confidence)} times as long in b"
        )
    return lines


def _table(found: "Comparison", confidence: float) -> list[str]:
    lines: list[str] = []
    heading = ""
    for case in (each for each in found.judged if each.level == "case"):
        key = case.key
        new = f"# {key.entry} {key.op} {key.dtype} {key.redop}".rstrip() + f", {key.ranks} ranks"
        if new != heading:
            heading = new
            lines += ["#", heading, HEADER]
        lines.append(_row(found, case, confidence))
    return lines


def _row(found: "Comparison", case: "Judged", confidence: float) -> str:
    a, b = (each.p50 * 1e6 for each in found.measured[case.key])
    place = "in" if case.key.in_place else "out"
    numbers = f"{case.key.nbytes:14d} {place:>5} {a:12.2f} {b:12.2f}"
    return f"{numbers} {_ratio(case.change, confidence)}  {case.verdict}"


def _group_line(group: "Judged", confidence: float) -> str:
    name = f"{group.key.entry}, {group.key.ranks} ranks"
    what = f"{name}, {group.key.op}" if group.level == "op" else f"{name}, all"
    return f"# {what}: {_ratio(group.change, confidence)}  {group.verdict}"


def _ratio(change: "Change", confidence: float) -> str:
    low, high = change.interval(confidence)
    return f"{change.ratio:5.3f}  {low:.3f}..{high:.3f}"


def _verdict(found: "Comparison", confidence: float) -> str:
    whole = [each.change for each in found.judged if each.level == "contestant"]
    most = max(change.interval(confidence)[1] for change in whole) - 1
    return WORDS[found.verdict].format(most=most)


def as_data(found: "Comparison", threshold: float, confidence: float) -> dict[str, Any]:
    """Return what ``--json`` prints.

    Returns:
        verdict (slower, faster, same, unsure), exit_code, threshold, confidence;
        changed_transports and warnings, texts; only_a and only_b, cases; starts, a number, 0 where
        rounds were compared; pace, a change or null;
        judged: level (contestant, op, case), the fields of its first case, num_cases, verdict, and
        a change. A change is ratio, low and high: seconds of b / seconds of a, and its interval.
        A case has seconds_p50_a and seconds_p50_b too.

    """

    def change(of: "Change") -> dict[str, float]:
        low, high = of.interval(confidence)
        return {"ratio": of.ratio, "low": low, "high": high}

    def judged(each: "Judged") -> dict[str, Any]:
        data = {"level": each.level, **asdict(each.key), "num_cases": each.num_cases}
        if each.level == "case":
            a, b = found.measured[each.key]
            data |= {"seconds_p50_a": a.p50, "seconds_p50_b": b.p50}
        return data | {"verdict": each.verdict} | change(each.change)

    return {
        "verdict": found.verdict,
        "exit_code": found.exit_code,
        "threshold": threshold,
        "confidence": confidence,
        "changed_transports": found.changed_transports,
        "warnings": found.warnings,
        "only_a": [asdict(key) for key in found.only_a],
        "only_b": [asdict(key) for key in found.only_b],
        "starts": found.starts,
        "pace": change(found.pace) if found.pace else None,
        "judged": [judged(each) for each in found.judged],
    }
