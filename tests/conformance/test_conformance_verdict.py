from conformance_verdict import CLOSED, Outcome, complaints, left_for_next_name, summary, unproven

CLOSED_TEST = next(iter(CLOSED))
GOOD = [Outcome("test_a", "passed"), Outcome(CLOSED_TEST, "failed", "'custom' != 'rdmatrain'")]


def test_a_closed_test_that_fails_is_no_complaint_and_is_left_for_the_next_name():
    assert complaints({"rdmatrain": GOOD}, {}) == []
    assert left_for_next_name(GOOD) == {CLOSED_TEST}


def test_a_closed_test_that_starts_to_pass_is_a_complaint():
    (complaint,) = complaints({"rdmatrain": [Outcome(CLOSED_TEST, "passed")]}, {})
    assert f"{CLOSED_TEST} passed" in complaint


def test_a_closed_test_that_fails_under_another_name_is_a_complaint():
    runs = {"rdmatrain": GOOD, "mpi": [Outcome(CLOSED_TEST, "failed", "why")]}
    (complaint,) = complaints(runs, {})
    assert f"{CLOSED_TEST} failed as mpi:\nwhy" in complaint


def test_every_other_failure_is_a_complaint():
    (complaint,) = complaints({"rdmatrain": [*GOOD, Outcome("test_b", "failed", "why")]}, {})
    assert complaint == "test_b failed as rdmatrain:\nwhy"


def test_a_skip_needs_hardware_ranks_or_torch():
    reasons = [
        "CUDA is not available.",
        "Need at least 2 CUDA devices",
        "Skipped due to small world size.",
        "Skipped due to odd world size.",
        "Test requires an exact world size of 4",
        "Only Nccl supports CUDA gather",
        "NCCL Batch Send Recv Only",
        "Test requires backend gloo to be one of {'nccl'}",
        "https://github.com/pytorch/pytorch/issues/77317",
    ]
    skips = [Outcome(f"test_{i}", "skipped", reason) for i, reason in enumerate(reasons)]
    assert left_for_next_name(skips) == set()
    assert complaints({"rdmatrain": skips}, {}) == []


def test_a_test_that_no_name_lets_run_is_a_complaint():
    reasons = [
        "Only MPI supports all_to_all",
        "get_future is only supported on mpi, nccl and gloo",
        "The rdmatrain backend does not support DDP communication hook on CUDA devices",
        "Skipped because distributed backend is not available.",
        "no torchvision",
    ]
    skips = [Outcome(f"test_{i}", "skipped", reason) for i, reason in enumerate(reasons)]
    assert left_for_next_name(skips) == {outcome.test for outcome in skips}
    found = complaints({"rdmatrain": skips, "mpi": skips, "gloo": skips}, {})
    assert len(found) == len(reasons)
    assert found[0] == "test_0 never ran: Only MPI supports all_to_all"


def test_fewer_passed_tests_than_recorded_are_a_complaint():
    (complaint,) = complaints({"rdmatrain": GOOD}, {"rdmatrain": 2})
    assert complaint == "as rdmatrain: 1 tests passed, at least 2 must"


def test_a_listed_test_that_passed_under_no_name_is_a_complaint():
    skipped = [Outcome("test_b", "skipped", "CUDA is not available.")]
    runs = {"rdmatrain": [*GOOD, *skipped], "mpi": [Outcome(CLOSED_TEST, "passed")]}
    assert unproven(runs, ["test_a", CLOSED_TEST]) == []
    found = unproven(runs, ["test_a", "test_b", "test_misspelt"])
    assert found == [f"{name} has passed under no name" for name in ("test_b", "test_misspelt")]


def test_a_summary_counts_every_outcome():
    outcomes = [
        *GOOD,
        Outcome("test_b", "failed", "why"),
        Outcome("test_c", "skipped", "CUDA is not available."),
        Outcome("test_d", "skipped", "Only MPI supports all_to_all"),
    ]
    assert summary(outcomes) == (
        "1 passed, 1 closed to plugins, 1 failed, 1 need a GPU, 1 need another name"
    )
