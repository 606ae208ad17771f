"""Torch's suite as a test case whose ranks are forked, and what one of its tests came to."""

import faulthandler
import functools
import importlib
import importlib.util
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import unittest
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import torch
import torch.distributed.distributed_c10d as c10d
from conformance_names import answer_to, check_backend
from conformance_verdict import Outcome
from torch.testing._internal import common_distributed

# Decorators that a rank asks once it has started and joined its group: the answer is known before,
# and most of torch's tests need a GPU. The second kind is called with arguments first.
SKIPS = ("skip_if_no_gpu", "skip_if_odd_worldsize", "skip_if_small_worldsize")
SKIPS_CALLED = (
    "nccl_skip_if_lt_x_gpu",
    "require_n_gpus_for_nccl_backend",
    "skip_if_lt_x_gpu",
)
BARRIER_TIMEOUT_S = 60  # the suite's own 10 s are short where ranks outnumber cores
MAX_OUTPUT = 8000  # characters of what the ranks of a failed test wrote


@dataclass(frozen=True)
class Setting:
    """What a process runs the suite with; one process has only one.

    Attributes:
        name: the backend's name, as the tests see it.
        world: the number of ranks.
        transport: what must join them; empty for torch's own backend of that name.

    """

    name: str
    world: int
    transport: str


def tests(setting: Setting) -> list[str]:
    return list(unittest.TestLoader().getTestCaseNames(load(setting)))


def run(setting: Setting, test: str) -> Outcome:
    result = unittest.TestResult()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        with written_to(output):
            load(setting)(test).run(result)
        output.seek(0)
        said = output.read()[-MAX_OUTPUT:]
    failed = result.failures + result.errors
    if failed:
        return Outcome(test, "failed", f"{failed[0][1]}\n{said}")
    if result.skipped:
        return Outcome(test, "skipped", result.skipped[0][1])
    return Outcome(test, "passed")


@contextmanager
def written_to(output: IO[str]) -> Iterator[None]:
    """Send what this process and its children write to a file."""
    saved = [os.dup(fd) for fd in (1, 2)]
    for fd in (1, 2):
        os.dup2(output.fileno(), fd)
    try:
        yield
    finally:
        sys.stdout.flush()
        for fd, before in zip((1, 2), saved, strict=True):
            os.dup2(before, fd)
            os.close(before)


@functools.cache
def load(setting: Setting) -> type[unittest.TestCase]:
    """Import the suite, which reads its environment at import."""
    os.environ.update(BACKEND=setting.name, WORLD_SIZE=str(setting.world), INIT_METHOD="file://")
    common_distributed.TIMEOUT_OVERRIDE.clear()
    common_distributed.logger.setLevel(logging.CRITICAL)  # what it would log comes by a pipe too
    if setting.transport:
        os.environ["RDMATRAIN_TRANSPORT"] = setting.transport
        for feature in ("gpu", "cuda", "ddp", "subgroup", "plugin"):
            common_distributed.DistTestCases.backend_feature[feature].add("rdmatrain")
        c10d._MPI_AVAILABLE = c10d._MPI_AVAILABLE or setting.name == "mpi"
    for name in SKIPS:
        skip = getattr(common_distributed, name)
        setattr(common_distributed, name, functools.partial(skip_early, skip))
    for name in SKIPS_CALLED:
        factory = getattr(common_distributed, name)
        setattr(common_distributed, name, functools.partial(skip_early_called, factory))
    if setting.world < 3:  # these tests make a group of ranks 1 and 2, for MPI at any world size
        small = common_distributed.TEST_SKIPS["small_worldsize"]
        common_distributed.skip_if_small_worldsize = unittest.skip(small.message)
    if importlib.util.find_spec("torchvision") is None:
        sys.modules["torchvision"] = torchvision_stand_in()
    suite = importlib.import_module("torch.testing._internal.distributed.distributed_test")
    if setting.transport:
        expect_own_events(suite, setting.name)
    return forked(suite, setting)


