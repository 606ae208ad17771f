"""The MPI libraries that rdmatrain is held against, each in an environment of its own.

``python benchmarks/peers.py`` makes those that are missing under ``build/peers`` from PyPI.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field

from common import ROOT, Command

FOLDER = ROOT / "build" / "peers"


@dataclass(frozen=True)
class Peer:
    """An MPI library, and how to get its best on one host.

    Attributes:
        package: what it is called on PyPI.
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


# The ranks pin themselves (mpi_allreduce.py), the same way for all, so the launchers must not.
# What was tried and did not help is in README.md.
PEERS = {
    "openmpi": Peer(
        "openmpi",
        ("--allow-run-as-root", "--bind-to", "none"),
        {},
        ("--map-by", ":OVERSUBSCRIBE", "--mca", "mpi_yield_when_idle", "1"),
    ),
    # Hydra gives each rank a session of its own, where it cannot yield to another: see run_job.
    "mpich": Peer("mpich", crowded_mpirun="mpiexec.gforker"),
    "intelmpi": Peer(
        "impi-rt",
        (),
        {"I_MPI_FABRICS": "shm", "I_MPI_HYDRA_BOOTSTRAP": "fork", "I_MPI_PIN": "0"},
        (),
        {"I_MPI_WAIT_MODE": "1"},
    ),
}


def main() -> int:
    """Make the environments that are missing."""
    for name, peer in PEERS.items():
        if not is_made(name):
            make(name, peer)
        print(f"{name}: {FOLDER / name}")
    return 0


def is_made(name: str) -> bool:
    """Whether the environment is complete."""
    return (FOLDER / name / ".made").exists()


def make(name: str, peer: Peer) -> None:
    """Make one environment; an incomplete one is made anew."""
    folder = FOLDER / name
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "mpi4py", "numpy", peer.package]
    subprocess.run(install, check=True)
    (folder / ".made").touch()


def command(name: str, ranks: int, argv: list[str]) -> Command:
    """Return the mpirun that starts a Python script, and its variables."""
    peer, folder = PEERS[name], FOLDER / name
    crowded = ranks > len(os.sched_getaffinity(0))
    options = [*peer.options, *(peer.crowded_options if crowded else ()), "-n", str(ranks)]
    env = {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "I_MPI_ROOT": str(folder),
        **peer.env,
        **(peer.crowded_env if crowded else {}),
    }
    starter, python = peer.crowded_mpirun if crowded else "mpirun", str(folder / "bin" / "python")
    return [str(folder / "bin" / starter), *options, python, *argv], env


if __name__ == "__main__":
    sys.exit(main())
