"""Ranks that a launcher, mpirun or srun has started already, on one host or several.

The process of rank 0 conducts; the others are *agents*, which start their rank of each contestant
when they are asked to, where they are and with what they may use. To rank 0's job such a rank is a
process here, which passes orders and answers on::

    JobOfRanks --Unix socket-- pass_on() --TCP-- rank 3 of gloo, a child of agent 3

They find each other through torch's store. A connection that ends takes what hangs on it along: an
agent ends with its connection to rank 0, a rank with its own.
"""

import json
import os
import select
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from rdmatrain.bench.agents import Agent, Place, call, find, open_store
from rdmatrain.bench.contestants import Command, CoreRanks, Start, TorchRanks
from rdmatrain.bench.model import Case, Failure
from rdmatrain.bench.orders import PIN_VARIABLE, SOCKET_VARIABLE
from rdmatrain.comm.host import host_id, listen_address
from rdmatrain.config import inherited_environment, load_settings
from rdmatrain.discovery.orchestrators.hosts import slurm_nodes, slurm_tasks
from rdmatrain.errors import SettingError

CALL_VARIABLE = "_RDMATRAIN_BENCH_CALL"  # JSON: which agent pass_on() calls, and what it tells it
BUFFER_BYTES = 1 << 16
JOINABLE = (TorchRanks, CoreRanks)  # contestants whose ranks can be those that are there
# Who started the ranks, what it calls their number and this one, what marks them as its ranks, and
# how many of them are on this host.
LAUNCHERS = (
    ("a launcher", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    # srun --mpi=pmi2 numbers its tasks in the first two as well: it is no mpirun.
    ("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", "MPI_LOCALNRANKS"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS", ""),
)
LOOPBACK = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 20000, 10000  # of the store, where nothing says one
JOB_PORTS = 31  # of the steps of a job; then the next job's begin
# What the ranks of a contestant must not take for their own.
NOT_THEIRS = {"TORCHELASTIC_USE_AGENT_STORE": "False", "RDMATRAIN_WATCH": ""}


def place(environ: Mapping[str, str] | None = None) -> Place | None:
    """Find out whether this process is one of several that were started together.

    One that was started alone, as by ``srun --pty bash``, starts its ranks itself.

    Args:
        environ: read this instead of the process environment.

    Raises:
        SettingError: it is, but nothing says where rank 0 is.

    """
    source = inherited_environment() if environ is None else environ
    for launcher, rank, ranks, mark, on_host in LAUNCHERS:
        if all(source.get(name, "").isdecimal() for name in (rank, ranks, mark)):
            if int(source[ranks]) == 1:
                return None
            here = _tasks_here(source) if launcher == "srun" else source.get(on_host, "")
            addr, port = _store_of(source, launcher, here == source[ranks])
            return Place(
                rank=int(source[rank]),
                ranks=int(source[ranks]),
                on_host=int(here if here.isdecimal() else source[ranks]),
                launcher=launcher,
                addr=addr,
                port=port,
                hosted=source.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                job=source.get("TORCHELASTIC_RESTART_COUNT", "0"),
            )
    return None


def _tasks_here(source: Mapping[str, str]) -> str:
    """Return how many tasks of srun are on this node; "" where it does not say."""
    tasks = slurm_tasks(source.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = source.get("SLURM_NODEID", "")
    return str(tasks[int(node)]) if node.isdecimal() and int(node) < len(tasks) else ""


def _store_of(source: Mapping[str, str], launcher: str, one_host: bool) -> tuple[str, int]:
    if source.get("MASTER_ADDR") and source.get("MASTER_PORT", "").isdecimal():
        return source["MASTER_ADDR"], int(source["MASTER_PORT"])
    job, step = (source.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    nodes = slurm_nodes(source.get("SLURM_STEP_NODELIST", ""))
    if launcher == "srun" and nodes and job.isdecimal() and step.isdecimal():
        port = FIRST_PORT + (int(job) * JOB_PORTS + int(step)) % NUM_PORTS
        return nodes[0] if len(nodes) > 1 else LOOPBACK, port
    if one_host:
        # What started them is the parent of them all.
        return LOOPBACK, FIRST_PORT + os.getppid() % NUM_PORTS
    raise SettingError(
        f"{launcher} does not say where rank 0 is: set MASTER_ADDR to its host and MASTER_PORT to "
        "a free port there, the same for all ranks (mpirun -x MASTER_ADDR -x MASTER_PORT)"
    )


def own_starters(starts: Sequence[Start], cases: Sequence[Case]) -> list[Start]:
    """Return the contestants of these cases whose ranks cannot be those that are there."""
    others = (start for start in starts if type(start) not in JOINABLE)
    return [start for start in others if "" in map(start.why_not, cases)]


def with_crew(
    here: Place, starts: Sequence[Start], cases: Sequence[Case], stack: ExitStack
) -> tuple[list[Start], list[Failure]]:
    """Wait for all ranks, and make them those of the contestants.

    Args:
        here: rank 0's place.
        starts: contestants that would start ranks themselves.
        cases: that they are for.
        stack: what ends the agents.

    Returns:
        What can be started here, and what cannot, with the reason.

    Raises:
        BootstrapError: some ranks did not come.

    """
    why = f"it starts its own ranks, but {here.launcher} started these: start rdmatrain bench alone"
    alone = own_starters(starts, cases)
    crew = Crew(here)
    stack.callback(crew.close)
    joined = [crew.ranks_of(start) for start in starts if type(start) in JOINABLE]
    return list(joined), [Failure(start.entry, None, why) for start in alone]


class Crew:
    """Rank 0's hold on the agents; they end with it."""

    def __init__(self, here: Place) -> None:
        """Wait for all ranks.

        Raises:
            BootstrapError: some did not come.

        """
        self._here = here
        self._holds: list[socket.socket] = []
        self._store = open_store(here)
        self._agents = {rank: find(here, self._store, rank) for rank in range(1, here.ranks)}
        try:
            for rank, agent in self._agents.items():
                self._holds.append(call(rank, agent, {"do": "hold"}))
        except BaseException:
            self.close()
            raise

    def ranks_of(self, start: Start) -> "JoinedRanks":
        """Return a contestant whose ranks the agents start."""
        return JoinedRanks(start.entry, start.ops, start, self)

    def commands(self, commands: Sequence[Command]) -> list[Command]:
        """Turn the commands of ranks on this host into those of ranks where the agents are.

        Raises:
            BootstrapError: other hosts cannot reach this one where it says that it is.

        """
        hosts = [host_id(), *(agent.host for _, agent in sorted(self._agents.items()))]
        with socket.socket() as probe:  # the store of these ranks, beside rank 0
            probe.bind(("", 0))
            port = str(probe.getsockname()[1])
        addr = LOOPBACK
        if len(set(hosts)) > 1:
            addr = listen_address(load_settings().addr, self._here.addr, one_host=False)
        common = {"MASTER_ADDR": addr, "MASTER_PORT": port, **NOT_THEIRS}
        common[PIN_VARIABLE] = inherited_environment().get(PIN_VARIABLE, "")
        placed = []
        for rank, (argv, env) in enumerate(commands):
            local = {
                "LOCAL_RANK": str(hosts[:rank].count(hosts[rank])),
                "LOCAL_WORLD_SIZE": str(hosts.count(hosts[rank])),
            }
            mine = {**env, **common, **local}
            placed.append((argv, mine) if rank == 0 else self._passed_on(rank, argv, mine))
        return placed

    def _passed_on(self, rank: int, argv: Sequence[str], env: dict[str, str]) -> Command:
        order = {"do": "start", "argv": list(argv[1:]), "env": env}
        said = {"rank": rank, "agent": asdict(self._agents[rank]), "order": order}
        return [sys.executable, "-m", "rdmatrain.bench.joined"], {CALL_VARIABLE: json.dumps(said)}

    def close(self) -> None:
        """Let the agents end."""
        for hold in self._holds:
            hold.close()
        self._holds = []


@dataclass(frozen=True)
class JoinedRanks(Start):
    """A contestant whose ranks are where they were started."""

    ranks: Start = field(compare=False)
    crew: Crew = field(compare=False)

    def why_not(self, case: Case) -> str:
        """Ask the contestant."""
        return self.ranks.why_not(case)

    def commands(self, ranks: int, socket_path: str) -> list[Command]:
        """Return a process for each rank: itself, or what passes orders on to it."""
        return [
            (argv, {**env, SOCKET_VARIABLE: socket_path})
            for argv, env in self.crew.commands(self.ranks.commands(ranks, socket_path))
        ]


def pass_on() -> int:
    """Be a rank of rank 0's job: have an agent start it, and pass on orders and answers."""
    said = json.loads(inherited_environment()[CALL_VARIABLE])
    agent = Agent(**said["agent"])
    there = call(said["rank"], agent, said["order"])
    here = socket.socket(socket.AF_UNIX)
    here.connect(inherited_environment()[SOCKET_VARIABLE])
    other = {here: there, there: here}
    while True:
        for sock in select.select([here, there], [], [])[0]:
            data = sock.recv(BUFFER_BYTES)
            if data:
                other[sock].sendall(data)
            elif sock is there:
                text = f"its process on {agent.name} has ended, and wrote to its launcher's output"
                print(text, file=sys.stderr)  # noqa: T201 - the conductor shows it
                return 1
            else:
                return 0


if __name__ == "__main__":
    sys.exit(pass_on())
