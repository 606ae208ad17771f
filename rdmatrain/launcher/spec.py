"""What to start: the options of ``rdmatrain run`` as validated data."""

import sys
from dataclasses import dataclass
from pathlib import Path

from rdmatrain.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """One node's part of a job.

    Attributes:
        script: path of the script, or name of the module when ``module`` is true.
        script_args: arguments of the script, passed on untouched.
        module: run ``script`` as ``python -m`` does.
        nproc_per_node: workers on each node, at least 1.
        nnodes: nodes in the job, at least 1.
        node_rank: this node's number, 0 to ``nnodes - 1``.
        master_addr: address of node 0; may be None for one node.
        master_port: TCP port of the job's store on node 0; may be None for one node.
        transport: ``RDMATRAIN_TRANSPORT`` of the workers; None for what they inherit.
        require: the same for ``RDMATRAIN_REQUIRE``.

    Raises:
        SettingError: a value is out of range; names the option, the value and the remedy.

    """

    script: str
    script_args: tuple[str, ...] = ()
    module: bool = False
    nproc_per_node: int = 1
    nnodes: int = 1
    node_rank: int = 0
    master_addr: str | None = None
    master_port: int | None = None
    transport: str | None = None
    require: str | None = None

    def __post_init__(self) -> None:
        _require_count("--nproc-per-node", self.nproc_per_node, "the number of workers")
        _require_count("--nnodes", self.nnodes, "the number of nodes")
        if not 0 <= self.node_rank < self.nnodes:
            raise SettingError(
                f"--node-rank {self.node_rank} does not fit --nnodes {self.nnodes}: "
                f"give each node its own number from 0 to {self.nnodes - 1}"
            )
        if self.master_addr is not None and not self.master_addr.strip():
            raise SettingError(
                f"--master-addr {self.master_addr!r} is empty: give the address of node 0"
            )
        if self.master_port is not None and not 1 <= self.master_port <= 65535:
            raise SettingError(
                f"--master-port {self.master_port} is not a TCP port: give one from 1 to 65535"
                + (", or leave it out to use a free one" if self.nnodes == 1 else "")
            )
        for option, text in (("--transport", self.transport), ("--require", self.require)):
            if text == "":
                raise SettingError(f"{option} '' is empty: give a transport, or leave it out")
        self._require_rendezvous()

    def _require_rendezvous(self) -> None:
        if self.nnodes == 1:
            return
        for option, value, meaning in (
            ("--master-addr", self.master_addr, "the address of node 0"),
            ("--master-port", self.master_port, "a free TCP port on node 0"),
        ):
            if value is None:
                raise SettingError(
                    f"--nnodes {self.nnodes} needs {option}: give {meaning}, the same on every node"
                )

    def require_script(self) -> None:
        """Check that the script is there; a module is looked for by the worker itself.

        Raises:
            SettingError: there is no such script; names it and the working directory.

        """
        if self.module:
            return
        path = Path(self.script)
        if path.is_file() or (path / "__main__.py").is_file():
            return
        state = "is not a file" if path.exists() else "was not found"
        raise SettingError(
            f"script {self.script!r} {state} (working directory {Path.cwd()}): "
            "give a path from there or an absolute one, or -m for a module"
        )

    @property
    def settings(self) -> dict[str, str]:
        """Fields of the workers' settings that options set."""
        options = {"transport": self.transport, "require": self.require}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def world_size(self) -> int:
        """Number of workers on all nodes."""
        return self.nnodes * self.nproc_per_node

    def rank(self, local_rank: int) -> int:
        """Return the job-wide rank of this node's worker ``local_rank``."""
        return self.node_rank * self.nproc_per_node + local_rank

    def command(self) -> list[str]:
        """Return the command line of each worker: this interpreter, unbuffered."""
        how = ["-m"] if self.module else []
        return [sys.executable, "-u", *how, self.script, *self.script_args]


def _require_count(option: str, value: int, meaning: str) -> None:
    if value < 1:
        raise SettingError(f"{option} {value} is too small: give {meaning}, 1 or more")
