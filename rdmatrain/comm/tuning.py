"""The switch points between ways of running a collective: the C core's table, and changes to it.

``RDMATRAIN_TUNING=one_shot=64K,way=flat`` changes the default table, which depends on the number
of ranks and on the network: where verbs joins all hosts, messages between them cost what they cost
over verbs, at the rate of the slowest host's ports, and two ranks send more at once; else messages
cost what they cost over tcp, and are larger where there are several hosts. ``rdmatrain topo
--tuning`` prints it, ``benchmarks/tune.py`` measures the sizes in it. All ranks must have the same.
"""

import difflib
import re

from rdmatrain import _core
from rdmatrain.errors import SettingError

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30}
# Of a collective on several hosts, by number; "least" is the cheapest one by the cost model.
_WAYS = ("least", *(name for name, _, _ in _core.collective_ways("barrier", 1, 1, 0, {})))
_SHOWN_COLLS = ("all_reduce", "all_gather", "reduce_scatter")
_SHOWN_BYTES = tuple(8 << shift for shift in range(0, 25, 3))
_SIZE = re.compile(r"(\d{1,8}|\d{1,15}(?=$))([KMG]?)")


def parse_tuning(text: str) -> dict[str, int]:
    """Read what ``RDMATRAIN_TUNING`` says.

    Args:
        text: ``name=value`` pairs with commas between them; K, M and G are powers of 1024, and
            ``way`` may be the name of one.

    Returns:
        Values by name, in the table's order.

    Raises:
        SettingError: a name is not in the table, a size is no size, or it cannot be used.

    """
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name not in _core.TUNING:
            close = difflib.get_close_matches(name, _core.TUNING, n=1)
            hint = f"did you mean {close[0]}?" if close else f"names are {', '.join(_core.TUNING)}"
            raise SettingError(f"RDMATRAIN_TUNING: {name!r} is not in the tuning table: {hint}")
        found[name] = _value(pair, name, value)
    try:
        _core.check_tuning(found)
    except ValueError as error:
        raise SettingError(f"RDMATRAIN_TUNING: {error}") from None
    return {name: found[name] for name in _core.TUNING if name in found}


def _value(pair: str, name: str, text: str) -> int:
    if name == "way" and text.lower() in _WAYS:
        return _WAYS.index(text.lower())
    match = _SIZE.fullmatch(text.upper())
    if match is None:
        meant = f"size: write {name}=65536 or {name}=64K"
        if name == "way":
            meant = f"way: ways are {', '.join(_WAYS)}"
        raise SettingError(f"RDMATRAIN_TUNING: {pair!r} has no {meant}")
    return int(match[1]) << _UNITS[match[2]]


def tuning_text(changes: dict[str, int]) -> str:
    """Write changes so that :func:`parse_tuning` reads them, and equal ones are equal texts."""
    return ",".join(f"{name}={size}" for name, size in changes.items())


def whole_table(
    world: int, hosts: int, verbs_gbps: float, changes: dict[str, int]
) -> dict[str, int]:
    """Return the table that a group uses.

    Args:
        world: number of its ranks.
        hosts: number of its hosts.
        verbs_gbps: Gbit/s of a host, where verbs joins all hosts; 0: tcp joins some of them.
        changes: what was set.

    """
    return _core.default_tuning(world, hosts, round(1000 * verbs_gbps)) | changes


def tuning_table(world: int, hosts: int, verbs_gbps: float, changes: dict[str, int]) -> str:
    """Format the table that such a group uses, with the source of each value."""
    lines = [f"{'name':<14} {'value':>10}  {'from':<16}  meaning"]
    network = f"verbs {verbs_gbps:g} Gbit/s" if verbs_gbps else "tcp 10 Gbit/s"
    on_one_host = _core.default_tuning(world)
    for name, value in whole_table(world, hosts, verbs_gbps, changes).items():
        of_network = name.startswith("net_") or value != on_one_host[name]
        source = network if of_network else f"{world} ranks"
        source = "RDMATRAIN_TUNING" if name in changes else source
        lines.append(f"{name:<14} {value:>10}  {source:<16}  {_core.TUNING[name]}")
    return "\n".join(lines)


def ways_table(world: int, hosts: int, verbs_gbps: float, changes: dict[str, int]) -> str:
    """Format what collectives cost in each way, by size, and which way is taken.

    Sizes are bytes of each rank: of an all_gather those that it has, of a reduce_scatter those
    that it gets.
    """
    table = whole_table(world, hosts, verbs_gbps, changes)
    return "\n\n".join(_ways_of(coll, world, hosts, table) for coll in _SHOWN_COLLS)


def _ways_of(coll: str, world: int, hosts: int, table: dict[str, int]) -> str:
    lines = [f"{coll:>14}  {'way':<8}" + "".join(f"{way + ' us':>12}" for way in _WAYS[1:])]
    for nbytes in _SHOWN_BYTES:
        ways = _core.collective_ways(coll, world, hosts, nbytes, table)
        taken = next(name for name, _, chosen in ways if chosen)
        costs = ["-" if ns is None else f"{ns / 1000:.1f}" for _, ns, _ in ways]
        lines.append(f"{nbytes:>14}  {taken:<8}" + "".join(f"{cost:>12}" for cost in costs))
    return "\n".join(lines)
