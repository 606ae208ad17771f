"""The faults of fault_corpus.py: how each is made, and what is true of it."""

from dataclasses import dataclass

RANK = 1  # does what is wrong, unless a case says otherwise
SCRIPT = ("{script}",)

HEAD = """
import atexit, ctypes, mmap, os, resource, signal, subprocess, sys, threading, time
from pathlib import Path
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
folder = Path(os.environ["CORPUS"])
bad = rank == 1
def note(name, value=""):
    new = folder / f"new-{name}.{rank}"
    new.write_text(str(value))
    new.rename(folder / f"{name}.{rank}")
def noted(name, of):
    path = folder / f"{name}.{of}"
    while not path.exists():
        time.sleep(0.01)
    return path.read_text()
def group(backend=os.environ["CORPUS_BACKEND"], **how):
    global torch, dist
    import torch
    import torch.distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group(backend, **how)
def train(fault=None, steps=10**9):
    x = torch.ones(1000)
    for step in range(steps):
        dist.all_reduce(x)
        x /= world
        if step == 3:
            note("ready")
            if fault and bad:
                fault()
        time.sleep(0.005)
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault, and what is true of it.

    Attributes:
        name: of the case.
        body: of the worker, after HEAD.
        says: expression that finds what happened in the first line of the report.
        codes: exit codes of the launcher that are right.
        ranks: any of them is guilty; none where it is a host, or the command line.
        nodes: hosts that may be guilty or where the guilty runs; none for the command line.
        backend: of the workers' group.
        nproc: workers of each host.
        options: of ``rdmatrain run``.
        program: after the options.
        hosts: whether it needs two hosts; they are called host0 and host1.
        node_options: further options of each host.
        outside: what happens to host1 when all workers train.

    """

    name: str
    body: str = "group(); train()"
    says: str
    codes: tuple[int, ...]
    ranks: tuple[int, ...] = (RANK,)
    nodes: tuple[int, ...] = (0,)
    backend: str = "rdmatrain"
    nproc: int = 2
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = SCRIPT
    hosts: bool = False
    node_options: tuple[tuple[str, ...], ...] = ()
    outside: str = ""


def body(fault: str) -> str:
    """Return a worker whose rank 1 does something between two steps of training."""
    lines = "\n".join(f"    {line}" for line in fault.strip().splitlines())
    return f"def fault():\n{lines}\ngroup()\ntrain(fault)\n"


def training(name: str, fault: str, says: str, code: int, **more: object) -> Case:
    """Return a case of such a worker.

    After an error Gloo's threads may abort the process that has raised it.
    """
    codes = (1, 134) if code == 1 and more.get("backend") == "gloo" else (code,)
    return Case(name=name, body=body(fault), says=says, codes=codes, **more)  # type: ignore[arg-type]


def on_host(name: str, says: str, code: int, **more: object) -> Case:
    """Return a case between two hosts, in which the second one is to blame."""
    common = {"hosts": True, "nodes": (1,), "nproc": 1}
    return Case(name=f"two hosts: {name}", says=says, codes=(code,), **common, **more)  # type: ignore[arg-type]


GLOO = {"backend": "gloo"}
QUICK = ("--hang-timeout", "2")
BUS = """
with open(folder / "mapped", "w+b") as file:
    file.truncate(8192)
    mapped = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    mapped[5000]
"""
BACKWARD = """
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    def backward(ctx, grad):
        raise FloatingPointError("gradient is not finite")
Double.apply(torch.ones(3, requires_grad=True)).sum().backward()
"""
LOADER = """
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        {fault}
from torch.utils.data import DataLoader
list(DataLoader(Data(), num_workers=1))
"""
LIMIT_AS = """
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
{fault}
"""
LEAVE_SLOWLY = """
atexit.register(time.sleep, 1)
dist.destroy_process_group()
raise ValueError("loss is nan")
"""

