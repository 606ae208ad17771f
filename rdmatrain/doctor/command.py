"""What ``rdmatrain doctor`` does: from options to a text and an exit code."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TextIO

from rdmatrain.config import REQUIRABLE
from rdmatrain.doctor.catalog import checks, every, named
from rdmatrain.doctor.model import Needs, Result
from rdmatrain.errors import SettingError
from rdmatrain.launcher.values import endpoint
from rdmatrain.topo.terminal import printable

# Everything else is imported by whoever needs it: to list and to explain is to answer at once.
if TYPE_CHECKING:
    from rdmatrain.doctor.gang.command import GangOptions
    from rdmatrain.doctor.model import Case, Check
    from rdmatrain.doctor.report import About, Style

STDOUT = "-"
# The doctor only asks whether a pod will train, and one with all rights of its node may well.
_MORE_OF_MANIFESTS = (
    "rdmatrain k8s check FILE asks more, makes patches, and FAILs pods that may train, but with "
    "all rights or devices of their node, or in its network without a reason"
)


# Fields of which one of the first excludes one of the second, or needs it.
_EXCLUDED = (
    (
        "manifests",
        "snapshot dump",
        "-f looks at manifests, and runs nothing: leave out -F and --dump",
    ),
    ("gang", "snapshot manifests", "--gang looks at pods that run: leave out -F and -f"),
    ("markdown", "json", "--markdown and --json are two forms: leave out one"),
    ("quiet", "verbose", "--quiet and --verbose contradict each other: leave out one"),
)
_NEEDED = (
    ("plot", "gang", "--plot draws the bandwidths of --gang: give both"),
    ("redact", "dump", "--redact is about what --dump saves: give both"),
    ("markdown", "list", "--markdown is a form of --list: give both"),
)


@dataclass(frozen=True)
class DoctorOptions:
    """Options of ``rdmatrain doctor``.

    Attributes:
        snapshot: a saved machine to look at instead of this one; empty for this one.
        manifests: files of Kubernetes to look at instead; none for a machine.
        gang: look at all pods of the job, which run the same command.
        gang_timeout: longest wait for them, in seconds.
        plot: where to draw how fast they send to each other; empty for nowhere.
        json: as JSON.
        quiet: only what is wrong, and nothing if nothing is.
        verbose: a line for every check.
        list: only list the checks.
        markdown: as the page of Markdown that is in this folder.
        explain: id of a check to explain; empty to examine.
        only: ids of the checks to ask, with ``gang`` of those too; empty for all.
        skip: ids of those not to ask.
        dump: where to save what was seen; empty for nowhere.
        redact: without names and secrets.
        needs: what the job needs.

    """

    snapshot: str = ""
    manifests: tuple[str, ...] = ()
    gang: bool = False
    gang_timeout: float = 60.0
    plot: str = ""
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    list: bool = False
    markdown: bool = False
    explain: str = ""
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    dump: str = ""
    redact: bool = False
    needs: Needs = field(default_factory=Needs)


def run_doctor(
    options: DoctorOptions, write: Callable[[str], None], stream: TextIO | None = None
) -> int:
    """Examine this pod or a saved one; return the exit code.

    Args:
        options: what the user wants.
        write: where to write it: a text without its last line's end.
        stream: that texts end up in, which may show colours; None for plain text.

    Raises:
        SettingError: an option is wrong, or a file cannot be read or written.

    """
    _check(options)
    if options.list:
        write(_listing(options))
        return 0
    if options.explain:
        from rdmatrain.doctor.report import explanation  # noqa: PLC0415

        write(explanation(*named((options.explain,))))
        return 0
    if options.manifests:
        return _examine_manifests(options, write, stream)
    return _examine(options, write, stream)


def _check(options: DoctorOptions) -> None:
    """Refuse options that do not go together: the first of them that is found."""
    for these, those, text in _EXCLUDED:
        if _are_given(options, these) and _are_given(options, those):
            raise SettingError(text)
    for this, needed, text in _NEEDED:
        if _are_given(options, this) and not _are_given(options, needed):
            raise SettingError(text)
    if options.dump == STDOUT and _are_given(options, "gang json"):
        other = "--gang" if options.gang else "--json"
        raise SettingError(f"--dump and {other} cannot go to standard output together")
    _check_needs(options.needs)
    _check_kind(options.plot)


def _check_kind(plot: str) -> None:
    """Refuse a name that is of no drawing, on all pods."""
    if plot:
        from rdmatrain.doctor.heatmap import kind_of  # noqa: PLC0415

        kind_of(Path(plot))


def _check_plot(plot: str, case: "Case") -> None:
    """Refuse what cannot be drawn before all pods meet, if this one is rank 0, which draws it."""
    from rdmatrain.doctor.heatmap import require_drawable  # noqa: PLC0415
    from rdmatrain.doctor.meeting import meeting  # noqa: PLC0415

    try:
        require_drawable(Path(plot))
    except SettingError as error:
        if meeting(case.found.pod, case.found.identity, case.needs).node_rank == 0:
            raise
        text = f"--plot: {error}; this does not matter unless this pod is rank 0, which draws"
        print(printable(text), file=sys.stderr)  # noqa: T201


def _are_given(options: DoctorOptions, names: str) -> bool:
    """Tell whether any of these is given."""
    return any(getattr(options, name) for name in names.split())


def _check_needs(needs: Needs) -> None:
    if needs.transport not in {"", *REQUIRABLE}:
        raise SettingError(
            f"--transport {needs.transport} is not allowed: give one of "
            f"{', '.join(REQUIRABLE)}, or leave it out for the best"
        )
    try:
        host, port = endpoint(needs.leader or "node-0:29500")
    except ValueError as error:
        raise SettingError(f"--leader {needs.leader} is not allowed: give {error}") from None
    if not (host and port):
        raise SettingError(
            f"--leader {needs.leader} is not allowed: give HOST:PORT, as in node-0:29500"
        )


def _listing(options: DoctorOptions) -> str:
    from rdmatrain.doctor import document  # noqa: PLC0415

    if not (options.markdown or options.json or options.only or options.skip):
        with suppress(OSError):
            return document.listing_of_page()
    chosen = choose(options.only, options.skip, every())
    if options.markdown:
        return document.page(chosen)
    return document.listing_json(chosen) if options.json else document.listing(chosen)


def choose(only: Sequence[str], skip: Sequence[str], known: "Sequence[Check]") -> "list[Check]":
    """Return the checks to ask, in the order of causes.

    Args:
        only: ids of those to ask; none for all.
        skip: ids of those not to ask.
        known: what to choose from.

    Raises:
        SettingError: there is no such check, or none is left.

    """
    if only or skip:  # a look at all of them takes time
        named((*only, *skip))
    chosen = [each for each in known if each.id in (only or {each.id}) and each.id not in skip]
    if not chosen:
        raise SettingError("--only and --skip leave no check to ask")
    return chosen


def _examine(options: DoctorOptions, write: Callable[[str], None], stream: TextIO | None) -> int:
    from rdmatrain.doctor.examine import examine  # noqa: PLC0415
    from rdmatrain.doctor.report import exit_code  # noqa: PLC0415
    from rdmatrain.doctor.status import tell_kubernetes  # noqa: PLC0415
    from rdmatrain.doctor.subject import saved_pod, this_pod  # noqa: PLC0415

    start = perf_counter()
    of_pod, of_gang = _choose_both(options)
    needs = options.needs
    case = saved_pod(options.snapshot, needs) if options.snapshot else this_pod(needs)
    if options.plot:
        _check_plot(options.plot, case)
    results = list(examine(case, of_pod))
    if options.dump:
        _save(options, case, write)
    if options.gang:
        from rdmatrain.doctor.gang.command import run_gang  # noqa: PLC0415

        # Its ranks have the variables themselves: only what the command line says is to be told.
        case = replace(case, needs=options.needs)
        return run_gang(case, results, _gang_options(options, of_gang, stream), write)
    if not options.snapshot:
        tell_kubernetes(results)
    text = _told(options, results, _about(case, perf_counter() - start), stream)
    if text and options.dump != STDOUT:
        write(text)
    return exit_code(results)


def _choose_both(options: DoctorOptions) -> "tuple[list[Check], list[Check]]":
    """Return the checks of this pod to ask, and those of the gang."""
    gang = _gang_checks() if options.gang else ()
    chosen = choose(options.only, options.skip, (*checks(), *gang))
    return [each for each in chosen if each not in gang], [each for each in gang if each in chosen]


def _gang_options(
    options: DoctorOptions, chosen: "Sequence[Check]", stream: TextIO | None
) -> "GangOptions":
    from rdmatrain.doctor.gang.command import GangOptions  # noqa: PLC0415

    return GangOptions(
        timeout_s=options.gang_timeout,
        json=options.json,
        quiet=options.quiet,
        plot=options.plot,
        style=_style(options, stream),
        unasked=tuple(each.id for each in _gang_checks() if each not in chosen),
    )


def _gang_checks() -> "tuple[Check, ...]":
    from rdmatrain.doctor.gang.checks import CHECKS  # noqa: PLC0415

    return tuple(each.check for each in CHECKS)


def _examine_manifests(
    options: DoctorOptions, write: Callable[[str], None], stream: TextIO | None
) -> int:
    from rdmatrain.doctor.manifest.command import examine_manifest, manifest_checks  # noqa: PLC0415
    from rdmatrain.doctor.report import About, exit_code  # noqa: PLC0415

    start = perf_counter()
    chosen = choose(options.only, options.skip, manifest_checks())
    results = examine_manifest(options.manifests, options.needs, chosen)
    subject = " and ".join(
        each if each != STDOUT else "standard input" for each in options.manifests
    )
    about = About(subject, host="", seconds=perf_counter() - start, more=_MORE_OF_MANIFESTS)
    text = _told(options, results, about, stream, "manifest")
    if text:
        write(text)
    return exit_code(results)


def _about(case: "Case", seconds: float) -> "About":
    from rdmatrain.doctor.report import About  # noqa: PLC0415
    from rdmatrain.doctor.subject import about  # noqa: PLC0415

    host, versions = about(case.source)
    return About(case.found.machine.origin, host, versions, seconds)


def _told(
    options: DoctorOptions,
    results: Sequence[Result],
    about: "About",
    stream: TextIO | None,
    scope: str = "node",
) -> str:
    from rdmatrain.doctor.report import as_json, as_lines, as_text  # noqa: PLC0415

    if options.json:
        return as_json(results, scope, about)
    style = _style(options, stream)
    return as_lines(results, style) if options.quiet else as_text(results, style, about)


def _style(options: DoctorOptions, stream: TextIO | None) -> "Style":
    from rdmatrain.doctor.report import Style  # noqa: PLC0415

    return replace(Style.of(stream) if stream else Style(), verbose=options.verbose)


def _save(options: DoctorOptions, case: "Case", write: Callable[[str], None]) -> None:
    from rdmatrain.discovery.snapshot import Recorder, dump  # noqa: PLC0415
    from rdmatrain.topo.command import save  # noqa: PLC0415

    assert isinstance(case.source, Recorder)  # both ways of having a case remember
    case.source.read_background()
    save("--dump", options.dump, dump(case.source, options.redact), write)
