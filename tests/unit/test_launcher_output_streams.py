# SPDX-License-Identifier: Apache-2.0
"""``--redirects`` and ``--tee`` mean what they mean to torchrun."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.errors import SettingError
from rdmatrain.launcher.output import Streams, streams_of

NONE, OUT, ERR, ALL = Streams.NONE, Streams.OUT, Streams.ERR, Streams.ALL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [NONE, NONE, NONE]),
        ("1", [OUT, OUT, OUT]),
        ("2", [ERR, ERR, ERR]),
        ("3", [ALL, ALL, ALL]),
        ("1:3", [NONE, ALL, NONE]),
        ("0:1,2:2", [OUT, NONE, ERR]),
        ("0:1,0:2", [ERR, NONE, NONE]),
        ("7:3", [NONE, NONE, NONE]),
        ("2:1,12:3", [NONE, NONE, OUT]),
    ],
)
def test_streams_by_local_rank(text: str, expected: list[Streams]) -> None:
    assert streams_of(text, 3, "--tee") == expected


@pytest.mark.parametrize("text", ["", "4", "-1", "out", "0:4", "0:1,", ",0:1", "0:1;1:1", "0:1,2"])
def test_garbage_is_refused_by_the_options_name(text: str) -> None:
    with pytest.raises(SettingError, match=r"--redirects .* is not understood: .*0:3,1:1"):
        streams_of(text, 2, "--redirects")


@given(st.text(alphabet="0123456789:,- ٣", max_size=8), st.integers(1, 9))
def test_any_text_gives_streams_or_a_setting_error(text: str, nproc: int) -> None:
    try:
        streams = streams_of(text, nproc, "--tee")
    except SettingError:
        return
    assert len(streams) == nproc


@given(st.integers(1, 9), st.dictionaries(st.integers(0, 9), st.integers(0, 3), min_size=1))
def test_torch_reads_it_alike(nproc: int, named: dict[int, int]) -> None:
    api = pytest.importorskip("torch.distributed.elastic.multiprocessing.api")
    text = ",".join(f"{local_rank}:{number}" for local_rank, number in named.items())
    theirs = api.to_map(api.Std.from_str(text), nproc)
    assert [int(each) for each in streams_of(text, nproc, "-t")] == list(map(int, theirs.values()))
