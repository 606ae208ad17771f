"""The text of ``nvidia-smi topo -m``: as it is printed, or as people paste it.

Columns are set apart by tabs, by blanks or, in Markdown, by ``|``; a paste has more tabs than
columns, or fewer, and may be a comment or a quotation. Names of NICs are in the legend
below, or in the columns themselves, as old drivers have it. Rows and columns may be missing.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rdmatrain.discovery import fitness
from rdmatrain.discovery.complaints import complaint, counted
from rdmatrain.discovery.importers import devices
from rdmatrain.discovery.model import Complaint, Distance, Gpu, Machine, Nic, Node
from rdmatrain.discovery.pci import parse_cpus

# nvidia-smi underlines its header; a paste may have lost the escape character.
_ESCAPE = re.compile(r"\x1b?\[[0-9;]*m")
_DEVICE = re.compile(r"(?=.*\d)[A-Za-z][\w.+-]{1,63}", re.ASCII)
_NUMBERED = re.compile(r"(GPU|NIC)\d", re.ASCII)
_GPU = re.compile(r"GPU(0|[1-9]\d{0,3})", re.ASCII)
_LEGEND = re.compile(r"(NIC\d+)\s*[:=]\s*(\S+)")
# Names of older drivers beside those of today.
_DISTANCES = {"SOC": Distance.SYS, "PSB": Distance.PIX} | {each.name: each for each in Distance}
_CELL = re.compile(rf"X|NV\d*|NVB|C2C|P2C|N/A|-|{'|'.join(_DISTANCES)}", re.ASCII)
# Where columns are narrower than the names of their devices, cells run together: `NODEPIX`.
_JOINED = re.compile(rf"NV\d+|{'|'.join(_DISTANCES)}|X", re.ASCII)
_NOTHING = {"", "-", "N/A"}
# Of comments and quotations, and blanks.
_MARKS = "#> \t"
_AFFINITY = re.compile(r"CPU(?: Affinity)?|GPU NUMA(?: ID)?|NUMA(?: Affinity)?")


@dataclass
class _Matrix:
    """What is printed, before it is made sense of.

    Attributes:
        columns: names of devices.
        tail: what comes behind them, in order: ``CPU``, ``NUMA`` or ``GPU``.
        rows: cells of each device, those of the tail behind the others.
        legend: name by ``NIC0``.
        more: further matrices follow.

    """

    columns: list[str]
    tail: list[str]
    rows: dict[str, list[str]] = field(default_factory=dict)
    legend: dict[str, str] = field(default_factory=dict)
    more: bool = False


def is_matrix(text: str) -> bool:
    """Return whether there is a matrix in the text: a header, and a row below it."""
    matrix = _parse(text) if _NUMBERED.search(text) else None
    return matrix is not None and bool(matrix.rows)


def read(text: str, name: str) -> Machine:
    """Return the machine that the first matrix of a text describes.

    Args:
        text: :func:`is_matrix` holds for it.
        name: what to call the file in complaints.

    """
    matrix = _parse(text) or _Matrix([], [])
    reader = _Reader(matrix, name)
    stated = reader.stated()
    if matrix.more:
        reader.complain("several-machines", "matrix", "several matrices; the first is shown")
    return Machine(
        origin=f"{name}, matrix of nvidia-smi topo -m",
        gpus=reader.gpus(),
        nics=fitness.judge(reader.nics(stated)),
        nodes=reader.nodes(),
        stated=stated,
        complaints=tuple(reader.complaints),
    )


def _parse(text: str) -> _Matrix | None:
    matrix: _Matrix | None = None
    for marked in _ESCAPE.sub("", text).splitlines():
        line = marked.lstrip(_MARKS)
        cells = _cells(line)
        header = _header(cells)
        if header and matrix and matrix.rows:
            matrix.more = True
            break
        if header:
            matrix = header
        elif matrix and _LEGEND.match(line):
            matrix.legend = dict(_LEGEND.findall(line)) | matrix.legend
        elif matrix and _is_row(cells):
            matrix.rows.setdefault(cells[0], cells[1:])
    return matrix


def _cells(line: str) -> list[str]:
    if "|" in line:
        parts = line.strip().strip("|").split("|")
    else:
        parts = [cell for word in line.split() for cell in _apart(word)]
    cells = [part.strip().strip("*`") for part in parts]
    # The corner of the matrix.
    return list(itertools.dropwhile(lambda cell: not cell, cells))


def _apart(word: str) -> list[str]:
    cells = _JOINED.findall(word)
    return cells if "".join(cells) == word else [word]


def _header(cells: Sequence[str]) -> _Matrix | None:
    """Return an empty matrix if these are the names of its columns."""
    columns = list(itertools.takewhile(_DEVICE.fullmatch, cells))
    rest = " ".join(cells[len(columns) :])
    tail = [each[:4].strip() for each in _AFFINITY.findall(rest)]
    known = any(_NUMBERED.match(each) for each in columns)
    return _Matrix(columns, tail) if known and not _AFFINITY.sub("", rest).strip() else None


def _is_row(cells: Sequence[str]) -> bool:
    return len(cells) > 1 and bool(_DEVICE.fullmatch(cells[0]) and _CELL.fullmatch(cells[1]))


def _first_places(columns: Sequence[str]) -> dict[str, int]:
    """Return where each name is; of two of one name the first counts."""
    return {column: place for place, column in reversed(list(enumerate(columns)))}


def _first(numbers: str) -> int | None:
    """Return the first of a list of nodes: it has CPUs, and others are the memory of GPUs."""
    return next(iter(parse_cpus(numbers)), None)


class _Reader:
    """Makes sense of a matrix."""

    def __init__(self, matrix: _Matrix, name: str) -> None:
        self.complaints: list[Complaint] = []
        self._name = name
        self._matrix = matrix
        self._column = _first_places(matrix.columns)
        self._rows = {name: row for name, row in matrix.rows.items() if self._is_straight(name)}
        devices_ = [*matrix.columns, *matrix.rows]
        self._gpus = {each: int(match[1]) for each in devices_ if (match := _GPU.fullmatch(each))}
        self._nics = [each for each in dict.fromkeys(devices_) if each not in self._gpus]
        # What two have in common is a name of neither.
        named = Counter([*self._nics, *matrix.legend.values()])
        self._legend = {nic: its for nic, its in matrix.legend.items() if named[its] == 1}
        self._numa = {gpu: _first(self._affinity(gpu, "NUMA")) for gpu in self._gpus}

    def complain(self, what: str, part: str, text: str) -> None:
        self.complaints.append(complaint(what, f"{self._name}, {part}", text))

    def gpus(self) -> tuple[Gpu, ...]:
        """Return all GPUs that have a row or a column."""
        return tuple(
            Gpu(index, gpu, numa=self._numa[gpu], vendor="nvidia")
            for gpu, index in sorted(self._gpus.items(), key=lambda item: item[1])
        )

    def nics(self, stated: Sequence[tuple[int, str, Distance]]) -> list[Nic]:
        """Return all others, near to the node of the GPUs that are not further than a node."""
        near: dict[str, set[int | None]] = {}
        for index, nic, distance in stated:
            if distance <= Distance.NODE:
                near.setdefault(nic, set()).add(self._numa[f"GPU{index}"])
        found = []
        for label in self._nics:
            name = self._legend.get(label, label)
            nodes = near.get(name, set())
            numa = nodes.pop() if len(nodes) == 1 else None
            found.append(Nic(name, numa=numa, efa=devices.is_efa("", name)))
        return found

    def nodes(self) -> tuple[Node, ...]:
        """Return the NUMA nodes that the affinities of the GPUs name."""
        cpus = {
            numa: parse_cpus(self._affinity(gpu, "CPU"))
            for gpu, numa in self._numa.items()
            if numa is not None
        }
        return tuple(Node(number, cpus[number]) for number in sorted(cpus))

    def stated(self) -> tuple[tuple[int, str, Distance], ...]:
        """Return the distances between GPUs and NICs, whichever of both has the row."""
        found: dict[tuple[int, str], Distance] = {}
        for row, cells in self._rows.items():
            for column, cell in zip(self._matrix.columns, cells, strict=False):
                if (row in self._gpus) != (column in self._gpus) and cell not in _NOTHING:
                    gpu, nic = (row, column) if row in self._gpus else (column, row)
                    pair = self._gpus[gpu], self._legend.get(nic, nic)
                    self._state(found, pair, cell, f"row {row}, column {column}")
        return tuple((*pair, distance) for pair, distance in found.items())

    def _state(
        self, found: dict[tuple[int, str], Distance], pair: tuple[int, str], cell: str, part: str
    ) -> None:
        distance = _DISTANCES.get(cell)
        if distance is None:
            self.complain("unreadable", part, f"{cell!r} is no distance")
        elif found.setdefault(pair, distance) != distance:
            text = f"{cell}, while its mirror image is {found[pair].name}"
            self.complain("file-contradiction", part, text)

    def _affinity(self, device: str, kind: str) -> str:
        """Return a cell behind the matrix, by its order."""
        row = self._rows.get(device, [])
        cells = [cell for cell in row[len(self._matrix.columns) :] if cell]
        # Only the last may be missing from a paste, except that of a GPU without CPUs.
        tail = self._matrix.tail[-len(cells) :] if cells[-1:] == ["N/A"] else self._matrix.tail
        return dict(zip(tail, cells, strict=False)).get(kind, "")

    def _is_straight(self, device: str) -> bool:
        """Return whether a row has its X where its column is: else cells are missing in it."""
        row, columns = self._matrix.rows[device], len(self._matrix.columns)
        if len(row) < columns:
            self.complain(
                "unreadable", f"row {device}", f"{counted(len(row), 'cell')} of {columns}"
            )
        place = self._column.get(device, len(row))
        if place >= len(row) or row[place] == "X":
            return True
        self.complain("unreadable", f"row {device}", "X is not in its own column; it is left out")
        return False
