"""The switch points between ways of running a collective: the C core's table, and changes to it.

``RDMATRAIN_TUNING=one_shot=64K,direct=8K`` changes the default table, which depends on the number
of ranks; ``rdmatrain topo --tuning`` prints it, ``benchmarks/tune.py`` measures it. All ranks must
have the same.
"""

import difflib
import re

from rdmatrain import _core
from rdmatrain.errors import SettingError

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
_SIZE = re.compile(r"(\d{1,8}|\d{1,15}(?=$))([KMG]?)")


def parse_tuning(text: str) -> dict[str, int]:
    """Read what ``RDMATRAIN_TUNING`` says.

    Args:
        text: ``name=size`` pairs with commas between them; sizes in bytes, K, M and G are powers
            of 1024.

    Returns:
        Bytes by name, in the table's order.

    Raises:
        SettingError: a name is not in the table, a size is no size, or it cannot be used.

    """
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, size = (part.strip() for part in pair.partition("="))
        if name not in _core.TUNING:
            close = difflib.get_close_matches(name, _core.TUNING, n=1)
            hint = f"did you mean {close[0]}?" if close else f"names are {', '.join(_core.TUNING)}"
            raise SettingError(f"RDMATRAIN_TUNING: {name!r} is not in the tuning table: {hint}")
        match = _SIZE.fullmatch(size.upper())
        if match is None:
            raise SettingError(
                f"RDMATRAIN_TUNING: {pair!r} has no size: write {name}=65536 or {name}=64K"
            )
        found[name] = int(match[1]) << _UNITS[match[2]]
    try:
        _core.check_tuning(found)
    except ValueError as error:
        raise SettingError(f"RDMATRAIN_TUNING: {error}") from None
    return {name: found[name] for name in _core.TUNING if name in found}


def tuning_text(changes: dict[str, int]) -> str:
    """Write changes so that :func:`parse_tuning` reads them, and equal ones are equal texts."""
    return ",".join(f"{name}={size}" for name, size in changes.items())


def tuning_table(world: int, changes: dict[str, int]) -> str:
    """Format the table that a group of world ranks uses, with the source of each value."""
    lines = [f"{'name':<10} {'bytes':>10}  {'from':<16}  meaning"]
    for name, default in _core.default_tuning(world).items():
        source = "RDMATRAIN_TUNING" if name in changes else f"{world} ranks"
        size = changes.get(name, default)
        lines.append(f"{name:<10} {size:>10}  {source:<16}  {_core.TUNING[name]}")
    return "\n".join(lines)
