"""Which streams of which workers: the grammar of torchrun's ``--redirects`` and ``--tee``."""

import enum
import re

from rdmatrain.errors import SettingError

_FOR_ALL = re.compile(r"[0-3]")
_BY_LOCAL_RANK = re.compile(r"[0-9]+:[0-3](,[0-9]+:[0-3])*")


class Streams(enum.IntFlag):
    """Streams of a worker; the numbers are torchrun's."""

    NONE = 0
    OUT = 1
    ERR = 2
    ALL = 3


def streams_of(text: str, nproc: int, option: str) -> list[Streams]:
    """Return the streams that an option names, by local rank.

    Local ranks from ``nproc`` on are let pass, as torchrun does: one text may serve nodes of
    different sizes.

    Args:
        text: ``0`` none, ``1`` stdout, ``2`` stderr, ``3`` both, for all workers; or by local rank,
            ``0:3,1:1``, none for those that are not named.
        nproc: workers of the node.
        option: what the user calls the option, for errors.

    Raises:
        SettingError: the text is neither; names the option and the text.

    """
    text = text.strip()
    if _FOR_ALL.fullmatch(text):
        return [Streams(int(text))] * nproc
    if not _BY_LOCAL_RANK.fullmatch(text):
        raise SettingError(
            f"{option} {text!r} is not understood: give 0 for no stream, 1 for stdout, 2 for "
            "stderr, 3 for both, or that by local rank, as in 0:3,1:1"
        )
    named = dict(pair.split(":") for pair in text.split(","))
    by_local_rank = {int(local_rank): Streams(int(number)) for local_rank, number in named.items()}
    return [by_local_rank.get(local_rank, Streams.NONE) for local_rank in range(nproc)]
