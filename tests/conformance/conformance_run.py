"""Runs PyTorch's own suite for distributed backends against rdmatrain; README.md says how."""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from conformance_verdict import (
    NAMES,
    PASSED_AT_LEAST,
    Outcome,
    complaints,
    left_for_next_name,
    summary,
    unproven,
)

# Where everything takes its time: some tests of every collective that the suite tests on CPUs.
SUBSET = Path(__file__).with_name("subset.txt")

# Imported once, before anything is forked; the suite itself depends on name and world size.
PRELOADED = (
    "torch.distributed.algorithms.ddp_comm_hooks",
    "torch.distributed.algorithms.model_averaging.hierarchical_model_averager",
    "torch.distributed.optim",
    "torch.testing._internal.common_distributed",
    "conformance_ranks",
)
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",  # else torch wants one for each rank
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "KINETO_LOG_LEVEL": "99",
    "PYTORCH_PRINT_REPRO_ON_FAILURE": "0",
    "DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": "100",  # seconds; then ranks show their stacks and die
    # Tests that fail, as they should, leave traces here instead of in the user's cache.
    "RDMATRAIN_RECORDER_DIR": str(Path(__file__).parents[2] / "build" / "test-traces"),
}


def main() -> int:
    arguments = parse_arguments()
    os.environ.update(ENVIRONMENT)
    for module in PRELOADED:
        importlib.import_module(module)
    runs: dict[str, list[Outcome]] = {}
    wanted: Callable[[str], Any] = re.compile(arguments.keyword).search
    subset = SUBSET.read_text().split() if arguments.subset else []
    if subset:
        wanted = set(subset).__contains__
    for name in ("gloo",) if arguments.control else NAMES:
        runs[name] = run_suite(name, arguments, wanted)
        wanted = left_for_next_name(runs[name]).__contains__
        over = "torch's own backend" if arguments.control else arguments.transport
        print(f"{arguments.world} ranks, {over}, as {name}: {summary(runs[name])}", flush=True)
    whole = not (arguments.keyword or arguments.subset or arguments.control)
    problems = complaints(runs, PASSED_AT_LEAST[arguments.world] if whole else {})
    problems += unproven(runs, subset)
    for problem in problems:
        print(problem, flush=True)
    return 1 if problems else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=int, default=3, choices=PASSED_AT_LEAST)
    parser.add_argument("--transport", default="shm", choices=("shm", "tcp", "verbs"))
    some = parser.add_mutually_exclusive_group()
    some.add_argument("-k", dest="keyword", default="", help="a pattern in the names of tests")
    some.add_argument("--subset", action="store_true", help=f"the tests in {SUBSET.name}")
    parser.add_argument("--control", action="store_true", help="run torch's own Gloo instead")
    parser.add_argument("--jobs", type=int, default=3, help="how many tests run side by side")
    return parser.parse_args()


def run_suite(
    name: str, arguments: argparse.Namespace, wanted: Callable[[str], Any]
) -> list[Outcome]:
    """Run the wanted tests while the backend answers to a name."""
    ranks = importlib.import_module("conformance_ranks")
    transport = "" if arguments.control else arguments.transport
    setting = ranks.Setting(name, arguments.world, transport)
    with ProcessPoolExecutor(arguments.jobs, get_context("fork")) as pool:
        tests = filter(wanted, pool.submit(ranks.tests, setting).result())
        return list(pool.map(partial(ranks.run, setting), tests))


if __name__ == "__main__":
    sys.exit(main())
