# SPDX-License-Identifier: Apache-2.0
"""What does not fit into memory is refused before anything starts."""

from typing import Any

import pytest

from rdmatrain.bench import contestants
from rdmatrain.bench.contestants import find
from rdmatrain.bench.footprint import RANK_BYTES, check_memory
from rdmatrain.bench.options import SweepOptions
from rdmatrain.errors import SettingError

GIB = 1 << 30


def checked(*operations: str, available: int, on_host: int = 2, **given: Any) -> None:
    options = SweepOptions(operations or ("all_reduce",), **given)
    starts, _ = find(options.peers, options.transports)
    check_memory(options, starts, available, on_host)


def refused(*operations: str, **given: Any) -> str:
    with pytest.raises(SettingError) as error:
        checked(*operations, **given)
    return str(error.value)


def test_sizes_over_memory_say_what_is_needed_and_what_there_is() -> None:
    needed = 2 * 2 * (2 * GIB + RANK_BYTES)  # contestants, ranks, tensors
    given = {"max_bytes": "1G", "vs": "gloo"}
    checked(available=needed, **given)
    text = refused(available=needed - 1, **given)
    assert "-e: all_reduce of 1073741824 bytes of float32 needs 8.59 GiB of memory" in text
    assert "2 ranks of 2 contestants together; 8.59 GiB is available" in text
    # Of 64 ranks two are on this host.
    checked(available=needed, on_host=2, ranks=64, **given)
    assert "64 ranks" in refused(available=needed, on_host=64, ranks=64, **given)


def test_processes_count_without_tensors() -> None:
    given = {"ranks": 1024, "on_host": 1024, "max_bytes": "8", "vs": "gloo"}
    text = refused(available=GIB, **given)
    assert "--ranks 1024: 1024 ranks of 2 contestants together need 300 GiB of memory" in text
    assert "without tensors; 1 GiB is available: give fewer ranks" in text
    checked(available=301 * GIB, **given)


def test_what_does_not_start_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "missing", lambda name: f"{name} is not installed")
    alone = 2 * (8 * GIB + RANK_BYTES)
    given = {"min_bytes": "4G", "max_bytes": "4G", "available": alone}
    checked(vs="nccl,perftest,intelmpi", **given)
    # Nor do rdmatrain's ranks without torch, which have no all_reduce.
    assert "1 contestant together" in refused(**given | {"available": alone - 1})


def test_ceilings_count_as_what_they_are() -> None:
    given = {"min_bytes": "1G", "max_bytes": "1G"}
    ours, limit, fake = 2 * (2 * GIB + RANK_BYTES), 2 * GIB, 2 * GIB + RANK_BYTES
    checked(vs="limit,fake", available=ours + limit + fake, **given)
    refused(vs="limit,fake", available=ours + limit + fake - 1, **given)
