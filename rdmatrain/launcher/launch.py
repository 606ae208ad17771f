"""One node's part of a job, from a resolved job to an exit code."""

from dataclasses import replace

from rdmatrain import config
from rdmatrain.discovery.source import Tree
from rdmatrain.discovery.survey import Survey
from rdmatrain.launcher import process, termination
from rdmatrain.launcher.agent import Agent
from rdmatrain.launcher.facts import host_name
from rdmatrain.launcher.gang import join
from rdmatrain.launcher.guardian import Guardian
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.messages import Finish
from rdmatrain.launcher.muster import Muster
from rdmatrain.launcher.places import places
from rdmatrain.launcher.runtime import Runtime
from rdmatrain.launcher.scrape import Scrape
from rdmatrain.launcher.standby import Reserve
from rdmatrain.launcher.watch.watcher import Watcher
from rdmatrain.launcher.worker_env import overridden
from rdmatrain.secret import generate


def launch(job: Job, survey: Survey | None = None) -> int:
    """Run this node's part of a job to its end; call it in the main thread of a process of its own.

    Args:
        job: what to do.
        survey: what this node has; None binds workers to nothing.

    Returns:
        The exit code for the launcher, see :mod:`rdmatrain.launcher.exit_codes`.

    Raises:
        SettingError: a folder or an address that is needed cannot be had; nothing has started.

    """
    finish = run_to_end(job, survey)
    termination.write(termination.text(finish, job.gang.run_id, host_name()))
    return finish.exit_code


def run_to_end(job: Job, survey: Survey | None = None) -> Finish:
    """Do what :func:`launch` does; return how it ended, and tell Kubernetes nothing."""
    process.open_standard_fds()
    runtime = Runtime()
    try:
        guardian = Guardian(runtime.folder)
        finish = _run(job, survey, runtime, guardian)
        # The guardian last: a signal that kills this process meanwhile leaves the rest to it.
        runtime.close()
        guardian.close()
    finally:
        runtime.close()
    return finish


def _run(job: Job, survey: Survey | None, runtime: Runtime, guardian: Guardian) -> Finish:
    secret = job.secret or (generate() if job.gang.alone else b"")
    common = {**guardian.environment(), config.GRACE: f"{job.limits.grace_s:g}"}
    if secret:
        common[config.SECRET_FILE] = str(runtime.write_secret(secret))
    environ = config.inherited_environment()
    found, lines = places(job, survey, environ, Tree())
    job = replace(job, messages=(*job.messages, *lines, *overridden(job, environ)))
    enter = guardian.cgroup.join if guardian.cgroup else None
    scrape = Scrape(job, runtime.folder, enter)
    loop, watcher = Loop(), Watcher(runtime.folder, scrape)
    muster = Muster(
        job=job,
        places=found,
        common=common,
        own=watcher.environment,
        reserve=Reserve(loop, job.preload, enter),
    )
    agent = Agent(loop, job, muster, watcher, guardian)
    try:
        return agent.run(lambda handler: join(loop, job, secret, handler, survey))
    finally:
        scrape.close()
        loop.close()
