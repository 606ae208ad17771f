"""Rules that every rendered set of objects keeps, whatever the schemas allow.

The schemas of a cluster say what an object may look like. These rules say what a job needs to
train: they are asked of what the targets render, and know nothing of how it was made.
"""

from collections.abc import Callable, Iterable, Iterator

from rdmatrain.k8s.invariants import containers, objects, pods
from rdmatrain.k8s.invariants.view import View
from rdmatrain.k8s.parts import Object

Rule = Callable[[View], Iterator[str]]
RULES: tuple[Rule, ...] = (*containers.RULES, *pods.RULES, *objects.RULES)


def broken(found: Iterable[Object]) -> list[str]:
    """Return what is wrong with a complete set of objects: one line each, or nothing.

    Args:
        found: all objects of a job, with what surrounds it.

    """
    view = View(list(found))
    return [line for rule in RULES for line in rule(view)]
