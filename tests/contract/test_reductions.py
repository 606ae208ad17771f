"""The corners of the arithmetic: order, rounding, wrapping, NaN, infinities and signed zeros."""

from itertools import product

import numpy as np
import pytest
from group import MATRIX, call
from oracle import (
    COMPLEX,
    FLOATS,
    INTS,
    REDOPS,
    assert_same_bits,
    assert_same_numbers,
    bits_of,
    from_floats,
    inputs,
    narrow,
    numpy_dtype,
    reduced,
    widen,
)

from rdmatrain.errors import CommError

SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.0, 60000.0)


@pytest.fixture(params=MATRIX)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


def all_reduce(group, dtype, op, shares, **kwargs):
    """What each rank holds after an all_reduce of the given shares."""

    def body(comm, rank):
        data = shares[rank].copy()
        call(comm, "all_reduce", dtype, op, out=data, **kwargs)
        return data

    return group.run(body)


def order_sensitive(dtype: str, world: int, count: int) -> list[np.ndarray]:
    """Large numbers that cancel around small ones, turned by one place per index."""
    big = 2048.0 if dtype in ("float16", "bfloat16") else 1e8 if dtype == "float32" else 1e17
    pattern = np.array([big, -big, 1.0, 3.0, 0.25])
    index = np.arange(count)
    shares = [pattern[(rank + index) % 5] * (1 + index % 3) for rank in range(world)]
    return [from_floats(dtype, share) for share in shares]


def special_shares(dtype: str, world: int) -> list[np.ndarray]:
    """Every combination of the special values over the ranks."""
    grid = np.meshgrid(*[np.array(SPECIAL)] * world, indexing="ij")
    with np.errstate(all="ignore"):
        return [from_floats(dtype, axis.ravel()) for axis in grid]


@pytest.mark.parametrize("p", [3, 4, 5])
@pytest.mark.parametrize("n", [100, 30000])
def test_sums_are_made_in_the_order_of_the_ranks(group, p, n):
    joined = group(p)
    for dtype in FLOATS:
        shares = order_sensitive(dtype, p, n)
        want = reduced(dtype, "SUM", shares)
        if dtype in ("float32", "float64"):  # the half types have room to spare in float32
            assert np.any(want != reduced(dtype, "SUM", shares[::-1])), "the data cannot tell"
        for rank, got in enumerate(all_reduce(joined, dtype, "SUM", shares)):
            assert_same_bits(got, want, f"{dtype}, rank {rank}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", ["SUM", "AVG", "PRODUCT"])
def test_half_types_are_rounded_once_at_the_end(group, dtype, op):
    digits = 11 if dtype == "float16" else 8
    index = np.arange(4000)
    tiny = 2.0**-digits * (1 + index % 4) / 2  # below, at and above half a last place of 1
    reals = [1 + index % 3 / 4, tiny, tiny, tiny * (index % 2)]
    shares = [from_floats(dtype, real) for real in reals]
    want = reduced(dtype, op, shares)
    stepwise = shares[0]
    for share in shares[1:]:
        stepwise = reduced(dtype, "SUM", [stepwise, share])
    assert op != "SUM" or np.any(stepwise != want), "the data cannot tell"
    for rank, got in enumerate(all_reduce(group(4), dtype, op, shares)):
        assert_same_bits(got, want, f"rank {rank}")


@pytest.mark.parametrize("p", [2, 3])
def test_nan_infinity_and_zeros_follow_ieee_and_all_ranks_hold_the_same_bits(group, p):
    joined = group(p)
    for dtype, op in product(FLOATS, REDOPS):
        shares = special_shares(dtype, p)
        want = reduced(dtype, op, shares)
        got = all_reduce(joined, dtype, op, shares)
        for rank in range(p):
            assert_same_numbers(dtype, got[rank], want, f"{op} of {dtype}, rank {rank}")
            assert_same_bits(got[rank], got[0], f"{op} of {dtype}, rank {rank} and rank 0")
        if op not in ("MIN", "MAX"):  # which of 0.0 and -0.0 is the smaller is left open
            signs = np.signbit(widen(dtype, got[0])) != np.signbit(widen(dtype, want))
            wrong = signs & ~np.isnan(widen(dtype, want))
            assert not np.any(wrong), f"{op} of {dtype}: the sign of a zero"


def test_a_nan_result_is_one_nan_whatever_the_payloads_were(group):
    joined = group(2)
    for dtype in FLOATS:
        unsigned = f"u{numpy_dtype(dtype).itemsize}"
        one = bits_of(from_floats(dtype, np.full(64, np.nan)))
        sign = np.array(1, unsigned) << np.array(8 * one.itemsize - 1, unsigned)
        payloads = np.arange(64, dtype=unsigned)
        shares = [(one | payloads).view(numpy_dtype(dtype)), (one | sign).view(numpy_dtype(dtype))]
        for op in REDOPS:
            for got in all_reduce(joined, dtype, op, shares):
                assert np.unique(bits_of(got)).size == 1, f"{op} of {dtype}"


