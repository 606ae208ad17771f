"""What was found, for people and as JSON."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from textwrap import wrap
from typing import Any, TextIO

from rdmatrain import __version__
from rdmatrain.config import color_allowed
from rdmatrain.doctor.model import GRAVITY, Check, Result, Verdict
from rdmatrain.launcher import exit_codes
from rdmatrain.topo.terminal import WIDTH, printable

SCHEMA = "rdmatrain-doctor/1"
# What else is wrong is told by id alone from here on: all of it is to be seen at once.
SHOWN = 5
# Lines of fewer characters are cut by the terminal.
NARROW = 40
_PAINT = {Verdict.FAIL: "1;31", Verdict.WARN: "1;33", Verdict.PASS: "32", Verdict.SKIP: "2"}
_HEADLINE = {
    Verdict.FAIL: "the job will not run here, or not over RDMA. The cause is {}",
    Verdict.WARN: "the job will run here, slower or at a risk. First of all: {}",
    Verdict.PASS: "nothing is wrong that could be seen{}",
    Verdict.SKIP: "nothing could be seen",
}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class About:
    """What was examined, where and when.

    Attributes:
        subject: what people call it: ``this machine``, or a file.
        host: what the pod is called; empty if nobody says so.
        versions: of what is installed there, by name; empty for what is not.
        seconds: that all of it took.
        time: when it was over.
        more: what else may be asked, and how.

    """

    subject: str = "this machine"
    host: str = field(default_factory=platform.node)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    time: str = field(default_factory=_now)
    more: str = ""


@dataclass(frozen=True)
class Style:
    """How a text is written.

    Attributes:
        color: verdicts are coloured.
        width: of lines, in characters; what is to be copied is longer.
        verbose: every check has a line.

    """

    color: bool = False
    width: int = WIDTH
    verbose: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> "Style":
        """Return what a stream can show: colours and a width are a terminal's."""
        try:
            columns = os.get_terminal_size(stream.fileno()).columns
        except (AttributeError, OSError, ValueError):  # closed, or no terminal
            return cls()
        return cls(
            color=color_allowed(), width=min(max(columns, NARROW), WIDTH) if columns else WIDTH
        )

    def paint(self, verdict: Verdict, text: str = "") -> str:
        """Return a verdict, or a text in its colour."""
        text = text or verdict.value
        return f"\x1b[{_PAINT[verdict]}m{text}\x1b[0m" if self.color else text


def verdict_of(results: Sequence[Result]) -> Verdict:
    """Return the gravest verdict; SKIP if nothing was asked."""
    return max((each.verdict for each in results), key=GRAVITY.__getitem__, default=Verdict.SKIP)


def cause_of(results: Sequence[Result]) -> Result | None:
    """Return the first of the gravest, if it says that something is wrong."""
    verdict = verdict_of(results)
    if GRAVITY[verdict] < GRAVITY[Verdict.WARN]:
        return None
    return next(each for each in results if each.verdict is verdict)


def exit_code(results: Sequence[Result]) -> int:
    """Return the launcher's exit code of the first FAIL; 0 if there is none."""
    failures = (each for each in results if each.verdict is Verdict.FAIL)
    return next((each.check.exit_code for each in failures), 0)


def document(results: Sequence[Result], scope: str, about: About | None = None) -> dict[str, Any]:
    """Return what ``--json`` prints; see schemas/doctor.schema.json.

    Args:
        results: in the order in which they were asked.
        scope: ``node``, ``gang`` or ``manifest``.
        about: what was examined; None for this machine, now.

    """
    about, cause = about or About(), cause_of(results)
    return {
        "schema": SCHEMA,
        "scope": scope,
        "subject": about.subject,
        "host": about.host,
        "time": about.time,
        "seconds": round(about.seconds, 6),
        "version": __version__,
        "versions": dict(about.versions),
        "verdict": verdict_of(results).value,
        "cause": cause.check.id if cause else "",
        "exit_code": exit_code(results),
        "counts": {verdict.value: number for verdict, number in _counts(results).items()},
        "checks": [
            {
                "id": each.check.id,
                "group": each.check.group,
                "verdict": each.verdict.value,
                "evidence": each.finding.evidence,
                "fix": each.finding.fix,
                "seconds": round(each.seconds, 6),
            }
            for each in results
        ],
    }


def as_json(results: Sequence[Result], scope: str, about: About | None = None) -> str:
    """Return :func:`document` as text, in ASCII."""
    return json.dumps(document(results, scope, about), indent=1)


def as_text(
    results: Sequence[Result], style: Style | None = None, about: About | None = None
) -> str:
    """Return a screen: the cause and what to do, what else is wrong, the rest as numbers.

    Args:
        results: in the order in which they were asked.
        style: how to write; None for plain text.
        about: what was examined, which the last line names; None for nothing to say.

    """
    style, verdict, cause = style or Style(), verdict_of(results), cause_of(results)
    headline = _HEADLINE[verdict].format(cause.check.id if cause else _unseen(results))
    lines = _headed(verdict, f": {headline}", style)
    if cause:
        lines += _entry(cause, style)
    lines += _others([each for each in wrong(results) if each is not cause], style)
    lines += ["", *(_every(results, style) if style.verbose else _groups(results, style))]
    return "\n".join([*lines, "", *_last(results, style, cause, about)])


def as_lines(results: Sequence[Result], style: Style | None = None) -> str:
    """Return only what is wrong, the cause first: empty if nothing is."""
    style = style or Style()
    return "\n".join(line for each in wrong(results) for line in _entry(each, style))


