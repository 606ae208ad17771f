# SPDX-License-Identifier: Apache-2.0
"""A worker's page: what is written is read, and what is torn is not."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rdmatrain.launcher.watch import page
from rdmatrain.launcher.watch.page import Beat, PageReader, pack, unpack

BEAT = Beat(
    pid=7, beat_ns=2**40, since_ns=2**39, waits_in="barrier #1 of group 0", waits_for=(1, 3)
)
NEXT = Beat(pid=7, beat_ns=2**40 + 1)

BEATS = st.builds(
    Beat,
    pid=st.integers(0, 2**32 - 1),
    beat_ns=st.integers(0, 2**64 - 1),
    since_ns=st.integers(0, 2**64 - 1),
    waits_in=st.text(max_size=20),
    waits_for=st.lists(st.integers(0, 4096), max_size=page.MAX_RANKS).map(tuple),
)


@given(BEATS)
def test_what_is_written_is_read(beat: Beat) -> None:
    assert unpack(pack(beat)) == beat


def test_what_is_too_long_is_cut_and_too_many_ranks_are_nobody_known() -> None:
    long = Beat(pid=1, beat_ns=1, waits_in="x" * 500, waits_for=tuple(range(65)))
    read = unpack(pack(long))
    assert read == Beat(pid=1, beat_ns=1, waits_in="x" * page.MAX_TEXT_BYTES)
    assert unpack(pack(Beat(pid=1, beat_ns=1, waits_in="é" * 500))) is not None


@given(st.binary(min_size=0, max_size=2 * page.SIZE))
def test_junk_is_no_beat(data: bytes) -> None:
    assert unpack(data) is None


def test_an_empty_page_is_no_beat(tmp_path: Path) -> None:
    path = tmp_path / "0.page"
    page.create(path)
    reader = PageReader(path)
    assert reader.read() is None
    reader.close()


def test_a_page_that_is_being_written_tells_what_it_told_before(tmp_path: Path) -> None:
    path = tmp_path / "0.page"
    page.create(path)
    reader = PageReader(path)
    old, new = pack(BEAT), pack(NEXT)
    different = [n for n in range(page.SIZE) if old[n] != new[n]]
    for length in (1, different[0] + 1, different[-1]):  # whatever order the bytes come in
        for torn in (new[:length] + old[length:], old[:length] + new[length:]):
            path.write_bytes(old)
            assert reader.read() == BEAT
            with path.open("r+b") as file:
                file.write(torn)
            assert reader.read() == (BEAT if torn != new else NEXT)
    with path.open("r+b") as file:
        file.write(new)
    assert reader.read() == NEXT
    reader.close()


def test_a_new_worker_does_not_inherit_the_last_words_of_another(tmp_path: Path) -> None:
    path = tmp_path / "0.page"
    for each in (path, page.error_file(path), page.stacks_file(path)):
        each.write_text("old")
    page.create(path)
    assert unpack(path.read_bytes()) is None
    assert len(path.read_bytes()) == page.SIZE
    assert list(tmp_path.iterdir()) == [path]
