# SPDX-License-Identifier: Apache-2.0
import pytest

from rdmatrain.bench.sizes import fitted, parse_size, size_text, sizes_between
from rdmatrain.errors import SettingError


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("8", 8),
        ("1k", 1024),
        ("512K", 512 * 1024),
        ("512KiB", 512 * 1024),
        ("512kb", 512 * 1024),
        ("64M", 64 * 1024**2),
        ("1.5G", 3 * 512 * 1024**2),
        ("2T", 2 * 1024**4),
        (" 8 B", 8),
    ],
)
def test_a_size_has_a_unit_that_is_a_power_of_two(text: str, nbytes: int) -> None:
    assert parse_size(text, "-b") == nbytes


@pytest.mark.parametrize("text", ["", "x", "-8", "0", "0.2", "8Q", "K", "1e3", "٣", "9" * 400])
def test_what_is_no_size_is_named_with_its_option(text: str) -> None:
    with pytest.raises(SettingError, match=r"-e .*: not a size"):
        parse_size(text, "-e")


@pytest.mark.parametrize("text", ["1 KiB", "1.5 GiB", "100 MiB", "2 TiB"])
def test_a_size_for_people_reads_back(text: str) -> None:
    assert size_text(parse_size(text, "-b")) == text


def test_sizes_grow_by_a_factor_or_by_a_step_up_to_the_last() -> None:
    assert sizes_between(8, 64, 2, 0) == [8, 16, 32, 64]
    assert sizes_between(8, 80, 3, 0) == [8, 24, 72]
    assert sizes_between(8, 30, 2, 10) == [8, 18, 28]
    assert sizes_between(8, 8, 2, 0) == [8]


def test_wrong_ranges_are_refused() -> None:
    with pytest.raises(SettingError, match="-b 16 B is more than -e 8 B"):
        sizes_between(16, 8, 2, 0)
    for factor in (1, 0, -2):
        with pytest.raises(SettingError, match=f"-f {factor}"):
            sizes_between(8, 16, factor, 0)
    with pytest.raises(SettingError, match="larger step"):
        sizes_between(8, 1 << 40, 2, 1)


def test_sizes_are_cut_to_whole_parts_and_are_never_none_of_them() -> None:
    assert fitted([4, 8, 12, 16, 100], 12) == [12, 96]
    assert fitted([8, 16], 4) == [8, 16]