SIGNALS = [
    training("kill -9", "os.kill(os.getpid(), 9)", "SIGKILL", 137),
    training("kill -9, gloo, 3 ranks", "os.kill(os.getpid(), 9)", "SIGKILL", 137, **GLOO, nproc=3),
    training("segfault", "ctypes.string_at(0)", "SIGSEGV", 139),
    training("segfault, gloo", "ctypes.string_at(0)", "SIGSEGV", 139, **GLOO),
    training("abort", "os.abort()", "SIGABRT", 134),
    training("bus error in a truncated file", BUS, "SIGBUS", 135),
    training("SIGFPE", "os.kill(os.getpid(), signal.SIGFPE)", "SIGFPE", 136, **GLOO),
    training("SIGILL", "os.kill(os.getpid(), signal.SIGILL)", "SIGILL", 132),
    training("SIGTERM from a stranger", "os.kill(os.getpid(), 15)", "SIGTERM", 143),
    training("KeyboardInterrupt", "raise KeyboardInterrupt", "SIGINT|KeyboardInterrupt", 130),
]
EXITS = [
    training("sys.exit(3)", "sys.exit(3)", "exit code 3", 3),
    training("os._exit(7)", "os._exit(7)", "exit code 7", 7),
    training("os._exit(77), gloo, 3 ranks", "os._exit(77)", "exit code 77", 77, **GLOO, nproc=3),
    training("sys.exit with a text", "sys.exit('no data left')", "no data left", 1),
    training(
        "os._exit(9) in atexit", "atexit.register(os._exit, 9); sys.exit(0)", "exit code 9", 9
    ),
    training("0 too early", "sys.exit(0)", "exit code 0", 1, nproc=3),
    training("0 too early, gloo", "sys.exit(0)", "exit code 0", 1, **GLOO),
    training("os._exit(0), gloo, 3 ranks", "os._exit(0)", "exit code 0", 1, **GLOO, nproc=3),
    Case(
        name="0 before the group forms",
        body="if bad: sys.exit(0)\nfrom datetime import timedelta\n"
        "group(timeout=timedelta(seconds=5))",
        says="exit code 0",
        codes=(1,),
    ),
]
ERRORS = [
    training("ValueError", "raise ValueError('loss is nan')", "ValueError: loss is nan", 1),
    training("KeyError, gloo, 3 ranks", "{}['lr']", "KeyError: 'lr'", 1, **GLOO, nproc=3),
    training("bare assert", "assert not bad", "AssertionError", 1),
    training("text of many lines", "raise OSError('a\\n' * 50)", "OSError: a a a", 1),
    training(
        "raised from another",
        "try:\n    {}['lr']\nexcept KeyError as e:\n    raise RuntimeError('no rate') from e",
        "RuntimeError: no rate",
        1,
    ),
    training("recursion without end", "fault()", "RecursionError", 1),
    training(
        "error whose text fails",
        "class Odd(Exception):\n    def __str__(self):\n        raise TypeError('odd')\nraise Odd",
        "Odd",
        1,
    ),
    training("in backward", BACKWARD, "FloatingPointError: gradient is not finite", 1),
    training("shapes within the model", "torch.ones(2, 3) @ torch.ones(2, 3)", "cannot be mult", 1),
    training(
        "in a loader's worker", LOADER.format(fault="raise OSError('bad shard')"), "OSError", 1
    ),
    training(
        "a loader's worker is killed",
        LOADER.format(fault="os.kill(os.getpid(), 9)"),
        "DataLoader worker .* (killed|exited)",
        1,
        **GLOO,
    ),
    training(
        "in a thread, missed later",
        "found = {}\nthread = threading.Thread(target=lambda: found.update(x=1 / 0))\n"
        "thread.start(); thread.join()\nfound['x']",
        "KeyError: 'x'",
        1,
    ),
    training(
        "a child is killed",
        "subprocess.run(['sh', '-c', 'kill -9 $$'], check=True)",
        "CalledProcessError.*SIGKILL",
        1,
    ),
    training("after destroy", "dist.destroy_process_group(); raise ValueError('late')", "late", 1),
    training("stdout closed", "os.close(1); raise ValueError('mute')", "ValueError: mute", 1),
    training("stderr closed", "os.close(2); raise ValueError('mute')", "ValueError: mute", 1),
    Case(
        name="missing module, before torch",
        body="if bad: import no_such_module\ngroup(); train()",
        says="no_such_module",
        codes=(1,),
    ),
    Case(
        name="missing module, after torch, gloo",
        body="import torch\nif bad: import no_such_module\ngroup(); train()",
        says="ModuleNotFoundError.*no_such_module",
        codes=(1,),
        backend="gloo",
    ),
    Case(
        name="before the group forms, 3 ranks",
        body="import torch\nif bad: raise ValueError('bad config')\ngroup(); train()",
        says="ValueError: bad config",
        codes=(1,),
        nproc=3,
    ),
    Case(
        name="script with a wrong line",
        body="\nthis is no python\n",
        says="SyntaxError",
        codes=(1,),
        ranks=(0, 1),
    ),
]
MEMORY = [
    training("MemoryError", "bytearray(1 << 60)", "MemoryError", 1),
    training("RLIMIT_AS, Python", LIMIT_AS.format(fault="bytearray(1 << 40)"), "MemoryError", 1),
    training("RLIMIT_AS, torch", LIMIT_AS.format(fault="torch.ones(1 << 40)"), "allocat", 1),
]
MISMATCHES = [
    Case(
        name=f"mismatch of {what}",
        body=f"group()\ntrain(steps=5)\n{call}\n",
        says=says,
        codes=(1,),
        ranks=(0, 1),
    )
    for what, call, says in (
        ("shapes", "dist.all_reduce(torch.ones(11 if bad else 10))", "11|10"),
        ("dtypes", "dist.all_reduce(torch.ones(10, dtype=torch.int32 if bad else None))", "int32"),
        (
            "calls",
            "x = torch.ones(10)\ndist.broadcast(x, 0) if bad else dist.all_reduce(x)",
            "broadcast|all_reduce",
        ),
        (
            "reductions",
            "dist.all_reduce(torch.ones(10), dist.ReduceOp.MAX if bad else dist.ReduceOp.SUM)",
            "(?i)max|sum",
        ),
    )
]
HANGS = [
    training(name, fault, says, 204, options=QUICK)
    for name, fault, says in (
        ("SIGSTOP", "os.kill(os.getpid(), signal.SIGSTOP)", "SIGSTOP"),
        ("GIL held", "ctypes.PyDLL(None).sleep(600)", "GIL"),
        ("lock taken twice", "lock = threading.Lock(); lock.acquire(); lock.acquire()", "a lock"),
        (
            "thread died, main waits",
            "done = threading.Event()\nthreading.Thread(target=lambda: 1 / 0).start()\ndone.wait()",
            "done nothing",
        ),
        ("waits for a child", "subprocess.run(['sleep', '600'])", "done nothing"),
    )
]
HANGS += [
    Case(
        name="groups in opposite order",
        body="group()\na, b = dist.new_group(), dist.new_group()\ntrain(steps=5)\n"
        "x = torch.ones(10)\n"
        "for each in (a, b) if bad else (b, a): dist.all_reduce(x, group=each)\n",
        says="waited for each other in different calls",
        codes=(204,),
        ranks=(),
        options=QUICK,
    ),
    Case(
        name="one never joins",
        body="from datetime import timedelta\nif bad:\n    import torch; time.sleep(600)\n"
        "group(timeout=timedelta(seconds=6))",
        says="rank 1|not joined|has not come|done nothing|waiting",
        codes=(1, 204),
        options=QUICK,
    ),
]
ORDER = [
    training("culprit takes 1 s to die", LEAVE_SLOWLY, "ValueError: loss is nan", 1, nproc=3),
    training("culprit takes 1 s to die, gloo", LEAVE_SLOWLY, "ValueError: loss", 1, **GLOO),
    Case(
        name="victim aborts, culprit takes 1 s to die",
        body="import torch\ngroup()\nif bad:\n    train(steps=5)\n"
        + "\n".join(f"    {line}" for line in LEAVE_SLOWLY.strip().splitlines())
        + "\ntry:\n    train()\nexcept RuntimeError as error:\n"
        "    print(f'what(): {error}', file=sys.stderr, flush=True)\n    os.abort()\n",
        says="ValueError: loss is nan",
        codes=(1,),
    ),
    Case(
        name="victim notices by itself after 50 ms",
        body="import torch\nnote('pid', os.getpid())\nif bad:\n    noted('up', 0)\n"
        "    raise ValueError('first')\nother = int(noted('pid', 1))\nnote('up')\n"
        "while Path(f'/proc/{other}/fd/0').exists(): time.sleep(0.01)\n"
        "time.sleep(0.05)\nraise RuntimeError('the other one is gone')\n",
        says="ValueError: first",
        codes=(1,),
    ),
    Case(
        name="victim dies before, by a signal handler",
        body="import torch\ndef told(*_): raise RuntimeError('told to stop')\n"
        "signal.signal(signal.SIGUSR1, told)\nnote('pid', os.getpid())\n"
        "if bad:\n    os.kill(int(noted('pid', 0)), signal.SIGUSR1)\n    time.sleep(0.05)\n"
        "    ctypes.string_at(0)\ntime.sleep(600)\n",
        says="SIGSEGV",
        codes=(139,),
    ),
    Case(
        name="two at once",
        body="group()\ntrain(steps=5)\nif rank: raise ValueError(f'of {rank}')\ntrain()\n",
        says="ValueError: of [12]",
        codes=(1,),
        ranks=(1, 2),
        nproc=3,
    ),
]
COMMANDS = [
    Case(
        name="no such script",
        says="no_such.py",
        codes=(64,),
        ranks=(),
        nodes=(),
        program=("{folder}/no_such.py",),
    ),
    Case(
        name="a program that may not be run",
        says="may not be executed",
        codes=(64,),
        ranks=(),
        nodes=(),
        options=("--no-python",),
    ),
    Case(
        name="no such program",
        says="no_such_program",
        codes=(64,),
        ranks=(),
        nodes=(),
        options=("--no-python",),
        program=("no_such_program",),
    ),
]
BETWEEN_HOSTS = [
    on_host("kill -9 of a rank", "SIGKILL", 137, body=body("os.kill(os.getpid(), 9)")),
    on_host("KeyError", "KeyError: 'lr'", 1, body=body("{}['lr']")),
    on_host("0 too early", "exit code 0", 1, body=body("sys.exit(0)")),
    on_host(
        "SIGSTOP of a rank",
        "SIGSTOP",
        204,
        body=body("os.kill(os.getpid(), signal.SIGSTOP)"),
        options=QUICK,
    ),
    on_host("launcher killed", "lost.* is gone", 201, ranks=(), outside="kill launcher"),
    on_host("launcher stopped", "lost.* nothing was heard", 201, ranks=(), outside="stop launcher"),
    on_host("cable cut", "lost.* nothing was heard", 201, ranks=(), outside="cut"),
    on_host(
        "other options",
        "transport differs.*host1",
        78,
        ranks=(),
        node_options=((), ("--transport", "tcp")),
    ),
]
ALONE = [*SIGNALS, *EXITS, *ERRORS, *MEMORY, *MISMATCHES, *HANGS, *ORDER, *COMMANDS]
CASES = [*ALONE, *BETWEEN_HOSTS]
