# SPDX-License-Identifier: Apache-2.0
"""A node of a gang without workers: says what it is told, a line of JSON each, with the time.

Its argument is a JSON object: fields of ``Gang``; ``skew_s``: its wall clock is wrong by so much;
``done``: it says that its workers are done, at once.
"""

import dataclasses
import json
import sys
import time
from typing import Any

from rdmatrain.launcher.contracts import Parts
from rdmatrain.launcher.gang import join, pair
from rdmatrain.launcher.job import Gang, Job, Limits, Program
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.messages import EndRound, Finish, Report, Round, Stopped, StopWorkers


class NoStore:
    """Neither store nor door: no worker needs one."""

    port, pid, alive = 1, 0, True

    def __init__(self, *_: Any) -> None: ...
    def attach(self, *_: Any) -> None: ...
    def receive(self, *_: Any) -> None: ...
    def detach(self, *_: Any) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


class Node:
    def __init__(self, done: bool) -> None:
        self.member: Any = None
        self.code: int | None = None
        self._done = done

    def say(self, **facts: Any) -> None:
        sys.stdout.write(json.dumps({"at": time.monotonic(), **facts}) + "\n")
        sys.stdout.flush()

    def on_round(self, round: Round) -> None:
        self.say(round=dataclasses.asdict(round))
        if self._done:
            self.member.say(Report(round=round.number, done=True))

    def on_end_round(self, end: EndRound) -> None:
        self.say(end=dataclasses.asdict(end))
        self.member.say(Stopped(round=end.number))

    def on_stop_workers(self, stop: StopWorkers) -> None:
        self.say(stop=stop.signal)

    def on_finish(self, finish: Finish) -> None:
        self.say(finish=dataclasses.asdict(finish))
        self.code = finish.exit_code

    def on_note(self, text: str) -> None:
        self.say(note=text)


def main() -> int:
    asked = json.loads(sys.argv[1])
    skew_s, done = asked.pop("skew_s", 0.0), asked.pop("done", False)
    real = time.time
    time.time = lambda: real() + skew_s
    loop, node = Loop(), Node(done)
    job = Job(
        program=Program(script="/nowhere/train.py"),
        gang=Gang(**asked),
        limits=Limits(shutdown_s=1.0),
    )
    node.member = join(
        loop, job, b"a secret of the test", node, parts=Parts(NoStore, NoStore, pair)
    )
    loop.run(lambda: node.code is not None)
    return node.code or 0


if __name__ == "__main__":
    sys.exit(main())
