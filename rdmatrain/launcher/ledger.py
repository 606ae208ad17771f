"""What is in force, and who says so: kept while a job is put together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rdmatrain.launcher.options import Choice
from rdmatrain.launcher.values import Nodes

Choices = Mapping[str, Choice]
DEFAULT = "default"


class Known(NamedTuple):
    """A value and who says it, in words."""

    value: Any
    source: str


@dataclass(frozen=True)
class Value:
    """A value in force, for people: its name, what it is, and who says so."""

    name: str
    value: str
    source: str


class Ledger:
    """Gives the options' values, and notes each with its source.

    Attributes:
        values: what was noted, in that order; never a secret.
        notes: lines to tell the user before anything starts.

    """

    def __init__(self, choices: Choices) -> None:
        """Begin with the options; nothing is noted yet."""
        self.choices = choices
        self.values: list[Value] = []
        self.notes: list[str] = []

    def take(self, field: str, default: Any) -> Any:
        """Return an option's value, or the default."""
        return self.note(field, known(self.choices[field], default))

    def note(self, name: str, found: Known) -> Any:
        """Note a value and return it."""
        self.values.append(Value(name, _shown(found.value), found.source))
        return found.value


def known(choice: Choice, default: Any) -> Known:
    """Return an option's value with its source, or the default."""
    return Known(choice.value, choice.source) if choice.level else Known(default, DEFAULT)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple) and not isinstance(value, Nodes):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
