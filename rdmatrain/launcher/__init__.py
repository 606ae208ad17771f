"""The launcher: starts the workers of one node, watches them, and leaves nothing behind.

``spec`` says what to start, ``endpoint`` where the job's store listens, ``env`` what each worker
sees; ``supervisor`` starts, watches and stops; ``logs`` forwards output; ``process`` and
``signals`` are the doors to the kernel.
"""

import os

from rdmatrain import config
from rdmatrain.launcher.endpoint import choose_endpoint
from rdmatrain.launcher.env import (
    default_omp_threads,
    new_run_id,
    overridden,
    worker_environment,
)
from rdmatrain.launcher.process import open_standard_fds
from rdmatrain.launcher.spec import LaunchSpec
from rdmatrain.launcher.supervisor import Supervisor

__all__ = ["LaunchSpec", "launch"]


def launch(spec: LaunchSpec) -> int:
    """Run the job's part on this node to its end; the process must have no other children to keep.

    Args:
        spec: what to start.

    Returns:
        The exit code for the launcher, 0 to 255.

    Raises:
        SettingError: script, an option or an ``RDMATRAIN_*`` variable is wrong; nothing started.
        BootstrapError: a worker could not be started; those already started were killed.

    """
    config.load_settings(given=spec.settings, given_as="--{}")
    spec.require_script()
    open_standard_fds()
    endpoint = choose_endpoint(spec)
    base = config.inherited_environment()
    messages = [f"warning: {unknown}" for unknown in config.unknown_settings(base)]
    messages += overridden(spec, base)
    threads = default_omp_threads(spec, base, len(os.sched_getaffinity(0)))
    if threads is not None:
        messages.append(
            f"OMP_NUM_THREADS is unset: set to {threads} for each of {spec.nproc_per_node} workers"
        )
    run_id = new_run_id(spec)
    environments = [
        worker_environment(spec, endpoint, run_id, local_rank, base | _omp(threads))
        for local_rank in range(spec.nproc_per_node)
    ]
    return Supervisor(spec, environments, color=config.color_allowed(base)).run(messages)


def _omp(threads: int | None) -> dict[str, str]:
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
