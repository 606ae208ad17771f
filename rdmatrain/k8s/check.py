"""``rdmatrain k8s check``: the rules for anybody's manifests, and what to patch."""

import json as json_text
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from rdmatrain.doctor.manifest.command import answers, questions, read_objects
from rdmatrain.doctor.manifest.define import Patch, Question, gravity
from rdmatrain.doctor.manifest.nodes import as_json, documents
from rdmatrain.doctor.manifest.workloads import Manifest
from rdmatrain.doctor.model import Needs, Result, Verdict
from rdmatrain.doctor.report import About, Style, as_lines, document, exit_code
from rdmatrain.errors import SettingError
from rdmatrain.k8s.patch import added, apply, operations, root_of, to_yaml
from rdmatrain.k8s.rules import rules
from rdmatrain.k8s.rules.references import NAME, missing
from rdmatrain.topo.inputs import STDIN

# A patch may bring to light what another check says; more rounds than this are a circle.
MAX_ROUNDS = 12
# What is never rendered is a fault here, though such a pod may well train: the doctor warns of it.
NEVER = frozenset(["privileged", "device-granted"])


@dataclass(frozen=True)
class Patched:
    """Manifests after their patches.

    Attributes:
        text: a YAML stream of all documents.
        results: of the checks, asked again of that.
        changes: what was done.
        needed: objects that are to be there, and none of the files has, as ``Secret train``.
        invented: those of them that no manifest named before.

    """

    text: str
    results: list[Result]
    changes: tuple[Patch, ...]
    needed: tuple[str, ...]
    invented: frozenset[str]


@cache
def all_questions() -> tuple[Question, ...]:
    """Return what is asked: the doctor's questions to a manifest, then the renderer's rules."""
    return (*questions(), *rules())


def run_check(
    files: Sequence[str],
    print_: Callable[[str], None],
    *,
    json: bool = False,
    patch: bool = False,
    output: str = "",
) -> int:
    """Check manifests; return the exit code of the first FAIL, or 0.

    Args:
        files: names; ``-`` is standard input.
        print_: where to write it: a text without its last line's end.
        json: as JSON, by the doctor's schema.
        patch: write the manifests with all patches that a program can make; the exit code is that
            of those.
        output: where to write them, instead of ``print_``.

    Raises:
        SettingError: a file cannot be read or written, is no YAML, or no object is in them; options
            contradict each other.

    """
    if json and patch:
        raise SettingError("--json and --patch are two outputs: leave out one")
    if output and not patch:
        raise SettingError(f"--output {output} is where --patch writes: give both")
    start = perf_counter()
    manifest = _read(files)
    results = list(check(manifest))
    if patch:
        return _write_patched(manifest, results, output, print_)
    subject = " and ".join(each if each != STDIN else "standard input" for each in files)
    about = About(subject, host="", seconds=perf_counter() - start)
    print_(_as_json(results, about) if json else _as_text(results, about))
    return exit_code(results)


def _read(files: Sequence[str]) -> Manifest:
    """Read manifests, be there a pod in them or only objects of the cluster."""
    manifest = read_objects(files)
    if not any(each.get("kind").text for each in manifest.documents):
        raise SettingError(f"there is no object in {' and '.join(files)}: nothing has a kind")
    return manifest


def check(manifest: Manifest) -> Iterator[Result]:
    """Ask everything of a manifest."""
    others = {id(pod.document) for pod in manifest.pods if not pod.trains}
    for each in answers(manifest, all_questions(), Needs()):
        never = each.check.id in NEVER and each.verdict is Verdict.WARN
        verdict = Verdict.FAIL if never else each.verdict
        fixes = tuple(_fix(fix, others) for fix in each.finding.fixes)
        yield replace(each, finding=replace(each.finding, verdict=verdict, fixes=fixes))


def _fix(fix: str, others: set[int]) -> str:
    """Return a fix; of what is no training job, only what people read of it."""
    return str(fix) if isinstance(fix, Patch) and id(root_of(fix.node)) in others else fix