def test_one_rank_keeps_its_own_bits_nan_payloads_included(group):
    alone = group(1)
    bits = np.arange(1 << 16, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for dtype, op in product(FLOATS, REDOPS):
        unsigned = f"u{numpy_dtype(dtype).itemsize}"
        share = bits.astype(unsigned).view(numpy_dtype(dtype))
        (got,) = all_reduce(alone, dtype, op, [share])
        assert_same_bits(got, share, f"{op} of {dtype}")


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("p", [2, 3, 5])
def test_integers_wrap_and_their_average_is_cut_towards_zero(connect, p, dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    corner = np.array([low, low + 1, high, high - 1, 0, 1, 2, 7], dtype=dtype)
    shares = [np.tile(np.roll(corner, rank), 9) * np.array(1 + rank, dtype) for rank in range(p)]
    group = connect("shm", p)
    for op in REDOPS:
        want = reduced(dtype, op, shares)
        for rank, got in enumerate(all_reduce(group, dtype, op, shares)):
            assert_same_bits(got, want, f"{op}, rank {rank}")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_the_average_of_minus_seven_and_zero_is_minus_three(group, dtype):
    shares = [np.array([-7, 7, -1], dtype), np.zeros(3, dtype)]
    for got in all_reduce(group(2), dtype, "AVG", shares):
        assert got.tolist() == [-3, 3, 0]


def test_every_float16_and_bfloat16_survives_a_sum_with_zero(group):
    codes = np.arange(1 << 16, dtype=np.uint16)
    for dtype in ("float16", "bfloat16"):
        data = codes.view(numpy_dtype(dtype))
        finite = data[np.isfinite(widen(dtype, data)) & (codes & 0x7FFF != 0)]
        for got in all_reduce(group(2), dtype, "SUM", [finite, np.zeros_like(finite)]):
            assert_same_bits(got, finite, dtype)


def test_the_rounding_of_the_oracle_agrees_with_known_codes():
    cases = {1.0: 0x3F80, 1.00390625: 0x3F80, 1.01171875: 0x3F82, 3.4e38: 0x7F80, -2.0: 0xC000}
    wide = np.array(list(cases), dtype=np.float32)
    assert narrow("bfloat16", wide).tolist() == list(cases.values())


@pytest.mark.parametrize("n", [100, 30000])
def test_integers_are_combined_bit_by_bit(group, n):
    joined = group(3)
    for dtype, op in product(INTS, ("BAND", "BOR", "BXOR")):
        shares = inputs(dtype, 3, n)
        want = reduced(dtype, op, shares)
        for rank, got in enumerate(all_reduce(joined, dtype, op, shares)):
            assert_same_bits(got, want, f"{op} of {dtype}, rank {rank}")


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("n", [100, 30000])
def test_premul_sum_multiplies_every_share_before_the_sum(group, p, n):
    joined = group(p)
    for dtype in FLOATS:
        shares = inputs(dtype, p, n)
        want = reduced(dtype, "PREMUL_SUM", shares, factor=0.3)
        for rank, got in enumerate(all_reduce(joined, dtype, "PREMUL_SUM", shares, factor=0.3)):
            assert_same_bits(got, want, f"{dtype}, rank {rank}")


def test_other_factors_are_an_error_that_names_both(group):
    def body(comm, rank):
        data = np.ones(10, np.float32)
        with pytest.raises(CommError, match=r"PREMUL_SUM of (0\.5|0\.25)") as caught:
            call(comm, "all_reduce", "float32", "PREMUL_SUM", out=data, factor=(0.5, 0.25)[rank])
        return str(caught.value)

    for error in group(2).run(body):
        assert "of 0.5" in error
        assert "of 0.25" in error


@pytest.mark.parametrize("n", [100, 30000])
def test_bools_are_combined_as_truth_values(group, n):
    shares = [inputs("int32", 3, n)[rank] % (2 + rank) == 0 for rank in range(3)]
    truth = {
        **dict.fromkeys(("SUM", "MAX", "BOR"), shares[0] | shares[1] | shares[2]),
        **dict.fromkeys(("PRODUCT", "MIN", "BAND"), shares[0] & shares[1] & shares[2]),
        "BXOR": shares[0] ^ shares[1] ^ shares[2],
    }
    for op, want in truth.items():
        for rank, got in enumerate(all_reduce(group(3), "bool", op, shares)):
            assert_same_bits(got, want, f"{op}, rank {rank}")


@pytest.mark.parametrize("n", [100, 30000])
def test_complex_numbers_are_summed_by_their_parts(group, n):
    joined = group(3)
    for dtype, op in product(COMPLEX, ("SUM", "AVG")):
        real = {"complex64": "float32", "complex128": "float64"}[dtype]
        shares = inputs(dtype, 3, n)
        want = reduced(real, op, [share.view(real) for share in shares]).view(dtype)
        for rank, got in enumerate(all_reduce(joined, dtype, op, shares)):
            assert_same_bits(got, want, f"{op} of {dtype}, rank {rank}")


@pytest.mark.parametrize(
    ("dtype", "op"),
    [("float32", "BAND"), ("int32", "PREMUL_SUM"), ("bool", "AVG"), ("complex64", "MAX")],
)
def test_what_has_no_meaning_is_refused_with_both_names(group, dtype, op):
    def body(comm, _rank):
        with pytest.raises(ValueError, match=f"{op} of {dtype} has no meaning"):
            call(comm, "all_reduce", dtype, op, out=np.zeros(4, dtype))

    group(2).run(body)
