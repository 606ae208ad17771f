"""The manifest of a generation: what was saved, sealed by a checksum of itself."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rdmatrain.errors import RdmatrainError
from rdmatrain.train.files import whole_file

MANIFEST = "manifest.json"
SCHEMA = 2


class DamageError(RdmatrainError):
    """A file of a generation is not what was saved. The text names file and reason."""


@dataclass(frozen=True)
class Shard:
    """What a rank saved.

    Attributes:
        rank: the rank, which names the file.
        size: bytes of the file.
        sha256: of the file, in hexadecimal digits.

    """

    rank: int
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name, within the folder of its generation."""
        return f"rank-{self.rank:05}.pt"


@dataclass(frozen=True)
class Manifest:
    """What a generation consists of.

    Attributes:
        generation: its number, so that folders that were renamed are noticed.
        step: the training step after which it was saved.
        world_size: how many ranks saved it.
        replicated: all ranks had the same state, and rank 0 alone wrote it.
        shards: what was written, by rank.
        torch_version: of the torch that wrote it.
        metadata: what the user added.
        layout: of a state that is divided among ranks, where its parts are; None of others.
        sha256: of the manifest itself; empty until it was written and read.

    """

    generation: int
    step: int
    world_size: int
    replicated: bool
    shards: tuple[Shard, ...]
    torch_version: str
    metadata: dict[str, Any]
    layout: dict[str, Any] | None = None
    sha256: str = ""

    def write(self, folder: Path) -> None:
        """Write it into the folder of its generation, which exists from then on."""
        with whole_file(folder / MANIFEST) as file:
            file.write(_sealed({"schema": SCHEMA, **asdict(self)}))


def read_manifest(folder: Path, generation: int) -> Manifest:
    """Return the manifest in a folder.

    Raises:
        DamageError: it is not, byte by byte, what some save of this generation wrote.
        OSError: it cannot be read.

    """
    path = folder / MANIFEST
    raw = path.read_bytes()
    try:
        fields = json.loads(raw)
        intact = isinstance(fields, dict) and _sealed(fields) == raw
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise DamageError(f"{path}: its checksum does not match")
    schema = fields.pop("schema", None)
    if schema != SCHEMA:
        raise DamageError(f"{path}: schema {schema}, known is {SCHEMA}")
    try:
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        manifest = Manifest(shards=shards, **fields)
    except (KeyError, TypeError) as error:
        raise DamageError(f"{path}: not what schema {SCHEMA} has: {error}") from error
    if manifest.generation != generation:
        raise DamageError(f"{path}: belongs to generation {manifest.generation}")
    return manifest


def _sealed(fields: dict[str, Any]) -> bytes:
    """Return the JSON of the fields, with its own checksum, for which ``sha256`` is left empty.

    Keys that are numbers become text in JSON, and sort otherwise then; so it is made twice.
    """
    plain = json.loads(json.dumps({**fields, "sha256": ""}))
    text = json.dumps(plain, indent=1, sort_keys=True)
    plain["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n"
