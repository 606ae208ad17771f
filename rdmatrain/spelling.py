"""Which known name a misspelt one was meant to be: of options, variables and settings."""

from collections.abc import Iterable

# Least likeness of a suggestion, from 0 to 1: below it a wrong guess is likelier than a right one.
_ALIKE = 0.6


def closest(name: str, known: Iterable[str]) -> str:
    """Return the known name that ``name`` resembles most; empty if it resembles none.

    Names are compared without case, and as words: ``--rank-node`` is ``--node-rank``.

    Args:
        name: as it was found, without a prefix that all names have.
        known: names to choose from, without that prefix; of those that are equally alike the
            first counts.

    """
    scored = [(_likeness(name, each), each) for each in known]
    score, found = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return found if score >= _ALIKE else ""


def _likeness(left: str, right: str) -> float:
    from difflib import SequenceMatcher  # noqa: PLC0415 - only a misspelt name pays for it

    one, other = _words(left), _words(right)
    ways = [("_".join(one), "_".join(other)), ("".join(sorted(one)), "".join(sorted(other)))]
    best = max(SequenceMatcher(None, *way, autojunk=False).ratio() for way in ways)
    # A part of a name stands for it: --nproc, --master.
    whole = set(one) <= set(other) or "_".join(other).startswith("_".join(one))
    return max(best, 0.75 + 0.2 * len(left) / len(right)) if whole and len(left) > 2 else best


def _words(name: str) -> list[str]:
    return name.lower().replace("-", "_").strip("_").split("_")
