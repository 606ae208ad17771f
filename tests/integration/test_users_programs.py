"""Programs of other libraries train over rdmatrain when nothing but the backend's name changes."""

from typing import Any

from integration_jobs import WORKERS, run

ROUNDING = 1e-12  # float64, of numbers below 1, where only the order of additions differs


def facts_of_both_ranks(program: str) -> list[dict[str, Any]]:
    ended = run(str(WORKERS / program), "rdmatrain")
    assert ended.code == 0, ended.out
    return [ended.of(0), ended.of(1)]


def expect_trained_as_one_process(facts: dict[str, Any]) -> None:
    assert facts["steps"] == 6
    assert facts["difference"] < ROUNDING


def test_accelerate_trains_as_one_process_and_collects_from_all_ranks() -> None:
    for facts in facts_of_both_ranks("accelerate_program.py"):
        expect_trained_as_one_process(facts)
        assert facts["kind"] == "DistributedType.MULTI_CPU"
        assert facts["gathered"] == [1, 0, 2, 2]  # the row of the first rank is padded
        assert facts["objects"] == [{"rank": 0}, {"rank": 1}]
        assert facts["told"] == ["by 0"]
        assert facts["metrics"] == [8] * 6


def test_fabric_trains_as_one_process_and_collects_from_all_ranks() -> None:
    for facts in facts_of_both_ranks("fabric_program.py"):
        expect_trained_as_one_process(facts)
        assert facts["gathered"] == [[0, 7], [1, 7]]
        assert facts["told"] == "by 1"
