"""``rdmatrain k8s``: its options. What they need is imported by who is asked for it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from rdmatrain.errors import SettingError


class WrongSpec(click.ClickException):
    """What is wrong with options or a spec: each a line on stderr."""

    def __init__(self, lines: tuple[str, ...], exit_code: int) -> None:
        super().__init__("\n".join(lines))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it of the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        from rdmatrain.topo.terminal import printable  # noqa: PLC0415 - only errors need it

        for line in self.message.split("\n"):
            click.echo(f"Error: {printable(line)}", file=file or sys.stderr)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except SettingError as error:
        lines = getattr(error, "problems", (str(error).replace("\n", " "),))
        raise WrongSpec(lines, getattr(error, "exit_code", 2)) from error


def _write(text: str) -> None:
    """Print what a terminal of any encoding can show; a text has its last line's end."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=False)
    except BrokenPipeError:
        raise  # click ends quietly: the reader has seen enough
    except OSError as error:
        raise click.ClickException(f"cannot write to standard output: {error}") from error


def _print(text: str) -> None:
    _write(f"{text}\n")


def _tell(text: str) -> None:
    click.echo(text, err=True)


def _not_empty(_context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuse what a shell's unset variable leaves, which would be taken for no option at all."""
    if "" in (value if isinstance(value, tuple) else (value,)):
        raise WrongSpec((f"{option.opts[0]} is empty: give a value, or leave it out",), 2)
    return value


_RENDER_OPTIONS = [
    click.argument("spec", metavar="SPEC"),
    click.option(
        "--for", "target", required=True, metavar="T",
        help="What runs the job; rdmatrain k8s targets lists them.",
    ),
    click.option(
        "--kubernetes", metavar="V", callback=_not_empty,
        help="Version of the cluster, as 1.34. Default: the newest that is known.",
    ),
    click.option(
        "--version", "versions", multiple=True, metavar="A=V", callback=_not_empty,
        help="Version of an add-on, as volcano=1.15. May be repeated.",
    ),
    click.option(
        "--with-cluster", is_flag=True,
        help="Also what an administrator applies once: networks, node policies, queues.",
    ),
]  # fmt: skip


def _render_options(command: Any) -> Any:
    for each in reversed(_RENDER_OPTIONS):
        command = each(command)
    return command


def _options(given: dict[str, Any], output: str = "") -> Any:
    from rdmatrain.k8s.command import RenderOptions  # noqa: PLC0415 - --help stays fast

    return RenderOptions(**{**given, "kubernetes": given["kubernetes"] or ""}, output=output)


@click.group("k8s")
def group() -> None:
    """Write manifests for every scheduler, and check anybody's.

    SPEC is a YAML file that describes a job; - is standard input.
    """


@group.command(epilog="Exit code: 2 for wrong options, 64 for a spec that cannot be rendered.")
@_render_options
@click.option(
    "-o", "--output", metavar="DIR", callback=_not_empty,
    help="Write a file for each object into this folder, instead of one stream.",
)  # fmt: skip
def render(output: str | None, **given: Any) -> None:
    """Write all objects of a job, in the order to apply them in.

    rdmatrain k8s render job.yaml --for volcano | kubectl apply -f -
    """
    from rdmatrain.k8s.command import run_render  # noqa: PLC0415 - --help stays fast

    with _refused():
        run_render(_options(given, output or ""), _write, _tell)


@group.command(epilog="Exit code: 2 for wrong options, 64 for a spec that cannot be rendered.")
@_render_options
@click.argument("fields", nargs=-1, metavar="[FIELD]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
def explain(fields: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Say what each field of a spec became, and why.

    FIELD is one of the spec, as network.vfs, or a section, as network. Default: all of them.
    """
    from rdmatrain.k8s.command import run_explain  # noqa: PLC0415 - --help stays fast

    with _refused():
        run_explain(_options(given), fields, _write, as_json=as_json)


@group.command(epilog="Exit code: 0 if nothing fails, or else that which a job would have.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else.")
@click.option("--patch", is_flag=True, help="Write the objects as they should be.")
@click.option(
    "-o", "--output", default=None, metavar="FILE", callback=_not_empty,
    help="Where --patch writes. Default: standard output.",
)  # fmt: skip
@click.pass_context
def check(ctx: click.Context, /, files: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Look at anybody's manifests by the same rules, and say what to patch.

    FILE is a file of YAML or JSON; - is standard input.
    """
    from rdmatrain.k8s.check import run_check  # noqa: PLC0415 - --help stays fast

    with _refused():
        output = given["output"] or ""
        code = run_check(files, _print, json=as_json, patch=given["patch"], output=output)
    ctx.exit(code)


@group.command()
def targets() -> None:
    """List what --for may be."""
    from rdmatrain.k8s.command import list_targets  # noqa: PLC0415 - --help stays fast

    list_targets(_write)
