"""Why a GPU has the NIC it has, in words, and what is wrong with that."""

from collections.abc import Sequence
from dataclasses import dataclass

from rdmatrain.discovery.clouds import Cloud
from rdmatrain.discovery.complaints import complaint, counted
from rdmatrain.discovery.distance import AT_ROOT, bridges_above, distance
from rdmatrain.discovery.fitness import layer
from rdmatrain.discovery.model import Complaint, Distance, Gpu, Machine, Nic
from rdmatrain.discovery.pod_model import Pair


@dataclass(frozen=True)
class Gap:
    """What is between a GPU and a NIC.

    Attributes:
        level: how far they are apart.
        apart: no table of a cloud has them in one group.
        bridges: between them.
        words: how that is known.

    """

    level: Distance
    apart: bool
    bridges: int
    words: str


def is_far(level: Distance, nearest: Distance) -> bool:
    """Tell whether a GPU's NIC is beyond its host bridge, while the nearest one of all is not."""
    return nearest < Distance.NODE <= level


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    Attributes:
        machine: what the source shows.
        cloud: what kind of machine it is, where a table has it.
        gpus: by index.
        nics: those that there were to choose from.
        gaps: between each GPU and each NIC.
        chosen: the place in ``nics`` of each GPU's own.
        more: the places of those that each GPU gets beside it.

    """

    machine: Machine
    cloud: Cloud | None
    gpus: Sequence[Gpu]
    nics: Sequence[Nic]
    gaps: Sequence[Sequence[Gap]]
    chosen: Sequence[int]
    more: Sequence[Sequence[int]]

    def pairs(self, left_out: Sequence[Nic]) -> tuple[Pair, ...]:
        """Return the pairs; ``left_out`` are NICs that were not to choose from."""
        return tuple(
            Pair(
                gpu,
                self.nics[column],
                tuple(self.nics[other] for other in self.more[row]),
                self.gaps[row][column].level,
                self._reason(row, left_out),
            )
            for row, (gpu, column) in enumerate(zip(self.gpus, self.chosen, strict=True))
        )

    def _reason(self, row: int, left_out: Sequence[Nic]) -> str:
        gap = self.gaps[row][self.chosen[row]]
        return "; ".join(
            [
                f"{gap.level.name}: {gap.words}",
                *self._others(row, gap),
                *self._shared(row),
                *self._left_out(row, gap, left_out),
            ]
        )

    def complaints(self) -> list[Complaint]:
        """Say what is wrong: shared NICs, and GPUs whose NIC is far while others' are near."""
        found = []
        if len(self.gpus) > len(self.nics):
            shared = counted(len(self.nics), "NIC")
            text = f"{len(self.gpus)} GPUs share {shared}: each has a part of the bandwidth"
            found.append(complaint("nic-shared", self.machine.origin, text))
        fabrics = {layer(self.nics[column]) for column in self.chosen} - {""}
        if len(fabrics) > 1:
            text = (
                f"has GPUs on {' and on '.join(sorted(fabrics))}: ask for NICs of one, or name them"
            )
            found.append(complaint("fabrics-differ", self.machine.origin, text))
        return [*found, *self._far()]

    def _far(self) -> list[Complaint]:
        """Complain of all GPUs whose NIC is far, while those of others are near."""
        own = [row[column] for row, column in zip(self.gaps, self.chosen, strict=True)]
        nearest = min(gap.level for gap in own)
        far = [row for row, gap in enumerate(own) if is_far(gap.level, nearest)]
        if not far:
            return []
        first, names = own[far[0]], [self.gpus[row].name for row in far]
        cause = "there are too few" if len(self.gpus) > len(self.nics) else "one was not granted"
        text = (
            f"the NIC of {listed(names)} is {first.level.name} ({first.words}), while others are "
            f"{nearest.name}: {cause} near it, or the place of one cannot be read"
        )
        return [complaint("pairing-far", self.machine.origin, text)]

    def hidden(self) -> list[Complaint]:
        """Complain if the place of a device is not visible, so that others had to tell."""
        unseen = self._unseen()
        if self.machine.stated or not unseen:
            return []
        where = "this virtual machine" if self.machine.virtual else "this source"
        cloud = self.cloud
        table = f"the table of {cloud.name} ({cloud.source})" if cloud else "NUMA node, in order"
        what = f"the place of {listed(unseen)} in the PCI tree"
        text = f"{where} does not show {what}: paired by {table}"
        return [complaint("pci-hidden", self.machine.origin, text)]

    def _unseen(self) -> list[str]:
        machine = self.machine
        devices: list[Gpu | Nic] = [*self.gpus, *self.nics]
        measured = {distance(gpu, nic, machine)[0] for gpu in self.gpus for nic in self.nics}
        if machine.virtual and len(self.nics) > 1 and measured == {Distance.PHB}:
            # It puts each device at a root port of its own, wherever that is on the host.
            return [each.name for each in devices]
        # A root alone tells something only where several devices are at it.
        least = 1 if min(measured) < Distance.NODE else AT_ROOT
        return [each.name for each in devices if len(bridges_above(each, machine)) < least]

    def _others(self, row: int, gap: Gap) -> list[str]:
        """Say what became of NICs that are nearer; else, how many are as near."""
        key = (gap.level, gap.apart, gap.bridges)
        keys = [(each.level, each.apart, each.bridges) for each in self.gaps[row]]
        nearer = [column for column, each in enumerate(self.gaps[row]) if each.level < gap.level]
        if nearer:
            first = min(nearer, key=lambda column: (keys[column], column))
            holders = self._holders(first)
            return [f"the nearest that is left: {self.nics[first].name} is taken by {holders}"]
        alike = keys.count(key)
        return [f"dealt in order among {alike} that are as near"] if alike > 1 else []

    def _shared(self, row: int) -> list[str]:
        column = self.chosen[row]
        if self.chosen.count(column) == 1:
            return []
        nics = counted(len(self.nics), "NIC")
        return [f"shared with {self._holders(column, row)}: {nics} for {len(self.gpus)}"]

    def _holders(self, column: int, beside: int = -1) -> str:
        rows = [row for row, own in enumerate(self.chosen) if own == column and row != beside]
        return listed([self.gpus[row].name for row in rows])

    def _left_out(self, row: int, gap: Gap, left_out: Sequence[Nic]) -> list[str]:
        gpu = self.gpus[row]
        return [
            f"nearer {nic.name} {nic.unfit or 'is slower'} and was left out"
            for nic in left_out
            if distance(gpu, nic, self.machine)[0] < gap.level
        ]


def listed(names: Sequence[str]) -> str:
    """Write names in a sentence, and no more than four: ``a, b, c and 5 others``."""
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} others"]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