def wrong(results: Sequence[Result]) -> list[Result]:
    """Return what says FAIL, and then what says WARN, both in the order of causes."""
    return [
        each for kind in (Verdict.FAIL, Verdict.WARN) for each in results if each.verdict is kind
    ]


def explanation(check: Check) -> str:
    """Return what ``--explain`` prints of a check."""
    meaning = exit_codes.MEANING.get(check.exit_code, "")
    rows = {
        "Group": check.group,
        "Seen in": check.known,
        "Asked unless one of these fails": ", ".join(check.after),
        "Exit code": f"{check.exit_code}, {meaning}",
        "Since": f"rdmatrain {check.since}",
    }
    told = [line for name, text in rows.items() if text for line in _wrapped(f"{name}: {text}")]
    title = _wrapped(f"{check.id}: passes if {check.title}.")
    return "\n".join([*title, "", *_wrapped(check.why, indent=""), "", *told])


def _unseen(results: Sequence[Result]) -> str:
    """Return which groups say nothing at all: what cannot be seen is not to reassure anybody."""
    groups = dict.fromkeys(each.check.group for each in results)
    for each in results:
        if each.verdict is not Verdict.SKIP:
            groups.pop(each.check.group, None)
    return f"; there is nothing to see of {', '.join(groups)}" if groups else ""


def _counts(results: Sequence[Result]) -> dict[Verdict, int]:
    counts = dict.fromkeys(reversed(Verdict), 0)
    for each in results:
        counts[each.verdict] += 1
    return counts


def _others(others: Sequence[Result], style: Style) -> Iterator[str]:
    """Yield what else is wrong; of many, all but the first by id."""
    shown = others if style.verbose else others[:SHOWN]
    if shown:
        yield ""
    for each in shown:
        yield from _entry(each, style)
    rest = [f"{each.verdict.value} {each.check.id}" for each in others[len(shown) :]]
    if rest:
        yield from _wrapped(f"and {', '.join(rest)}: see --verbose", style.width)


def _entry(result: Result, style: Style) -> Iterator[str]:
    """Yield what was seen, and what to do."""
    yield from _headed(result.verdict, f" {result.check.id}: {result.finding.evidence}", style)
    yield from _fix(result)


def _fix(result: Result) -> Iterator[str]:
    """Yield what to do, which is not cut into lines: it is to be copied."""
    for number, line in enumerate(result.finding.fix.strip().splitlines()):
        yield f"  {'     ' if number else 'fix: '}{printable(line)}"


def _headed(verdict: Verdict, text: str, style: Style) -> list[str]:
    first, *rest = _wrapped(verdict.value + text, style.width)
    return [style.paint(verdict) + first.removeprefix(verdict.value), *rest]


def _groups(results: Sequence[Result], style: Style) -> Iterator[str]:
    """Yield how many checks of each group say what, in as many columns as there is room for."""
    groups = dict.fromkeys(each.check.group for each in results)
    cells = [_group(each, results, style) for each in groups]
    width = max((len(plain) for plain, _ in cells), default=0) + 3
    columns = max(1, (style.width + 3) // width)
    for first in range(0, len(cells), columns):
        row = cells[first : first + columns]
        yield "".join(cell + " " * (width - len(plain)) for plain, cell in row).rstrip()


def _group(group: str, results: Sequence[Result], style: Style) -> tuple[str, str]:
    """Return how many checks of a group say what, without colours and with them."""
    found = _counts([each for each in results if each.check.group == group])
    counts = {verdict: number for verdict, number in found.items() if number}
    plain = [f"{number} {verdict.value}" for verdict, number in counts.items()]
    painted = [style.paint(verdict, text) for verdict, text in zip(counts, plain, strict=True)]
    return f"{group}: {', '.join(plain)}", f"{group}: {', '.join(painted)}"


def _every(results: Sequence[Result], style: Style) -> Iterator[str]:
    """Yield a paragraph for each group, with a line or more for each check."""
    group, width = "", max((len(each.check.id) for each in results), default=0)
    for each in results:
        if each.check.group != group:
            group = each.check.group
            yield group
        about = printable(each.finding.evidence)
        indent = " " * (width + 9)
        first, *rest = wrap(about, max(style.width - len(indent), 20), break_on_hyphens=False) or [
            ""
        ]
        yield f"  {style.paint(each.verdict)} {each.check.id:{width}}  {first}".rstrip()
        yield from (indent + line for line in rest)


def _last(
    results: Sequence[Result], style: Style, cause: Result | None, about: About | None
) -> Iterator[str]:
    took = f" of {about.subject} in {about.seconds:.2g} s" if about else ""
    counts = ", ".join(f"{number} {verdict.value}" for verdict, number in _counts(results).items())
    many = "s" * (len(results) != 1)
    yield from _wrapped(f"{len(results)} check{many}{took}: {counts}", style.width)
    if cause:
        yield from _wrapped(
            f"why it matters: rdmatrain doctor --explain {cause.check.id}", style.width
        )
    if about and about.more:
        yield from _wrapped(about.more, style.width)


def _wrapped(text: str, width: int = WIDTH, indent: str = "") -> list[str]:
    """Wrap a text that may come from anywhere; words, which may be paths, stay whole."""
    further = indent + "    "
    return wrap(
        printable(text),
        width,
        initial_indent=indent,
        subsequent_indent=further,
        break_on_hyphens=False,
        break_long_words=False,
    )
