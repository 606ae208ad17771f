"""Variables that nothing reads, or whose value nothing takes: NCCL's, UCX's, torchrun's, ours."""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from rdmatrain.config import (
    OF_LAUNCHER,
    OPTIONS_OF_LAUNCHER,
    PREFIX,
    known_names,
    load_settings,
    unknown_settings,
)
from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.model import Finding, failed, warned
from rdmatrain.doctor.names import NCCL, NUMBERS, UCX, WORDS
from rdmatrain.errors import SettingError
from rdmatrain.launcher.options import OPTIONS, PET, read, unknown_variables
from rdmatrain.spelling import closest

# No plugin has a variable of its own that begins so: what is not known there, nothing reads.
_ONLY_NCCL = ("NCCL_IB_", "NCCL_SOCKET_", "NCCL_P2P_", "NCCL_SHM_", "NCCL_DEBUG_")
# As ``strtoll`` reads them with base 0.
_NUMBER = re.compile(r"\s*([+-]?)(0x[0-9a-f]{1,16}|[0-9]{1,18})", re.IGNORECASE | re.ASCII)
# Shorter names are so near to each other that a second letter tells nothing.
_SHORT = 6


def misspelt(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Find the names that are none, and what was meant.

    Args:
        environ: the variables that ranks inherit.

    """
    for each in unknown_settings(environ):
        fix = f"unset {each.name}"
        if each.suggestion:
            fix = f"rename {each.name} to {each.suggestion}"
        yield failed(f"{shown(str(each))}: rdmatrain run refuses it", fix)
    for line in unknown_variables(environ):
        name = line.split()[0]
        meant = closest(name.removeprefix(PET), [each.removeprefix(PET) for each in _pet()])
        fix = f"rename {name} to {PET}{meant}" if meant else f"unset {name}"
        yield failed(f"{shown(line)}: rdmatrain run refuses it", fix)
    for name in sorted(environ):
        meant, hint = _meant(name)
        if hint:
            fix = f"rename {name} to {meant}" if meant else f"unset {name}"
            yield warned(f"{shown(name)} is set, and {hint}", fix)


def wrong_values(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Find values that are not allowed. Those of NCCL are passed over, ours stop the job.

    Args:
        environ: the variables that ranks inherit.

    """
    for name in sorted(environ):
        why = _refusal(name, environ[name])
        if why:
            yield failed(why, f"unset {name}")
        allowed = _not_taken(name, environ[name])
        if allowed:
            text = f"{name}={shown(environ[name])} is passed over by NCCL, which takes {allowed}"
            yield warned(text, f"unset {name}")


def is_number(text: str) -> int | None:
    """Return the number that NCCL reads; None if it is none to it."""
    match = _NUMBER.fullmatch(text.rstrip("\n"))
    if match is None:
        return None
    digits = match[2]
    leading_zero = digits.startswith("0") and digits[:2].lower() != "0x"
    try:
        number = int(digits, 8 if leading_zero else 0)
    except ValueError:  # 08, which is no octal number
        return None
    return -number if match[1] == "-" else number


@cache
def _pet() -> list[str]:
    return sorted(option.variable for option in OPTIONS if option.prefix == PET)


@cache
def _ours() -> list[str]:
    options = [option.variable for option in OPTIONS if option.prefix == PREFIX]
    return sorted({*known_names(), *OF_LAUNCHER, *OPTIONS_OF_LAUNCHER, *options})


def _meant(name: str) -> tuple[str, str]:
    """Return the name that was meant, if one can be told, and what is wrong; empty: nothing is."""
    if not name.isascii() or name in NCCL or name in UCX or name.startswith((PET, PREFIX)):
        return "", ""
    squeezed = _by_letters().get(_letters(name))
    if squeezed:
        return squeezed, f"nothing reads it: {squeezed} is meant"
    wrong_prefix = _of_wrong_prefix(name)
    if wrong_prefix:
        return wrong_prefix, f"nothing reads it: {wrong_prefix} is meant"
    if name.startswith("NCCL_"):
        return _like_nccl(name)
    near = _near(name, UCX, 1) if name.startswith("UCX_") else ""
    return near, f"UCX does not know it: {near} is meant" if near else ""


def _like_nccl(name: str) -> tuple[str, str]:
    near = _near(name, NCCL, 1 if len(name) <= len("NCCL_") + _SHORT else 2)
    if not near and not name.startswith(_ONLY_NCCL):
        return "", ""  # A plugin's, perhaps.
    near = near or closest(name, sorted(NCCL))
    return near, "NCCL does not know it" + (f": do you mean {near}?" if near else "")


def _letters(name: str) -> str:
    return re.sub("[_-]", "", name).upper()


@cache
def _by_letters() -> dict[str, str]:
    """Return all known names by their letters alone: NCCL_SOCKET_IF_NAME, nccl-debug."""
    return {_letters(name): name for name in sorted((*NCCL, *UCX, *_pet(), *_ours()))}


def _of_wrong_prefix(name: str) -> str:
    """Return a known name whose first word alone has a letter wrong: ``NCLL_IB_HCA``."""
    first, _, rest = name.partition("_")
    for prefix, names in (("NCCL", NCCL), ("RDMATRAIN", _ours())):
        wanted = f"{prefix}_{rest}"
        if first != prefix and wanted in names and edits(first, prefix, 1) <= 1:
            return wanted
    return ""


def _near(name: str, known: frozenset[str], most: int) -> str:
    """Return the nearest known name that takes at most so many changes of a letter, or none."""
    found = [
        (edits(name, each, most), each) for each in known if abs(len(each) - len(name)) <= most
    ]
    least, meant = min(found, default=(most + 1, ""))
    if least <= most:
        return meant
    words = sorted(name.split("_"))
    return next((each for each in sorted(known) if sorted(each.split("_")) == words), "")


def edits(left: str, right: str, most: int) -> int:
    """Return how many letters to change, add, drop or swap; ``most`` + 1 for more than that."""
    if abs(len(left) - len(right)) > most:
        return most + 1
    before: list[int] = []
    last = list(range(len(right) + 1))
    for row, letter in enumerate(left, 1):
        line = [row]
        for column, other in enumerate(right, 1):
            cost = min(last[column] + 1, line[-1] + 1, last[column - 1] + (letter != other))
            swapped = (
                row > 1 and column > 1 and (letter, left[row - 2]) == (right[column - 2], other)
            )
            line.append(min(cost, before[column - 2] + 1) if swapped else cost)
        if min(line) > most:
            return most + 1
        before, last = last, line
    return min(last[-1], most + 1)


def _refusal(name: str, value: str) -> str:
    """Return why rdmatrain refuses a value of its own or of torchrun's; empty if it does not."""
    try:
        if name in known_names():
            load_settings({name: value})
        option = next((each for each in OPTIONS if each.variable == name), None)
        if option:
            read(option, f"{name}=", value)
    except SettingError as error:
        return shown(str(error))
    return ""


def _not_taken(name: str, value: str) -> str:
    """Return what NCCL would take, where it does not take this."""
    if name in WORDS:
        words = WORDS[name]
        return "" if value.strip().upper() in words else f"one of {', '.join(words)}"
    if name not in NUMBERS:
        return ""
    least, most = NUMBERS[name]
    number = is_number(value)
    return "" if number is not None and least <= number <= most else f"{least} to {most}"
