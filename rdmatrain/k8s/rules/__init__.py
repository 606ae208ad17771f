"""Rules that the renderer keeps and that are no faults of a pod: asked by ``k8s check`` alone.

Modules are asked in this order; each is written as those of ``rdmatrain.doctor.manifest.checks``.
"""

from importlib import import_module

from rdmatrain.doctor.manifest.define import Question

MODULES = ("references", "cluster", "gang", "network", "security")


def rules() -> tuple[Question, ...]:
    """Return all of them."""
    found: list[Question] = []
    for name in MODULES:
        module = import_module(f"rdmatrain.k8s.rules.{name}")
        found += [each for each in vars(module).values() if isinstance(each, Question)]
    return tuple(found)
