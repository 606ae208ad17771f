"""Every option of ``rdmatrain run``, as a table: torchrun's of 2.13 to 2.15, and rdmatrain's own.

Each is written with dashes or underscores, never shortened. torchrun's are also variables, as
``PET_NNODES`` is for ``--nnodes``; rdmatrain's own are ``RDMATRAIN_GRACE`` and so on. The command
line wins over a variable; an empty variable counts as unset.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdmatrain.config import PREFIX, own_variables
from rdmatrain.errors import SettingError
from rdmatrain.launcher import values
from rdmatrain.launcher.values import Reader
from rdmatrain.spelling import closest

PET = "PET_"
JOB, GANG, OUTPUT, LIMITS = "Job", "Gang", "Output", "Limits"
COMPATIBLE = "Compatibility with torchrun"
GROUPS = (JOB, GANG, OUTPUT, LIMITS, COMPATIBLE)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
        name: with dashes.
        group: heading of the help.
        help: what it does.
        read: makes a value of its text, or of its variable; raises ``ValueError`` with what would
            be one.
        metavar: what the help calls its value; empty for a flag.
        short: letter of its short form; empty if it has none.
        default: what the help says of the value that it has if nobody gives one.
        prefix: of its variable; empty if it has none.
        instead: for what makes no sense here: what is done instead.

    """

    name: str
    group: str
    help: str
    read: Reader = values.flag
    metavar: str = ""
    short: str = ""
    default: str = ""
    prefix: str = PET
    instead: str = ""

    @property
    def field(self) -> str:
        """Its name as Python has it."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Its environment variable; empty if it has none."""
        return self.prefix + self.field.upper() if self.prefix else ""


@dataclass(frozen=True)
class Choice:
    """The value of an option.

    Attributes:
        value: as its reader gives it; None if nobody gave one, False for a flag.
        source: the option or variable with what it says; empty if nobody gave one.
        level: the higher wins: 2 for the command line, 1 for a variable, 0 for nobody.

    """

    value: Any = None
    source: str = ""
    level: int = 0


COMMAND_LINE, VARIABLE = 2, 1

