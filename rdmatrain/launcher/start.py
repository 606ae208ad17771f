"""How one worker is started, and the start of a child of the launcher."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.launcher.job import Program


@dataclass(frozen=True, kw_only=True)
class Start:
    """How one worker is started.

    Attributes:
        rank: its rank in the job.
        local_rank: its number on this node.
        program: what it runs.
        environment: all of its environment.
        cpus: those that it may run on; empty for those of the launcher.
        stdout: descriptor that it gets as its stdout.
        stderr: the same for stderr.

    """

    rank: int
    local_rank: int
    program: Program
    environment: Mapping[str, str]
    cpus: tuple[int, ...] = ()
    stdout: int = 1
    stderr: int = 2


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: tuple[int, int],
    in_child: Callable[[], None],
    pass_fds: Sequence[int] = (),
) -> int:
    """Start a child that :meth:`~rdmatrain.launcher.crew.Crew.reap` will reap; return its id.

    Args:
        command: its command line.
        environment: all of its environment.
        output: descriptors that it gets as stdout and stderr.
        in_child: called in it before it becomes its program.
        pass_fds: other descriptors that it keeps.

    Raises:
        OSError: it could not be started.

    """
    try:
        popen = subprocess.Popen(
            command,
            env=environment,
            stdout=output[0],
            stderr=output[1],
            pass_fds=pass_fds,
            preexec_fn=in_child,  # noqa: PLW1509 - the launcher has one thread
        )
    except (ValueError, subprocess.SubprocessError) as error:
        raise OSError(str(error)) from error
    popen.returncode = 0  # not known yet: it keeps Popen from reaping
    return popen.pid
