"""What the ranks of a group say to each other first, whether they fit, and what they then share.

Where the job has a secret, a hello proves that its rank has the same one, and the token by which
ranks know each other on the wire is made of it: who reads the store learns neither.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdmatrain.config import SECRET, SECRET_FILE, Settings
from rdmatrain.errors import BootstrapError
from rdmatrain.secret import derive

TOKEN_BYTES = 16


@dataclass(frozen=True)
class Hello:
    """What a rank says of itself before it listens anywhere."""

    rank: int
    world: int
    version: str
    host_id: str
    label: str
    transport: str
    tuning: str
    cpus: str  # that the process may run on: a mask in hexadecimal
    nonce: str = ""  # rank 0's is what the token is made of
    proof: str = ""  # that the rank has the job's secret; empty if it has none
    require: str = ""


def new_nonce() -> str:
    """Return what makes a proof good for one time only."""
    return secrets.token_hex(TOKEN_BYTES)


def proof_of(secret: bytes, rank: int, nonce: str) -> str:
    """Return what only who has the secret can say; empty without one."""
    return derive(secret, f"hello of rank {rank}, {nonce}").hex() if secret else ""


def token_of(secret: bytes, nonce: str) -> bytes:
    """Return the group's token: by it the group's ranks know each other on the wire."""
    if not secret:
        return bytes.fromhex(nonce)
    return derive(secret, f"transport token, {nonce}")[:TOKEN_BYTES]


def compare(
    mine: Mapping[str, Any], other: Mapping[str, Any], settings: Settings, secret: bytes
) -> None:
    """Compare two hellos, as dictionaries: another version of rdmatrain may say other things.

    Raises:
        BootstrapError: they do not fit; names both ranks.

    """
    for field, what in (
        ("version", "the rdmatrain version"),
        ("world", "the world size"),
        ("transport", settings.name_of("transport")),
        ("require", settings.name_of("require")),
        ("tuning", settings.name_of("tuning")),
    ):
        ours, theirs = mine[field], other.get(field)
        if ours != theirs:
            raise BootstrapError(
                f"ranks disagree about {what}: {_name(mine)} has {ours or 'none'}, "
                f"{_name(other)} has {theirs or 'none'}"
            )
    _compare_secrets(mine, other, secret)


def _compare_secrets(mine: Mapping[str, Any], other: Mapping[str, Any], secret: bytes) -> None:
    if bool(mine["proof"]) != bool(other["proof"]):
        has, lacks = (mine, other) if mine["proof"] else (other, mine)
        raise BootstrapError(
            f"{_name(has)} has the job's secret and {_name(lacks)} has none: set {SECRET_FILE} or "
            f"{SECRET} for all ranks, or for none"
        )
    expected = proof_of(secret, other["rank"], other["nonce"])
    if not hmac.compare_digest(expected, other["proof"]):
        raise BootstrapError(
            f"{_name(mine)} and {_name(other)} have different secrets: give both the same "
            f"{SECRET_FILE} or {SECRET}"
        )


def _name(hello: Mapping[str, Any]) -> str:
    return f"rank {hello['rank']} ({hello['label']})"
