"""Commands of containers: what a shell is told to run, and how that is changed."""

import json
import re
import shlex
from collections.abc import Sequence

from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import Patch, advice, patch

# What a shell does more with than to split words.
_SYNTAX = re.compile(r"[;&|<>()`\n\\*?\[\]{}~#!$]")
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s\"';]*)"
_LAUNCHER = r"(?:rdmatrain\s+run|torchrun|(?:\S*/)?python[\d.]*\s+-m\s+torch\.distributed\.run)\b"
_ASSIGNMENTS = rf"(?:[A-Za-z_]\w*={_VALUE}\s+)*"
# A launcher where a command begins: first of all, or behind what ends another one.
_STARTED = re.compile(
    rf"(?:^|[;\n{{(]|&&|\|\||\bthen\b|\bdo\b)[ \t]*(?P<set>{_ASSIGNMENTS})(?P<run>{_LAUNCHER})"
)


def script(box: Container) -> str:
    """Return what a shell is told to run by ``-c``; empty if nothing is."""
    if not box.shell:
        return ""
    words = box.command
    flags = (place for place, word in enumerate(words) if re.fullmatch(r"-[a-z]*c", word))
    place = next(flags, len(words))
    return words[place + 1] if place + 1 < len(words) else ""


def simple_words(box: Container) -> list[str]:
    """Return the words of a script that is one command, of which no shell is needed."""
    return plain_words(script(box).strip().removeprefix("exec "))


def plain_words(text: str) -> list[str]:
    """Return the words of a command; empty where it takes a shell to know them."""
    if _SYNTAX.search(text):
        return []
    try:
        words = shlex.split(text)
    except ValueError:
        return []
    return words if words and "=" not in words[0] else []


def launcher(text: str) -> re.Match[str] | None:
    """Find the launcher of a script that is a child of its shell; ``exec`` leaves none.

    The groups ``set`` and ``run`` are the variables that are set for it, and it itself.
    """
    return _STARTED.search(text)


def with_exec(text: str) -> str:
    """Return a script whose shell becomes the launcher; empty if that cannot be done."""
    found = launcher(text)
    if found is None or not _is_last(text[found.end() :]) or re.search(r"\btrap\b", text):
        return ""
    word = "exec env " if found["set"] else "exec "
    place = found.start("set")
    return text[:place] + word + text[place:]


def _is_last(rest: str) -> bool:
    """Tell whether nothing follows a command, nor reads what it writes."""
    joined = re.sub(r"\\\n", " ", rest).strip()
    return not re.search(r"[;\n|&]", re.sub(r"\d?>&\d", "", joined))


def without_assignment(text: str, name: str) -> str:
    """Return a script that does not set a variable."""
    given = rf"\b{re.escape(name)}={_VALUE}"
    text = re.sub(rf"\bexport\s+{given}\s*(?:;|&&)?[ \t]*\n?", "", text)
    return re.sub(rf"(?:(?<!\S)(?:-x|-e|--env)[=\s]\s*)?{given}[ \t]*;?[ \t]*", "", text)


def without_option(words: Sequence[str], option: str) -> list[str]:
    """Return arguments without an option, as ``--transport tcp``, be they words or a script."""
    name, _, value = option.partition(" ")
    kept: list[str] = []
    skip = False
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if skip or word == f"{name}={value}":
            skip = False
        elif word == name and following == value:
            skip = True
        else:
            kept.append(re.sub(rf"{re.escape(name)}[=\s]\s*{re.escape(value)}\b\s*", "", word))
    return kept


def with_option(words: Sequence[str], name: str, value: str) -> list[str]:
    """Return arguments in which an option has another value."""
    pattern = rf"({name.replace('-', '[-_]')}[=\s]\s*)[^\s\"';]+"
    made = [re.sub(pattern, rf"\g<1>{value}", word) for word in words]
    found = [n for n, word in enumerate(words[:-1]) if word.replace("_", "-") == name]
    for place in found:
        made[place + 1] = value
    return made


def option_changed(box: Container, name: str, value: str) -> Patch:
    """Return the change that gives an option of a container's command another value."""
    said = f"--{name} {value}"
    for place in (box.node.get("command"), box.node.get("args")):
        words = with_option(place.texts(), f"--{name}", value)
        if words != place.texts():
            return patch(place, json.dumps(words), said)
    return advice(box.node, said)
