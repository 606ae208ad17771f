"""``rdmatrain topo --tuning``: what it is told, and what it prints."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import click

from rdmatrain.errors import SettingError


@dataclass(frozen=True)
class Group:
    """The group whose table is asked for.

    Attributes:
        ranks: of the group.
        hosts: that they are spread over.
        transport: that joins the hosts.
        gbps: of the ports of a host, where it is verbs.

    """

    ranks: int = 2
    hosts: int = 1
    transport: str = "tcp"
    gbps: float = 100.0

    def check(self) -> None:
        """Raise SettingError where there is no such group."""
        if self.hosts > self.ranks:
            raise SettingError(f"--hosts {self.hosts} is more than --ranks {self.ranks}")
        if self.transport != "verbs" and self.gbps != Group.gbps:
            raise SettingError("--gbps is of RDMA ports: add --transport verbs")


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--tuning`` and those of a :class:`Group`."""
    number = click.IntRange(1, 4096)
    for option in (
        click.option(
            "--gbps",
            type=click.FloatRange(0.1, 1e6),
            default=Group.gbps,
            show_default=True,
            help="Of all RDMA ports of a host; a group asks its ports, and takes the slowest host.",
        ),
        click.option(
            "--transport",
            type=click.Choice(["tcp", "verbs"]),
            default=Group.transport,
            show_default=True,
            help="What joins the hosts; for a group it is verbs where all pairs of hosts have it.",
        ),
        click.option(
            "--hosts",
            type=number,
            default=Group.hosts,
            show_default=True,
            help="Hosts that they are spread over: of several, what each way of an all_reduce "
            "costs.",
        ),
        click.option(
            "--ranks",
            type=number,
            default=Group.ranks,
            show_default=True,
            help="Ranks of the group, for --tuning.",
        ),
        click.option(
            "--tuning",
            is_flag=True,
            help="Only the switch points of collectives, and their source.",
        ),
    ):
        command = option(command)
    return command


def show(tuning: bool, group: Group, others: bool, show_text: Callable[[str], object]) -> bool:
    """Print the table, if that is asked for.

    Args:
        tuning: it is.
        group: whose.
        others: options of other things are given.
        show_text: prints.

    Raises:
        SettingError: the options do not go together, or ``RDMATRAIN_TUNING`` is wrong.

    """
    group.check()
    names = [f"--{field.name}" for field in fields(Group)]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    if not tuning and group != Group():
        raise SettingError(f"{listed} are of the tuning table: add --tuning")
    if tuning and others:
        raise SettingError(f"--tuning goes with {listed}, with nothing else")
    if tuning:
        _print(group, show_text)
    return tuning


def _print(group: Group, show_text: Callable[[str], object]) -> None:
    from rdmatrain.comm.tuning import parse_tuning, tuning_table, ways_table  # noqa: PLC0415
    from rdmatrain.config import load_settings  # noqa: PLC0415 - --help stays fast

    changes = parse_tuning(load_settings().tuning)
    gbps = group.gbps if group.transport == "verbs" else 0.0
    show_text(tuning_table(group.ranks, group.hosts, gbps, changes))
    if group.hosts > 1:
        show_text("\n" + ways_table(group.ranks, group.hosts, gbps, changes))
