"""A pod's rank of ``rdmatrain doctor --gang``: ``python -m rdmatrain.doctor.gang.rank DIR``.

DIR has the doctor's plan, and gets the answer. What the launcher and a job's rank know, this one
knows by the same variables.
"""

import json
import logging
import os
import sys
from pathlib import Path
from time import monotonic

from rdmatrain.comm.bootstrap import Place
from rdmatrain.comm.rdma import Rail
from rdmatrain.config import inherited_environment, load_settings, master_addr, rank_env
from rdmatrain.doctor.gang import clock, facts, group
from rdmatrain.doctor.gang.model import (
    ANSWER,
    PLAN,
    Answer,
    Gathering,
    Meeting,
    Peer,
    Plan,
    Pod,
    Row,
    from_json,
    to_json,
)
from rdmatrain.doctor.gang.pairs import Tournament, leave
from rdmatrain.doctor.gang.store import Part, StoreClient
from rdmatrain.doctor.gang.wait import collect, first_of
from rdmatrain.errors import BootstrapError, RdmatrainError
from rdmatrain.secret import load_secret

# Parts of the time after which a step is over, so that the next ones have theirs.
CLOCK_PART, GROUP_PART, PAIRS_PART = 0.3, 0.5, 0.9
PATIENCE_PART = 0.2  # for one that may be busy with another
# The others wait a little longer for rank 0 than it does for them.
SLACK_S = 3.0


class Rank:
    """Does what a rank has to do.

    Args:
        plan: its doctor's.
        folder: where the answer goes.

    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._began = monotonic()
        self._environ = inherited_environment()
        self._settings = load_settings()
        env = rank_env()
        self._rank, self._world = env.rank or 0, env.world_size or 1
        port = int(self._environ["MASTER_PORT"])
        self._group = group.Group(None)
        self._store = Part(StoreClient(master_addr(), port, plan.timeout_s), "doctor/")

    def run(self) -> int:
        """Do it all; returns the exit code for the launcher."""
        found = facts.find_rails(self._settings)
        pods = self._exchange_pods(facts.pod_of(self._rank, self._plan, self._settings, found))
        peers = self._peers(pods)
        row = Row(rank=self._rank)
        if len(peers) == self._world:
            row = self._measure(peers, found.rails)
        self._store.set(f"row/{self._rank}", to_json(row))
        code = self._lead(pods) if self._rank == 0 else self._follow(peers[0].host)
        self._group.close()
        return code

    def _until(self, part: float) -> float:
        return self._began + part * self._plan.timeout_s

    def _exchange_pods(self, mine: Pod) -> tuple[Pod, ...]:
        """Return, on rank 0, what each rank that came says of its pod."""
        self._store.set(f"pod/{self._rank}", to_json(mine))
        if self._rank:
            return ()
        found = collect(self._store, "pod", range(self._world), self._until(CLOCK_PART))
        pods = tuple(from_json(Pod, text) for text in found.values())
        peers = [
            to_json(
                Peer(rank=pod.rank, host=pod.host, address=pod.address, num_rails=len(pod.rails))
            )
            for pod in pods
        ]
        self._store.set("peers", json.dumps(peers))
        return pods

    def _peers(self, pods: tuple[Pod, ...]) -> list[Peer]:
        if not pods and not first_of(self._store, ["peers"], self._until(CLOCK_PART) + SLACK_S):
            raise BootstrapError("rank 0 does not say who is there")
        return [from_json(Peer, text) for text in json.loads(self._store.get("peers"))]

    def _measure(self, peers: list[Peer], rails: tuple[Rail, ...]) -> Row:
        offset = None
        if self._rank == 0:
            clock.serve(self._store, self._world, self._until(CLOCK_PART))
        else:
            offset = clock.ask(self._store, self._rank, self._until(CLOCK_PART))
        place = Place(
            rank=self._rank,
            world=self._world,
            timeout=max(self._until(GROUP_PART) - monotonic(), 1.0),
            master_addr=master_addr(),
        )
        secret = load_secret(self._environ)
        formed = group.form(Part(self._store, "group/"), place, self._settings, secret)
        meetings: tuple[Meeting, ...] = ()
        if formed.turn is None or not formed.turn.pairs:
            leave(self._store, self._rank)
        else:
            meetings = Tournament(
                store=self._store,
                place=place,
                settings=self._settings,
                pairs=formed.turn.pairs,
                rails=rails,
                peers=peers,
                deadline=self._until(PAIRS_PART),
                patience_s=PATIENCE_PART * self._plan.timeout_s,
            ).play()
        self._group = formed
        return Row(
            rank=self._rank,
            meetings=meetings,
            offset_s=offset.seconds if offset else None,
            rtt_s=offset.rtt_s if offset else 0.0,
            group_error=formed.error,
            gathered=formed.gathered,
            wrong_ranks=formed.wrong_ranks,
        )

    def _lead(self, pods: tuple[Pod, ...]) -> int:
        """Gather, judge and tell; whoever is still missing is ended by the launcher."""
        from rdmatrain.doctor.gang.judge import judge  # noqa: PLC0415 - of all checks, on one rank
        from rdmatrain.doctor.report import exit_code, verdict_of  # noqa: PLC0415

        rows = collect(self._store, "row", [pod.rank for pod in pods], self._until(1.0))
        gathering = Gathering(
            world=self._world,
            pods=pods,
            rows=tuple(from_json(Row, text) for text in rows.values()),
            timeout_s=self._plan.timeout_s,
            seconds=monotonic() - self._began,
        )
        results = judge(gathering, self._plan.unasked)
        answer = Answer(
            rank=0,
            exit_code=exit_code(results),
            verdict=verdict_of(results).value,
            leader=pods[0].host,
            gathering=gathering,
        )
        self._leave(answer)
        self._store.set("verdict", json.dumps([answer.exit_code, answer.verdict]))
        if len(rows) == self._world:
            return 0
        # What has not come would not end by itself. The others need a moment to hear of it.
        collect(self._store, "heard", [rank for rank in rows if rank], monotonic() + SLACK_S)
        return answer.exit_code

    def _follow(self, leader: str) -> int:
        if not first_of(self._store, ["verdict"], self._until(1.0) + SLACK_S):
            raise BootstrapError(f"rank 0, on {leader}, does not say what it found")
        code, verdict = json.loads(self._store.get("verdict"))
        self._leave(Answer(rank=self._rank, exit_code=code, verdict=verdict, leader=leader))
        self._store.set(f"heard/{self._rank}", "")
        return 0

    def _leave(self, answer: Answer) -> None:
        """Leave a file for the doctor, which finds it whole."""
        part = self._folder / f"{ANSWER}.part"
        part.write_text(to_json(answer), "utf-8")
        part.rename(self._folder / ANSWER)


def main() -> int:
    """Do what the plan says."""
    # What the bootstrap warns of is in the report.
    logging.getLogger("rdmatrain").addHandler(logging.NullHandler())
    folder = Path(sys.argv[1])
    try:
        plan = from_json(Plan, (folder / PLAN).read_text("utf-8"))
        return Rank(plan, folder).run()
    except RdmatrainError as error:
        print(error, file=sys.stderr)  # noqa: T201 - its launcher shows it
        return 1


if __name__ == "__main__":
    # The core's threads may still wait for a peer that hangs: nothing here is to be saved.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
