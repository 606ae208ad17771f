"""What ``rdmatrain run`` does: from what the command line has to an exit code."""

from collections.abc import Callable, Mapping
from typing import Any

from rdmatrain import config
from rdmatrain.discovery.probes import live
from rdmatrain.discovery.source import Tree
from rdmatrain.discovery.survey import survey
from rdmatrain.errors import SettingError
from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.explain import dry_run_text, explain_text
from rdmatrain.launcher.resolve import Resolved, resolve


def run_job(
    given: Mapping[str, Any],
    write: Callable[[str], None],
    before: Callable[[Resolved], None] | None = None,
) -> int:
    """Run this node's part of a job, or say what it would be; return the launcher's exit code.

    Args:
        given: what the command line has, see :func:`~rdmatrain.launcher.resolve.resolve`.
        write: prints what the user asked to see.
        before: called with what is to be done before anything is started; a RefusalError of it is
            why nothing is.

    Raises:
        SettingError: something is wrong; nothing was started. Kubernetes is told too.

    """
    try:
        return _run(given, write, before)
    except SettingError as error:
        if not _only_looks(given):
            from rdmatrain.launcher import termination  # noqa: PLC0415 - only errors need it

            termination.refuse(str(error), getattr(error, "exit_code", exit_codes.USAGE))
        raise


def _run(
    given: Mapping[str, Any],
    write: Callable[[str], None],
    before: Callable[[Resolved], None] | None,
) -> int:
    environ = config.inherited_environment()
    source = Tree(probes=live())
    found = survey(source)
    resolved = resolve(given, environ, found)
    if given.get("explain"):
        write(explain_text(resolved))
    if given.get("dry_run"):
        write(dry_run_text(resolved.job, found, environ, source))
    if _only_looks(given):
        return 0
    if before:
        before(resolved)
    from rdmatrain.launcher.launch import launch  # noqa: PLC0415 - --explain is done

    return launch(resolved.job, found)


def _only_looks(given: Mapping[str, Any]) -> bool:
    return bool(given.get("explain") or given.get("dry_run"))
