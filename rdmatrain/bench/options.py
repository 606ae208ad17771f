"""What a sweep is told, checked before anything starts."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rdmatrain.bench.model import OPS, Case, Op
from rdmatrain.bench.sizes import fitted, parse_size, sizes_between
from rdmatrain.config import TRANSPORTS
from rdmatrain.errors import SettingError
from rdmatrain.spelling import closest

ALL = "all"
MAX_RANKS = 1024
# Bytes of an element, by torch's name.
DTYPES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
}
# How nccl-tests calls them.
_DTYPE_NAMES = {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "fp64": "float64",
    "fp16": "float16",
    "char": "int8",
    "int": "int32",
}
REDOPS = {"sum": "SUM", "prod": "PRODUCT", "min": "MIN", "max": "MAX", "avg": "AVG"}
_REDOP_NAMES = {"product": "prod", "mean": "avg"}
_PLACES = {"both": (False, True), "in": (True,), "out": (False,)}
_PACKAGES = {"html": "plotly", "png": "matplotlib", "svg": "matplotlib", "plot": "plotext"}
_NO_DTYPE = "uint8"  # what a barrier is said to be of


@dataclass(frozen=True)
class SweepOptions:
    """The options of ``rdmatrain bench OP``, as they were given.

    Attributes:
        operations: names from ``OPS``.
        min_bytes: first size, as ``parse_size`` reads it.
        max_bytes: last size.
        step_factor: from a size to the next one.
        step_bytes: from a size to the next one, instead; "" for none.
        iters: calls of a turn; 0: what takes about 20 ms.
        warmup_iters: calls before them; negative: a tenth of them, at least two.
        check: compare results.
        dtype: names with commas, or all.
        redop: names with commas, or all.
        root: rank.
        ranks: of each contestant.
        transport: of rdmatrain, names with commas.
        vs: peers, names with commas.
        device: where rdmatrain's tensors are: cpu, cuda, or auto: cuda beside NCCL.
        rounds: how often all is gone through.
        time_budget_s: seconds for the rounds; 0: no bound.
        json: file to append to; "" for none, as of the files that follow.
        csv: file.
        html: file.
        png: file.
        svg: file.
        plot: draw in the terminal.
        pin: bind each rank to a CPU.
        quiet: no progress.

    """

    operations: tuple[str, ...]
    min_bytes: str = "8"
    max_bytes: str = "64M"
    step_factor: int = 2
    step_bytes: str = ""
    iters: int = 0
    warmup_iters: int = -1
    check: bool = True
    dtype: str = "float32"
    redop: str = "sum"
    root: int = 0
    ranks: int = 2
    transport: str = "auto"
    vs: str = ""
    device: str = "auto"
    rounds: int = 5
    time_budget_s: float = 0.0
    json: str = ""
    csv: str = ""
    html: str = ""
    png: str = ""
    svg: str = ""
    plot: bool = False
    pin: bool = True
    quiet: bool = False

    @property
    def drawings(self) -> dict[str, str]:
        """Files to draw, by what they end in."""
        files = {".html": self.html, ".png": self.png, ".svg": self.svg}
        return {suffix: file for suffix, file in files.items() if file}

    @property
    def peers(self) -> list[str]:
        """Peers, each once; who they are is for ``contestants`` to know."""
        return list(dict.fromkeys(_words(self.vs)))

    @property
    def transports(self) -> list[str]:
        """Transports that rdmatrain is measured over."""
        return names_in(self.transport, "--transport", dict.fromkeys(TRANSPORTS, ""))

    @property
    def sizes(self) -> list[int]:
        """Sizes in bytes, before they are cut to whole elements and parts."""
        first, last = parse_size(self.min_bytes, "-b"), parse_size(self.max_bytes, "-e")
        step = parse_size(self.step_bytes, "-i") if self.step_bytes else 0
        return sizes_between(first, last, self.step_factor, step)

    @property
    def cases(self) -> list[Case]:
        """All that there is to time, in the order of the table."""
        dtypes = names_in(self.dtype, "-d", DTYPES, _DTYPE_NAMES)
        redops = [REDOPS[name] for name in names_in(self.redop, "-o", REDOPS, _REDOP_NAMES)]
        kinds = [
            (op, dtype, redop)
            for op in self._ops
            for dtype in (dtypes if op.sized else [_NO_DTYPE])
            for redop in (redops if op.reduces else [""])
        ]
        return [case for kind in kinds for case in self._cases_of(*kind)]

    @property
    def without_partner(self) -> list[str]:
        """Operations of pairs that so many ranks cannot do."""
        return [name for name in self.operations if OPS[name].pairs and self.ranks % 2]

    @property
    def _ops(self) -> list[Op]:
        return [OPS[name] for name in self.operations if name not in self.without_partner]

    def _cases_of(self, op: Op, dtype: str, redop: str) -> Iterator[Case]:
        root = self.root if op.rooted else -1
        for nbytes in self._sizes_of(op, dtype):
            for in_place in _PLACES[op.in_place]:
                yield Case(op.name, dtype, redop, nbytes, in_place, root)

    def _sizes_of(self, op: Op, dtype: str) -> list[int]:
        if not op.sized:
            return [0]
        return fitted(self.sizes, DTYPES[dtype] * (self.ranks if op.splits else 1))


def check_options(options: SweepOptions) -> None:
    """Refuse what cannot work, before a process is started; ``footprint.py`` looks at memory.

    Args:
        options: what was given; names of peers are left to whoever finds them.

    Raises:
        SettingError: what is wrong with which option, and what to give.

    """
    _check_ranks(options)
    _check_counts(options)
    options.cases, options.transports  # noqa: B018 - raise if a name or size is wrong
    for name in ("json", "csv", "html", "png", "svg"):
        check_file(f"--{name}", getattr(options, name))
    for suffix, file in options.drawings.items():
        if Path(file).suffix.lower() != suffix:
            raise SettingError(f"--{suffix[1:]} {file}: give a name that ends in {suffix}")
    for name, package in _PACKAGES.items():
        if getattr(options, name) and find_spec(package) is None:
            raise SettingError(f'--{name} needs {package}: pip install "rdmatrain[bench]"')


def _check_ranks(options: SweepOptions) -> None:
    ranks = options.ranks
    if not 1 <= ranks <= MAX_RANKS:
        raise SettingError(f"--ranks {ranks}: give 1 to {MAX_RANKS}")
    if not 0 <= options.root < ranks:
        raise SettingError(f"-r {options.root}: the root is one of ranks 0 to {ranks - 1}")
    if options.operations and len(options.without_partner) == len(options.operations):
        raise SettingError(
            f"--ranks {ranks}: {options.operations[0]} is between pairs of ranks: give an even "
            "number"
        )


def _check_counts(options: SweepOptions) -> None:
    least = {"rounds": 1, "iters": 0, "warmup_iters": -1, "time_budget_s": 0}
    spelt = {"time_budget_s": "--time-budget"}
    for field, bound in least.items():
        value = getattr(options, field)
        if not value >= bound:  # nan is none
            option = spelt.get(field, f"--{field.replace('_', '-')}")
            raise SettingError(f"{option} {value}: give {max(bound, 0)} or more")


def check_file(option: str, file: str) -> None:
    """Find out before the sweep what would lose its results after it.

    Raises:
        SettingError: the file cannot be written.

    """
    if not file:
        return
    path = Path(file)
    folder = path.parent
    if not folder.is_dir():
        raise SettingError(f"{option} {file}: there is no folder {folder}: make it first")
    if path.is_dir():
        raise SettingError(f"{option} {file}: that is a folder: give a file")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise SettingError(f"{option} {file}: it cannot be written")


def names_in(
    text: str, option: str, known: Mapping[str, object], other: Mapping[str, str] | None = None
) -> list[str]:
    """Read names with commas, or all.

    Args:
        text: as it was given.
        option: what to call it in the error.
        known: names that there are.
        other: further spellings of them.

    Raises:
        SettingError: one is not known, or there is none.

    """
    other = other or {}
    if text == ALL and ALL not in known:
        return list(known)
    names = [other.get(word, word) for word in _words(text)]
    if not names:
        raise SettingError(f"{option} is empty: give some of {', '.join(known)}")
    for name in names:
        if name not in known:
            meant = closest(name, [*known, *other])
            hint = f"did you mean {meant}?" if meant else f"there are {', '.join(known)}"
            raise SettingError(f"{option} {name}: unknown: {hint}")
    return list(dict.fromkeys(names))


def _words(text: str) -> list[str]:
    return [word.strip().lower() for word in text.split(",") if word.strip()]
