"""The folders of a checkpoint folder: which there are, which is next, which may go."""

import logging
import re
import shutil
from collections.abc import Set
from pathlib import Path

from rdmatrain.train.files import sync_folder
from rdmatrain.train.manifest import MANIFEST, DamageError, read_manifest

logger = logging.getLogger(__name__)


def folder_of(root: Path, number: int) -> Path:
    """Return the folder of a generation."""
    return root / f"generation-{number:010}"


def all_numbers(root: Path) -> list[int]:
    """Return the numbers of all folders, finished or not, ascending; none if there is no root."""
    if not root.exists():
        return []
    names = (re.fullmatch(r"generation-(\d{10})", path.name) for path in root.iterdir())
    return sorted(int(name[1]) for name in names if name)


def finished(root: Path) -> list[int]:
    """Return the numbers of those that were saved to the end, ascending."""
    return [number for number in all_numbers(root) if (folder_of(root, number) / MANIFEST).exists()]


def begin(root: Path) -> int:
    """Make the folder of a new generation, which never existed before; return its number.

    What saves that did not end have left is removed first: it may be what fills the disk.
    """
    if not root.exists():
        root.mkdir(parents=True)
        sync_folder(root.parent)
    numbers = all_numbers(root)
    for number in set(numbers) - set(finished(root)):
        remove(root, number)
    number = numbers[-1] + 1 if numbers else 1
    folder_of(root, number).mkdir()
    sync_folder(root)
    return number


def remove(root: Path, number: int) -> None:
    """Remove a generation, as far as that is possible; what stays is tried again by ``begin``."""
    folder = folder_of(root, number)
    try:
        # First of all: what is half removed must not look finished.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("checkpoint %s could not be removed: %s", folder, error)


def rotate(root: Path, keep: int, damaged: Set[int]) -> None:
    """Remove what is older than the newest ``keep`` that are not known to be damaged.

    A folder that cannot be read is a warning, as what was saved stays saved.
    """
    try:
        numbers = finished(root)
    except OSError as error:
        logger.warning("old checkpoints could not be removed: %s", error)
        return
    kept = 0
    for number in reversed(numbers):
        if kept >= keep:
            remove(root, number)
        elif number not in damaged and looks_whole(root, number):
            kept += 1


def looks_whole(root: Path, number: int) -> bool:
    """Whether the manifest is intact and all shards have their sizes; contents are not read."""
    folder = folder_of(root, number)
    try:
        shards = read_manifest(folder, number).shards
        return all((folder / shard.name).stat().st_size == shard.size for shard in shards)
    except (OSError, DamageError):
        return False
