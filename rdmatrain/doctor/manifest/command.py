"""What ``rdmatrain doctor -f`` does: from files to results."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from time import perf_counter

from rdmatrain.doctor.catalog import by_id
from rdmatrain.doctor.manifest.define import Question
from rdmatrain.doctor.manifest.nodes import Node, documents
from rdmatrain.doctor.manifest.workloads import Manifest
from rdmatrain.doctor.model import Check, Finding, Needs, Result, Verdict, skipped
from rdmatrain.errors import SettingError
from rdmatrain.topo.inputs import STDIN, read_text

# Causes before what follows from them.
MODULES = (
    "variables",
    "process",
    "network",
    "lifecycle",
    "retries",
    "devices",
    "cluster",
    "memory",
    "placement",
    "files",
)


def questions() -> tuple[Question, ...]:
    """Return all that is asked of a manifest; checks that pods have too are the same ones."""
    known = by_id()
    found = []
    for name in MODULES:
        module = import_module(f"rdmatrain.doctor.manifest.checks.{name}")
        found += [each for each in vars(module).values() if isinstance(each, Question)]
    return tuple(replace(each, check=known.get(each.check.id, each.check)) for each in found)


def manifest_checks() -> tuple[Check, ...]:
    """Return the checks that a manifest answers."""
    return tuple(each.check for each in questions())


def examine_manifest(files: Sequence[str], needs: Needs, chosen: Sequence[Check]) -> list[Result]:
    """Ask what these files show together.

    Args:
        files: names; ``-`` is standard input.
        needs: of the job.
        chosen: the checks to ask, of :func:`manifest_checks`.

    Raises:
        SettingError: a file cannot be read, is no YAML, or no pod is in them.

    """
    ids = {each.id for each in chosen}
    asked = [each for each in questions() if each.check.id in ids]
    return list(answers(read_manifest(files), asked, needs))


def read_manifest(files: Sequence[str]) -> Manifest:
    """Read files and find their pods.

    Raises:
        SettingError: a file cannot be read, is no YAML, or no pod is in them.

    """
    manifest = read_objects(files)
    if not manifest.pods:
        names = " and ".join(files)
        raise SettingError(f"there is no pod in {names}: nothing has spec.containers")
    return manifest


def read_objects(files: Sequence[str]) -> Manifest:
    """Read files, whatever is in them.

    Raises:
        SettingError: a file cannot be read, or is no YAML.

    """
    found: list[Node] = []
    for file in files:
        name = "standard input" if file == STDIN else file
        found += documents(read_text(file), name)
    return Manifest(found)


def answers(manifest: Manifest, asked: Sequence[Question], needs: Needs) -> Iterator[Result]:
    """Ask questions, causes before what follows from them."""
    failures: set[str] = set()
    for each in asked:
        start = perf_counter()
        cause = next((name for name in each.check.after if name in failures), "")
        finding = skipped(f"not asked: see {cause}") if cause else _ask(each, manifest, needs)
        if finding.verdict is Verdict.FAIL:
            failures.add(each.check.id)
        yield Result(each.check, finding, perf_counter() - start)


def _ask(each: Question, manifest: Manifest, needs: Needs) -> Finding:
    """Ask one; a question that breaks does not break the doctor."""
    try:
        return each.ask(manifest, needs)
    except Exception as error:
        return skipped(f"this check is broken, please report it: {type(error).__name__}: {error}")
