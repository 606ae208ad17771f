# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rdmatrain.bench.model import OPS, Case
from rdmatrain.bench.options import DTYPES, REDOPS, SweepOptions, check_options
from rdmatrain.cli import cli
from rdmatrain.errors import SettingError


def options(*operations: str, **given: Any) -> SweepOptions:
    return SweepOptions(operations or ("all_reduce",), **given)


def checked(*operations: str, **given: Any) -> None:
    check_options(options(*operations, **given))


def refused(*operations: str, **given: Any) -> str:
    with pytest.raises(SettingError) as error:
        checked(*operations, **given)
    return str(error.value)


def test_the_defaults_are_24_sizes_of_float_that_are_summed_in_place() -> None:
    checked()
    chosen = options()
    assert chosen.cases == [
        Case("all_reduce", "float32", "SUM", 8 << power, in_place=True) for power in range(24)
    ]
    assert (chosen.transports, chosen.peers) == (["auto"], [])


def test_names_of_torch_and_of_nccl_tests_mean_the_same() -> None:
    for ours, theirs in (("float16", "half"), ("bfloat16", "bf16"), ("float32", "float")):
        assert options(dtype=ours).cases == options(dtype=theirs).cases
    named = options(redop="sum,prod,min,max,avg", max_bytes="8").cases
    assert [case.redop for case in named] == ["SUM", "PRODUCT", "MIN", "MAX", "AVG"]
    assert options(dtype="float,float32").cases == options().cases


def test_all_dtypes_times_all_reductions_and_only_where_something_is_reduced() -> None:
    given = {"dtype": "all", "redop": "all", "min_bytes": "64", "max_bytes": "64"}
    assert len(options("all_reduce", **given).cases) == len(DTYPES) * len(REDOPS)
    assert len(options("broadcast", **given).cases) == len(DTYPES)
    assert {case.redop for case in options("broadcast", **given).cases} == {""}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("allreduce", "'allreduce' is no operation and no tool: did you mean all_reduce?"),
        ("all_reduce,foo", "'foo' is no operation and no tool: there are all_reduce, reduce_s"),
        ("barrier,broadcas", "'broadcas' is no operation and no tool: did you mean broadcast?"),
        ("compar", "'compar' is no operation and no tool: did you mean compare?"),
        ("al", "'al' is no operation and no tool: did you mean all?"),
    ],
)
def test_an_operation_that_is_none_is_named_with_what_was_meant(given: str, said: str) -> None:
    done = CliRunner().invoke(cli, ["bench", given])
    assert done.exit_code == 2
    assert said in done.output


def test_a_barrier_is_one_case_whatever_sizes_and_dtypes_there_are() -> None:
    (case,) = options("barrier", dtype="all").cases
    assert case.nbytes == 0


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", ["int8", "float64"])
@pytest.mark.parametrize("ranks", [2, 6])
def test_sizes_are_whole_elements_and_parts(name: str, dtype: str, ranks: int) -> None:
    op = OPS[name]
    cases = options(name, dtype=dtype, ranks=ranks, max_bytes="1000", step_bytes="7").cases
    unit = DTYPES[dtype] * (ranks if op.splits else 1)
    assert all(case.nbytes % unit == 0 for case in cases)
    assert all(case.nbytes >= unit for case in cases if op.sized)
    assert len(set(cases)) == len(cases)


def test_a_root_is_only_where_there_is_one() -> None:
    assert {case.root for case in options("broadcast", root=1).cases} == {1}
    assert {case.root for case in options("all_reduce", root=1).cases} == {-1}


def test_both_places_are_timed_where_there_are_two() -> None:
    cases = options("reduce_scatter", max_bytes="8").cases
    assert [case.in_place for case in cases] == [False, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ranks": 0}, "--ranks 0"),
        ({"ranks": -3}, "--ranks -3"),
        ({"root": 2}, "ranks 0 to 1"),
        ({"root": -1}, "-r -1"),
        ({"min_bytes": "2M", "max_bytes": "1M"}, "no size is between"),
        ({"step_factor": 1}, "-f 1"),
        ({"dtype": "flaot"}, "did you mean float?"),
        ({"dtype": "quaternion"}, "there are float32, float64"),
        ({"dtype": ","}, "-d is empty"),
        ({"redop": "summ"}, "did you mean sum?"),
        ({"transport": "tpc"}, "did you mean tcp?"),
        ({"rounds": 0}, "--rounds 0"),
        ({"iters": -1}, "--iters -1: give 0 or more"),
        ({"time_budget_s": -0.5}, "--time-budget -0.5"),
        ({"time_budget_s": float("nan")}, "--time-budget nan"),
        ({"png": "plot.svg"}, "ends in .png"),
    ],
)
def test_bad_input_is_named_with_the_remedy(given: dict[str, Any], said: str) -> None:
    assert said in refused(**given)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.pairs])
def test_pairs_need_an_even_number_of_ranks(name: str) -> None:
    assert "even number" in refused(name, ranks=3)
    checked(name, ranks=4)
    some = options("all_reduce", name, ranks=3)
    checked("all_reduce", name, ranks=3)
    assert some.without_partner == [name]
    assert {case.op for case in some.cases} == {"all_reduce"}


@pytest.mark.parametrize("option", ["json", "csv", "html", "png", "svg"])
def test_a_file_that_cannot_be_written_is_refused_before_the_sweep(
    option: str, tmp_path: Path
) -> None:
    name = f"out.{option}"
    checked(**{option: str(tmp_path / name)})
    assert "there is no folder" in refused(**{option: str(tmp_path / "absent" / name)})
    (tmp_path / name).mkdir()
    assert "that is a folder" in refused(**{option: str(tmp_path / name)})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(json=str(tmp_path / "out.jsonl"))


@pytest.mark.parametrize(
    ("given", "package"),
    [({"html": "x.html"}, "plotly"), ({"svg": "x.svg"}, "matplotlib"), ({"plot": True}, "plotext")],
)
def test_what_draws_must_be_installed_before_the_sweep(
    given: dict[str, Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdmatrain.bench.options.find_spec", lambda name: None)
    assert f"needs {package}: pip install" in refused(**given)


def test_peers_are_named_once() -> None:
    assert options(vs="gloo, MPICH,gloo,").peers == ["gloo", "mpich"]