OPTIONS = (
    Option(
        name="nproc-per-node", group=JOB, metavar="N", read=values.workers,
        help="Workers on this node: a number, gpu, cpu or auto, which is GPUs or else CPUs.",
        default="GPUs of the pod, or 1",
    ),
    Option(
        name="module", short="m", group=JOB,
        help="SCRIPT is the name of a module, run as python -m does.",
    ),
    Option(name="no-python", group=JOB, help="SCRIPT is a program of its own."),
    Option(
        name="run-path", group=JOB,
        help="Run SCRIPT by runpy.run_path; goes before --no-python and --module.",
    ),
    Option(
        name="transport", group=JOB, metavar="NAME", prefix="",
        help="What joins every pair of ranks: verbs, shm or tcp.", read=values.text,
        default="the best for each, auto",
    ),
    Option(
        name="require", group=JOB, metavar="NAME", read=values.text, prefix="",
        help="What must join ranks of different hosts, verbs or tcp; shm: there are none.",
    ),
    Option(
        name="numa-binding", group=JOB, metavar="MODE",
        read=values.one_of("node", "socket", "exclusive", "core-complex"),
        help="CPUs of each worker as torchrun binds them: node, socket, exclusive, core-complex.",
        default="those nearest to its GPU and NIC",
    ),
    Option(
        name="no-bind", group=JOB, prefix=PREFIX,
        help="Leave the CPUs of the workers as they are.",
    ),
    Option(
        name="virtual-local-rank", group=JOB,
        help="Each worker sees itself as local rank 0, and its own GPU alone.",
    ),
    Option(
        name="role", group=JOB, metavar="NAME", read=values.text,
        help="What the workers are called in ROLE_NAME.", default="default",
    ),
    Option(
        name="preflight", group=JOB, prefix=PREFIX,
        help="Ask rdmatrain doctor first; where it says FAIL, start nothing.",
    ),
    Option(
        name="dry-run", group=JOB, prefix="",
        help="Show what each rank would get, and start nothing.",
    ),
    Option(
        name="explain", group=JOB, prefix="",
        help="Show each value in force and where it comes from, and start nothing.",
    ),
    Option(
        name="nnodes", group=GANG, metavar="N", read=values.nodes,
        help="Nodes of the job, or MIN:MAX; run the same command on each.",
        default="what the orchestrator says, or 1",
    ),
    Option(
        name="node-rank", group=GANG, metavar="N", read=values.number(0, values.MAX_NODES - 1),
        help="This node's number, 0 to nnodes - 1.", default="what the orchestrator says, or 0",
    ),
    Option(
        name="master-addr", group=GANG, metavar="HOST", read=values.host,
        help="Address of node 0, the same on every node.", default="what the orchestrator says",
    ),
    Option(
        name="master-port", group=GANG, metavar="PORT", read=values.number(1, 65535),
        help="TCP port on node 0, the same on every node.",
        default="what the orchestrator says, or 29500; a free one for one node",
    ),
    Option(
        name="local-addr", group=GANG, metavar="HOST", read=values.host,
        help="How the other nodes reach this one.", default="as the way to node 0 leaves",
    ),
    Option(
        name="standalone", group=GANG, help="One node, whatever the orchestrator says.",
    ),
    Option(
        name="join-timeout", group=GANG, metavar="S", read=values.seconds, prefix=PREFIX,
        help="Longest wait for all nodes.", default="600",
    ),
    Option(
        name="secret-file", group=GANG, metavar="FILE", read=values.text, prefix=PREFIX,
        help="Has the secret of the job, the same on every node.",
    ),
    Option(
        name="tls-dir", group=GANG, metavar="DIR", read=values.text, prefix=PREFIX,
        help="Encrypt what nodes say: has tls.crt, tls.key and ca.crt, on every node.",
    ),
    Option(
        name="insecure", group=GANG, prefix=PREFIX,
        help="Several nodes without a secret: whoever reaches the port may take part.",
    ),
    Option(
        name="rdzv-endpoint", group=GANG, metavar="HOST:PORT", read=values.endpoint,
        help="The same as --master-addr and --master-port together.",
    ),
    Option(
        name="rdzv-id", group=GANG, metavar="ID", read=values.text,
        help="Name of the job, the same on every node.", default="the orchestrator's, or none",
    ),
    Option(
        name="log-dir", group=OUTPUT, metavar="DIR", read=values.text,
        help="Where files with output go.", default="one in the system's temporary folder",
    ),
    Option(
        name="redirects", short="r", group=OUTPUT, metavar="STREAMS", read=values.streams,
        help="Write to files alone: 1 stdout, 2 stderr, 3 both; by local rank: 0:3,1:1.",
        default="0",
    ),
    Option(
        name="tee", short="t", group=OUTPUT, metavar="STREAMS", read=values.streams,
        help="Write to files and show as well; as --redirects.", default="0",
    ),
    Option(
        name="local-ranks-filter", group=OUTPUT, metavar="RANKS", read=values.ranks,
        help="Show only these local ranks: 0,1.",
    ),
    Option(
        name="only", group=OUTPUT, metavar="RANKS", read=values.rank_ranges, prefix=PREFIX,
        help="Show only these ranks of the job: 0,3-5.",
    ),
    Option(
        name="grep", group=OUTPUT, metavar="TEXT", read=values.text, prefix=PREFIX,
        help="Show only lines that contain this text; files keep all.",
    ),
    Option(
        name="log-line-prefix-template", group=OUTPUT, metavar="TEXT", read=values.text,
        help="Prefix of lines, with ${role_name}, ${local_rank}, ${rank}, ${hostname}.",
    ),
    Option(
        name="duplicate-stdout-filters", group=OUTPUT, metavar="TEXTS", read=values.texts,
        help="Lines of stdout with one of these texts go to a file of their own as well.",
    ),
    Option(
        name="duplicate-stderr-filters", group=OUTPUT, metavar="TEXTS", read=values.texts,
        help="The same for stderr.",
    ),
    Option(
        name="metrics-port", group=OUTPUT, metavar="PORT", read=values.number(1, 65535),
        prefix=PREFIX, help="Serve metrics of this node for Prometheus, at /metrics.",
        default="none are served",
    ),
    Option(
        name="metrics-addr", group=OUTPUT, metavar="HOST", read=values.host, prefix=PREFIX,
        help="Address of this node to serve them on; 0.0.0.0 for all.", default="the pod's own",
    ),
    Option(
        name="max-restarts", group=LIMITS, metavar="N", read=values.number(0, 1_000_000),
        help="How often all workers are started again after a fault.", default="0",
    ),
    Option(
        name="grace", group=LIMITS, metavar="S", read=values.seconds, prefix=PREFIX,
        help="From a signal that stops the job to SIGKILL: for a checkpoint.", default="25",
    ),
    Option(
        name="shutdown-timeout", group=LIMITS, metavar="S", read=values.seconds,
        help="From SIGTERM to SIGKILL after a fault; --grace too, if that is not given.",
        default="5",
    ),
    Option(
        name="hang-timeout", group=LIMITS, metavar="S", read=values.seconds, prefix=PREFIX,
        help="A rank that others wait for may do nothing for so long; 0: for ever.", default="8",
    ),
    Option(
        name="signals-to-handle", group=LIMITS, metavar="NAMES", read=values.signals,
        help="Signals that stop the job.", default="SIGTERM,SIGINT,SIGHUP,SIGQUIT",
    ),
    Option(
        name="rdzv-backend", group=COMPATIBLE, metavar="NAME",
        read=values.one_of("static", "c10d", "rdmatrain", "etcd", "etcd-v2"),
        help="static; c10d: ranks of nodes are dealt out. Both are rdmatrain's own gang.",
    ),
    Option(
        name="rdzv-conf", group=COMPATIBLE, metavar="K=V,...", read=values.pairs,
        help="join_timeout, timeout, last_call_timeout and keep_alive_* count; in seconds.",
    ),
    Option(
        name="monitor-interval", group=COMPATIBLE, metavar="S", read=values.seconds,
        help="Not needed: a worker that ends is seen at once.",
        instead="a worker that ends is seen at once",
    ),
    Option(
        name="start-method", group=COMPATIBLE, metavar="NAME",
        read=values.one_of("spawn", "fork", "forkserver"),
        help="Not needed: each worker is a program of its own.",
        instead="each worker is a program of its own",
    ),
    Option(
        name="event-log-handler", group=COMPATIBLE, metavar="NAME", read=values.text,
        help="Not used: what happens is told on stderr.",
        instead="what happens is told on stderr and in /dev/termination-log",
    ),
    Option(
        name="logs-specs", group=COMPATIBLE, metavar="NAME", read=values.text,
        help="Not used: --redirects, --tee and --log-dir say where output goes.",
        instead="--redirects, --tee and --log-dir say where output goes",
    ),
    Option(
        name="print-completion", group=COMPATIBLE, metavar="SHELL", prefix="",
        read=values.one_of("bash", "zsh", "fish"),
        help="Print what completes commands in bash, zsh or fish, and nothing else.",
    ),
    Option(  # of pytorch#195543, which came after 2.14
        name="exit-barrier-timeout", group=COMPATIBLE, metavar="S", read=values.seconds,
        help="Not needed: nodes wait for each other for as long as all are alive.",
        instead="nodes wait for each other for as long as all are alive",
    ),
)  # fmt: skip
BY_FIELD = {option.field: option for option in OPTIONS}
NAMES = tuple(option.name for option in OPTIONS)


