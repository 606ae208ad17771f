"""What one node is to do, resolved and validated: nothing here is still to be looked up."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

# sys.argv is the script's own, as torchrun leaves it.
_RUN_PATH = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], None, '__main__')"


@dataclass(frozen=True, kw_only=True)
class Program:
    """What each worker runs.

    Attributes:
        script: path of the script; name of the module when ``module``, of the program when
            ``no_python``.
        args: its arguments, passed on untouched.
        module: run ``script`` as ``python -m`` does.
        no_python: ``script`` is a program of its own.
        run_path: run ``script`` with ``runpy.run_path`` in its worker, as torchrun does.
        python: the interpreter; this one, unless ``PYTHON_EXEC`` names another.

    """

    script: str
    args: tuple[str, ...] = ()
    module: bool = False
    no_python: bool = False
    run_path: bool = False
    python: str = sys.executable

    def command(self) -> list[str]:
        """Return the command line of each worker: Python's output is unbuffered."""
        if self.run_path:
            return [sys.executable, "-u", "-c", _RUN_PATH, self.script, *self.args]
        if self.no_python:
            return [self.script, *self.args]
        how = ["-m"] if self.module else []
        return [self.python, "-u", *how, self.script, *self.args]


@dataclass(frozen=True, kw_only=True)
class Gang:
    """The nodes of the job, and how this one finds the others.

    Attributes:
        min_nodes: fewest nodes that may start.
        max_nodes: most nodes.
        node_rank: this node's number, 0 to ``max_nodes - 1``; None: the leader gives it one.
        leader: host name or address of the leader; empty for a job of one node.
        port: TCP port that the leader listens on; 0 for a free one, which a job of one node has.
        local_addr: how the other nodes reach this one; empty: as the way to the leader leaves.
        run_id: name of the job, equal on all nodes.
        epoch: how often the orchestrator has started the job again.
        join_s: longest wait for the gang to be complete.
        last_call_s: once ``min_nodes`` are there, how long to wait for more, up to ``max_nodes``.
        lost_s: a node that has not been heard of for so long is lost.

    """

    min_nodes: int = 1
    max_nodes: int = 1
    node_rank: int | None = 0
    leader: str = ""
    port: int = 0
    local_addr: str = ""
    run_id: str = ""
    epoch: int = 0
    join_s: float = 600.0
    last_call_s: float = 30.0
    lost_s: float = 8.0

    @property
    def alone(self) -> bool:
        """Whether the job has one node, and so needs no network."""
        return self.max_nodes == 1


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the workers' output goes; as torchrun's options of these names say.

    Attributes:
        log_dir: folder for files; empty for one in the system's temporary folder, when needed.
        redirects: streams that go to files alone: ``0`` none, ``1`` stdout, ``2`` stderr, ``3``
            both, or by local rank: ``0:3,1:1``.
        tee: the same for streams that go to files as well as to the launcher's output.
        only_local: local ranks whose output is shown; empty for all.
        only: the same, by ranks of the job.
        grep: of these, lines are shown that contain this text; empty for all.
        template: of the prefix, with ``${role_name}``, ``${local_rank}``, ``${rank}`` and
            ``${host}``; empty for ``host:rank│`` and a space.
        stdout_filters: lines of stdout of workers that are shown, if they contain one of these
            texts, also go to one file of all workers, behind their prefixes.
        stderr_filters: the same for stderr.
        color: colour may be used on a terminal.

    """

    log_dir: str = ""
    redirects: str = "0"
    tee: str = "0"
    only_local: tuple[int, ...] = ()
    only: tuple[int, ...] = ()
    grep: str = ""
    template: str = ""
    stdout_filters: tuple[str, ...] = ()
    stderr_filters: tuple[str, ...] = ()
    color: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long things may take, in seconds, and how often they may be tried.

    Attributes:
        max_restarts: how often the gang is started again after a fault.
        shutdown_s: from SIGTERM to SIGKILL, after a fault.
        grace_s: the same after the launcher was told to stop: for a checkpoint.
        hang_s: a rank that others wait for, and that does nothing, for so long hangs; 0 for never.
        signals: names of the signals that stop the job.

    """

    max_restarts: int = 0
    shutdown_s: float = 5.0
    grace_s: float = 25.0
    hang_s: float = 8.0
    signals: tuple[str, ...] = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Where Prometheus finds the metrics of this node.

    Attributes:
        port: TCP port; 0: none are served.
        addr: address; empty for the one that the way to other networks leaves from.

    """

    port: int = 0
    addr: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One node's part of a job.

    Attributes:
        program: what each worker runs.
        nproc: workers on this node, at least 1.
        first_local: ``LOCAL_RANK`` of the first of them: more than 0 where mpirun or srun started
            several launchers on this host, each of which is a node of the gang.
        local_world: ``LOCAL_WORLD_SIZE``, of all launchers on this host; 0 for ``nproc``.
        gang: the nodes.
        output: where output goes.
        limits: how long things may take.
        metrics: where Prometheus finds them.
        role: torchrun's name for the workers.
        secret: the job's secret, of at least 16 bytes; empty: one is made, which a job of one node
            may have.
        insecure: a gang of several nodes may do without a secret.
        tls: folder with ``tls.crt``, ``tls.key`` and ``ca.crt``: the nodes talk over TLS as well.
        settings: ``RDMATRAIN_*`` settings of the workers that options gave, by field name.
        bind_cpus: each worker is bound to the CPUs that discovery chose for it.
        numa_binding: torchrun's ``--numa-binding``: ``node``, ``socket``, ``exclusive``,
            ``core-complex``, or empty.
        virtual_local_rank: each worker sees itself as local rank 0, and one GPU.
        preload: modules that standbys import, where restarts are allowed; none for no standbys.
        messages: lines to write to stderr before anything starts.

    """

    program: Program
    nproc: int = 1
    first_local: int = 0
    local_world: int = 0
    gang: Gang = field(default_factory=Gang)
    output: Output = field(default_factory=Output)
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    role: str = "default"
    secret: bytes = field(default=b"", repr=False)
    insecure: bool = False
    tls: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    bind_cpus: bool = True
    numa_binding: str = ""
    virtual_local_rank: bool = False
    preload: tuple[str, ...] = ("torch",)
    messages: tuple[str, ...] = ()

    @property
    def num_local(self) -> int:
        """``LOCAL_WORLD_SIZE``: workers on this host, of this launcher and those beside it."""
        return self.local_world or self.nproc
