"""All checks of a pod, in the order in which causes come before what follows from them."""

from collections.abc import Iterable
from importlib import import_module

from rdmatrain.doctor.model import Check
from rdmatrain.errors import SettingError
from rdmatrain.spelling import closest

# The first FAIL is shown as the cause.
MODULES = (
    "software",
    "variables",
    "devices",
    "memory",
    "limits",
    "ports",
    "gpudirect",
    "placement",
    "network",
    "storage",
)


def checks() -> tuple[Check, ...]:
    """Return all of them."""
    return tuple(_all())


def by_id() -> dict[str, Check]:
    """Return all of them, by id."""
    return {each.id: each for each in checks()}


def every() -> tuple[Check, ...]:
    """Return all of them, those of a gang, and those that only a manifest answers."""
    # Both import this module.
    from rdmatrain.doctor.gang.checks import CHECKS  # noqa: PLC0415
    from rdmatrain.doctor.manifest.command import manifest_checks  # noqa: PLC0415

    known = by_id()
    more = [each for each in manifest_checks() if each.id not in known]
    return (*known.values(), *(each.check for each in CHECKS), *more)


def named(names: Iterable[str]) -> list[Check]:
    """Return the checks of these ids.

    Raises:
        SettingError: there is no such check.

    """
    known = {each.id: each for each in every()}
    for name in names:
        if name not in known:
            meant = closest(name, known)
            hint = f"did you mean {meant}?" if meant else "rdmatrain doctor --list shows all"
            raise SettingError(f"there is no check {name}: {hint}")
    return [known[name] for name in names]


def _all() -> Iterable[Check]:
    for name in MODULES:
        module = import_module(f"rdmatrain.doctor.checks.{name}")
        yield from (each for each in vars(module).values() if isinstance(each, Check))
