# SPDX-License-Identifier: Apache-2.0
"""``x-kubernetes-validations`` of CRDs, run by Google's CEL as the API server would at creation."""

import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# Rules that this CEL cannot evaluate, each with its reason. None is known.
NOT_EVALUATED: dict[str, str] = {}


class CannotEvaluate(Exception):
    """A rule that is not on the list was not understood, which is a fault of the harness."""


@dataclass
class Tally:
    """How many rules were asked, since the process began."""

    evaluated: int = 0
    transitions: int = 0  # they compare with an old object, and there is none at creation
    listed: int = 0
    rules: set[str] = field(default_factory=set)


TALLY = Tally()


@cache
def _environment() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cel_expr_python import cel  # noqa: PLC0415

    return cel.NewEnv(variables={"self": cel.Type.DYN})


@cache
def compiled(expression: str) -> Any:
    try:
        return _environment().compile(expression)
    except Exception as why:
        raise CannotEvaluate(f"{expression}: {why}") from why


def _value(expression: str, self: Any) -> tuple[str, Any]:
    value = compiled(expression).eval(data={"self": self})
    return value.type().name(), value.value()


def _broken(rule: dict[str, Any], self: Any) -> str:
    """Why ``self`` breaks a rule; empty: it does not."""
    text = str(rule["rule"])
    kind, holds = _value(text, self)
    if kind.upper() != "BOOL":  # the API server takes an error for a broken rule
        return f"rule cannot be evaluated here: {text}: {holds}"
    if holds:
        return ""
    said = rule.get("messageExpression")
    return str(_value(str(said), self)[1] if said else rule.get("message", f"failed rule: {text}"))


def broken(rules: list[dict[str, Any]], self: Any) -> list[str]:
    """What the rules of one place in a schema say against its value."""
    found = []
    for rule in rules:
        text = str(rule["rule"])
        if "oldSelf" in text and not rule.get("optionalOldSelf"):
            TALLY.transitions += 1
        elif text in NOT_EVALUATED:
            TALLY.listed += 1
        else:
            TALLY.evaluated += 1
            TALLY.rules.add(text)
            found.append(_broken(rule, self))
    return [each for each in found if each]
