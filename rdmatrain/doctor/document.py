"""The catalogue as text, as JSON, and as the page ``CHECKS.md``.

``rdmatrain doctor --list --markdown > rdmatrain/doctor/CHECKS.md`` writes that page again.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from rdmatrain.doctor.model import Check
from rdmatrain.launcher import exit_codes

PAGE = Path(__file__).with_name("CHECKS.md")
CODES = "Exit codes"
_ROW = re.compile(rf"^### `([^`]+)`: (.*)$|^## (?!{CODES})(.*)$", re.MULTILINE)
_HEAD = """\
# The checks of `rdmatrain doctor`

Made by `rdmatrain doctor --list --markdown` of what is written in `checks/`. Ids are stable. A
check that comes after others is not asked if one of them fails, so that the first FAIL is the
cause. A check that cannot see what it asks for says SKIP, never PASS.
"""


def listing(checks: Sequence[Check]) -> str:
    """Return a line for each check, under its group."""
    width, lines, group = max((len(each.id) for each in checks), default=0), [], ""
    for each in checks:
        if each.group != group:
            group = each.group
            lines.append(group)
        lines.append(f"  {each.id:{width}}  {each.title}")
    return "\n".join(lines)


def listing_of_page() -> str:
    """Return the same, without a look at the checks, which would import all that they ask.

    Raises:
        OSError: the page cannot be read.

    """
    lines: list[tuple[str, str]] = []
    for name, title, group in _ROW.findall(PAGE.read_text("utf-8")):
        lines.append((name, re.sub(r"\\(.)", r"\1", title)) if name else ("", group))
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"  {name:{width}}  {text}" if name else text for name, text in lines)


def listing_json(checks: Sequence[Check]) -> str:
    """Return the same for programs: all that ``--explain`` tells."""
    import json  # noqa: PLC0415 - a plain list is to be there at once

    rows = [
        {
            "id": each.id,
            "group": each.group,
            "title": each.title,
            "why": each.why,
            "known": each.known,
            "after": list(each.after),
            "exit_code": each.exit_code,
            "since": each.since,
        }
        for each in checks
    ]
    return json.dumps(rows, indent=1)


def page(checks: Sequence[Check]) -> str:
    """Return the same as a page of Markdown: a section for each group."""
    parts = [_HEAD]
    for group in dict.fromkeys(each.group for each in checks):
        parts.append(f"\n## {group}\n")
        parts += [_section(each) for each in checks if each.group == group]
    parts.append(_codes(checks))
    return "\n".join(parts)


def _section(check: Check) -> str:
    notes = [f"Exit code {check.exit_code}, since {check.since}."]
    if check.known:
        notes.append(f"Seen in {_escaped(check.known)}.")
    if check.after:
        notes.append(f"After {', '.join(f'`{each}`' for each in check.after)}.")
    why = _escaped(check.why)
    return f"### `{check.id}`: {_escaped(check.title)}\n\n{why}\n\n{' '.join(notes)}\n"


def _codes(checks: Sequence[Check]) -> str:
    rows = [
        f"| {code} | {exit_codes.MEANING[code]} | "
        + ", ".join(f"`{each.id}`" for each in checks if each.exit_code == code)
        + " |"
        for code in sorted({each.exit_code for each in checks})
    ]
    head = [f"\n## {CODES}\n", "| code | meaning | checks |", "|---|---|---|"]
    return "\n".join([*head, *rows])


def _escaped(text: str) -> str:
    """Keep Markdown from taking parts of a text for its own."""
    return "".join(f"\\{each}" if each in "*_<>|[]" else each for each in text)