def choose(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Choice]:
    """Return what each option is, by its field: the command line wins over a variable.

    Args:
        given: what the command line has, by field: a text, or True for a flag.
        environ: variables.

    Raises:
        SettingError: a value is not allowed; names the option or variable and what is.

    """
    return {option.field: _choose(option, given, environ) for option in OPTIONS}


def _choose(option: Option, given: Mapping[str, Any], environ: Mapping[str, str]) -> Choice:
    said, name = given.get(option.field), f"--{option.name}"
    if isinstance(said, str):
        return Choice(read(option, f"{name} ", said), name, COMMAND_LINE)
    if said:
        return Choice(True, name, COMMAND_LINE)
    text = environ.get(option.variable, "")
    if text.strip():
        return Choice(read(option, f"{option.variable}=", text), option.variable, VARIABLE)
    return Choice(None if option.metavar else False)


def read(option: Option, name: str, text: str) -> Any:
    """Return the value that a text is; raises SettingError, which calls it ``name``."""
    try:
        return option.read(text)
    except ValueError as error:
        shown = text if text.isprintable() and text.strip() else ascii(text)
        raise SettingError(f"{name}{shown} is not allowed: give {error}") from None


def unknown_option(name: str) -> str:
    """Return what to say of an option that there is not, with the one that was meant.

    Args:
        name: as it was written, with its dashes.

    """
    meant = closest(name.strip("-"), NAMES)
    hint = f"did you mean --{meant}?" if meant else "rdmatrain run --help lists them"
    return f"there is no option {name}: {hint}"


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Say of each ``PET_*`` variable that is no option of torchrun which one was meant."""
    known = {option.variable.removeprefix(PET) for option in OPTIONS if option.prefix == PET}
    lines = []
    for name in own_variables(PET, environ):
        if name.removeprefix(PET) not in known:
            meant = closest(name.removeprefix(PET), sorted(known))
            hint = f"did you mean {PET}{meant}?" if meant else "unset it"
            lines.append(f"{name} is set but torchrun has no such option: {hint}")
    return lines