def patched(manifest: Manifest, results: Sequence[Result] | None = None) -> Patched:
    """Make all changes that a program can make, until nothing more is to be changed.

    Args:
        manifest: whose documents are changed.
        results: of its checks; None to ask them first.

    """
    results = list(check(manifest)) if results is None else list(results)
    known = missing(manifest)
    changes: list[Patch] = []
    seen = {to_yaml(manifest.documents)}
    for _ in range(MAX_ROUNDS):
        done = _change(manifest, results)
        changes += done
        if not done:
            break
        text = to_yaml(manifest.documents)
        manifest = Manifest(list(documents(text, "patched")))
        results = list(check(manifest))
        if text in seen:
            break
        seen.add(text)
    needed = missing(manifest)
    text = to_yaml(manifest.documents)
    return Patched(
        text, results, tuple(changes), tuple(needed), frozenset(needed).difference(known)
    )


def patches(result: Result) -> list[Patch]:
    """Return the changes of a result that a program can make."""
    if not gravity(result.finding):
        return []
    return [each for each in result.finding.fixes if isinstance(each, Patch) and each.change]


def _change(manifest: Manifest, results: Sequence[Result]) -> list[Patch]:
    """Make the changes of all results; return those that changed something."""
    done: list[Patch] = []
    for each in (patch for result in results for patch in patches(result)):
        if each in done and each.whole:
            continue
        whole = added(each)
        if whole is not None:
            place = manifest.documents.index(root_of(each.node)) + 1
            manifest.documents.insert(place, whole)
            done.append(each)
            continue
        steps = operations(each)
        apply(root_of(each.node), steps)
        done += [each] * bool(steps)
    return done


def _write_patched(
    manifest: Manifest, results: Sequence[Result], output: str, print_: Callable[[str], None]
) -> int:
    after = patched(manifest, results)
    text = _headed(after, output or "patched")
    if output:
        try:
            Path(output).write_text(text, "utf-8")
        except OSError as error:
            why = error.strerror or "it failed"
            raise SettingError(f"--output {output} cannot be written: {why}") from None
    else:
        print_(text.removesuffix("\n"))
    return exit_code(after.results)


def _headed(after: Patched, name: str) -> str:
    """Return a file whose head tells of its lines, which are as many lower as the head has."""
    height = 0
    while True:
        head = list(_head(after))
        text = "\n".join([*(f"# {line}" for line in head), after.text])
        # A number that got longer may break a line of the head, and so makes it higher at most.
        if len(head) == height:
            return text
        height = len(head)
        after = replace(after, results=list(check(Manifest(list(documents(text, name))))))


def _head(after: Patched) -> Iterator[str]:
    """Say what people have to look at before they use what was patched."""
    yield f"rdmatrain k8s check --patch: {len(after.changes)} changes"
    for each in after.needed:
        yield f"to be there: {each}" + ", which a patch names" * (each in after.invented)
    guesses = (each for each in after.changes if each.guess)
    yield from dict.fromkeys(f"guessed: {each.node.origin.label}: {each.guess}" for each in guesses)
    left = [each for each in after.results if each.check.id != NAME or _fails(each)]
    yield from (f"left: {line}" for line in as_lines(left).splitlines())


def _fails(result: Result) -> bool:
    return result.verdict is Verdict.FAIL


def _as_text(results: Sequence[Result], about: About) -> str:
    """Return what is wrong, each with its patch, and a line of numbers."""
    counts = ", ".join(
        f"{sum(each.verdict is verdict for each in results)} {verdict.value}"
        for verdict in reversed(Verdict)
    )
    number = sum(len(patches(each)) for each in results)
    lines = [as_lines(results, Style())] if any(gravity(r.finding) for r in results) else []
    lines.append(f"{len(results)} checks of {about.subject} in {about.seconds:.2g} s: {counts}")
    if number:
        lines.append(f"{number} of the fixes are patches that --patch makes")
    return "\n".join(lines)


def _as_json(results: Sequence[Result], about: About) -> str:
    made = document(results, "manifest", about)
    for entry, result in zip(made["checks"], results, strict=True):
        entry["patch"] = [_as_object(each) for each in patches(result)]
    return json_text.dumps(made, indent=1)


def _as_object(patch: Patch) -> dict[str, Any]:
    """Return a patch as JSON: of which document, and a JSON patch or the object to add."""
    root = root_of(patch.node)
    whole = added(patch)
    made: dict[str, Any] = {"file": root.origin.file, "object": root.origin.label}
    if patch.guess:
        made["guess"] = patch.guess
    if whole is not None:
        return {**made, "add": as_json(whole), "operations": []}
    return {**made, "operations": [each.document() for each in operations(patch)]}