def expect_own_events(suite: Any, name: str) -> None:
    """Have the suite look for a profiler's events, which bear the backend's own name."""
    suite.PROFILING_SUPPORTED_BACKENDS.append("rdmatrain")
    suite.SEND_RECV_PROFILING_SUPPORTED_BACKENDS.append("rdmatrain")
    find = suite.get_profiling_event

    @functools.wraps(find)
    def find_own(event: str, *args: Any, **kwargs: Any) -> Any:
        return find(re.sub(f"^{name}:", "rdmatrain:", event), *args, **kwargs)

    suite.get_profiling_event = find_own


def skip_early(decorator: Callable[..., Any], test: Callable[..., None]) -> Callable[..., None]:
    """Decorate a test, and find out at once what the decorator would decide in a rank."""
    reasons = {skip.exit_code: skip.message for skip in common_distributed.TEST_SKIPS.values()}
    try:
        decorator(lambda _: None)(None)
    except SystemExit as ended:
        return unittest.skip(reasons[ended.code])(test)
    return decorator(test)


def skip_early_called(factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    return functools.partial(skip_early, factory(*args, **kwargs))


def torchvision_stand_in() -> ModuleType:
    """Make a torchvision for the one CPU test that asks for it, which needs a nested batch norm.

    The real one does not load beside the CPU build of torch, unless it is a CPU build too.
    """
    module = ModuleType("torchvision")
    block = OrderedDict(bn1=torch.nn.BatchNorm2d(4))
    layers = OrderedDict(layer1=torch.nn.Sequential(torch.nn.Sequential(block)))
    module.models = SimpleNamespace(resnet50=lambda: torch.nn.Sequential(layers))
    return module


def forked(suite: Any, setting: Setting) -> type[unittest.TestCase]:
    class TorchSuite(Forked, suite.TestDistBackend, suite.DistributedTest._DistTestBase):
        pass

    TorchSuite.suite, TorchSuite.setting = suite, setting
    return TorchSuite


class Forked:
    """What a test case of the suite does otherwise than in torch's own runner.

    Attributes:
        suite: torch's module.
        setting: what it was imported for.

    """

    suite: Any
    setting: Setting

    def setUp(self) -> None:
        super().setUp()
        self.suite.INIT_METHOD = os.environ["INIT_METHOD"]  # new for each test
        self._start_processes(multiprocessing.get_context("fork").Process)

    def tearDown(self) -> None:
        for rank in self.processes:
            rank.kill()
            rank.join()
        Path(self.file_name).unlink(missing_ok=True)
        super().tearDown()

    @classmethod
    def _run(cls, rank: int, test_name: str, file_name: str, pipe: Any, **kwargs: Any) -> None:
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        if cls.setting.transport:
            answer_to(cls.setting.name, rank, cls.setting.world, file_name)
        super()._run(rank, test_name, file_name, pipe, **kwargs)

    def run_test(self, test_name: str, pipe: Any) -> None:
        if self.setting.transport:
            check_backend(self.rank, self.setting.world, self.setting.transport)
        super().run_test(test_name, pipe)

    def _barrier(self, *args: Any, **kwargs: Any) -> None:
        super()._barrier(*args, **{"timeout": BARRIER_TIMEOUT_S, **kwargs})

    def _get_timedout_process_traceback(self) -> None:
        # Unlike torch's way to ask for stacks, this one works while a rank holds the GIL.
        for rank in self.processes:
            if rank.exitcode is None:
                os.kill(rank.pid, signal.SIGUSR1)
                time.sleep(0.5)  # one after another: what they write must not mix

    def _check_return_codes(self, fn: Any, elapsed_time: float) -> None:
        super()._check_return_codes(fn, elapsed_time)  # which looks at rank 0 alone
        if fn not in self.skip_return_code_checks:
            codes = [rank.exitcode for rank in self.processes]
            if any(codes):
                self.fail(f"exit codes of the ranks: {codes}")
