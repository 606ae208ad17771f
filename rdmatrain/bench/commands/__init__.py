"""``rdmatrain bench``: one module here for each subcommand; ``sweep`` is that of the operations.

Each module has ``command``, a ``click.Command``, and is imported when it is asked for.
"""

from importlib import import_module

import click

from rdmatrain.spelling import closest

TOOLS = {
    "compare": "Tell whether one file of results is slower than another.",
    "limit": "Measure the ceilings of this machine, and what part of them is reached.",
    "peers": "Show which peers are installed, and install them.",
    "report": "Draw files of results: HTML, PNG, SVG, terminal.",
    "scale": "Show how cost grows with the number of ranks.",
    "train": "Time the steps of the demo's model.",
}
ALL = "all"


def known_operations() -> list[str]:
    """Return the names of all of them; imported late, as other commands are to start fast."""
    from rdmatrain.bench.model import OPS  # noqa: PLC0415

    return list(OPS)


def operations(text: str) -> list[str]:
    """Read what ``rdmatrain bench`` may be given: names with commas, or all; [] if it is none."""
    known = known_operations()
    names = known if text == ALL else _words(text)
    return names if set(names) <= set(known) else []


def _words(text: str) -> list[str]:
    return text.replace("-", "_").split(",")


def _unknown(text: str) -> str:
    """Say which of the operations is none, and what was meant."""
    known = [*known_operations(), ALL, *TOOLS]
    name = next((word for word in _words(text) if word not in known_operations()), text)
    meant = closest(name, known)
    hint = f"did you mean {meant}?" if meant else f"there are {', '.join(known)}"
    return f"{name!r} is no operation and no tool: {hint}"


class BenchGroup(click.Group):
    """Finds subcommands by module, and operations by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the operations, and then the tools."""
        return [*known_operations(), *TOOLS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import what is asked for; None if there is no such subcommand."""
        if operations(cmd_name):
            ctx.meta["operations"] = operations(cmd_name)
        module = "sweep" if operations(cmd_name) else cmd_name if cmd_name in TOOLS else ""
        if not module:
            return None
        command: click.Command = import_module(f"rdmatrain.bench.commands.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what was meant where there is no such subcommand."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(_unknown(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Operations"):
            formatter.write_text(", ".join([*known_operations(), ALL]))
        with formatter.section("Tools"):
            formatter.write_dl(list(TOOLS.items()))


group = BenchGroup(
    "bench",
    help="Bandwidth and latency beside Gloo, MPI and the wire.\n\n"
    "One operation, several with commas, or all: rdmatrain bench all_reduce,broadcast --help.",
)
