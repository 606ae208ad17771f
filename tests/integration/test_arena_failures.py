"""Failures while ranks read and write each other's tensors: nothing stale, no crash."""

from pathlib import Path

import pytest
from integration_jobs import run, run_by_hand, write_worker

DETECTED_S = 3.0
TURNS = 8

COMMON = """
import random, signal
import rdmatrain
from rdmatrain import _core
N = 16 << 20  # float32: 64 MiB
def in_arena(tensor):
    return _core.arena_offset(tensor.data_ptr(), tensor.nbytes) is not None
"""

KILLED = """
SEED = int(os.environ["SEED"])
random.seed(SEED)
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=30))
x, idle = torch.full((N,), RANK + 1.0), torch.arange(float(N))
assert in_arena(x) and in_arena(idle)
dist.all_reduce(x)
def die():
    time.sleep(0.3 + random.random() * 0.2)
    note(died=time.monotonic())
    os.kill(os.getpid(), signal.SIGKILL)
if RANK == 1:
    threading.Thread(target=die, daemon=True).start()
step = 0
try:
    while True:
        x.fill_(RANK + 1.0 + step)
        dist.all_reduce(x)
        assert (x == 3.0 + 2 * step).all(), step
        step += 1
except dist.DistBackendError as error:
    note(raised=time.monotonic(), error=str(error), step=step)
own, summed = 1.0 + step, 3.0 + 2 * step
note(readable=bool(((x == own) | (x == summed)).all()))
note(idle=torch.equal(idle, torch.arange(float(N))))
x.copy_(idle)
time.sleep(0.2)
note(writable=torch.equal(x, idle), sum=(torch.ones(N) + idle).sum().item() > N)
del x
note(new=torch.full((N,), 7.0).sum().item())
dist.destroy_process_group()
note(ended=True)
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_survivor_keeps_its_tensors(tmp_path: Path, seed: int) -> None:
    env = {"RDMATRAIN_ARENA": "on", "WORLD_SIZE": "2", "SEED": str(seed)}
    worker = write_worker(tmp_path, COMMON + KILLED)
    survivor, victim = run_by_hand(worker, [env | {"RANK": "0"}, env | {"RANK": "1"}])
    assert victim.code == -9, victim.out
    assert survivor.code == 0, survivor.out
    facts = survivor.of(0)
    assert "rank 1" in facts["error"] and "died" in facts["error"], facts
    assert 0 < facts["raised"] - victim.of(0)["died"] < DETECTED_S
    assert facts["step"] > 0
    for what in ("readable", "idle", "writable", "sum", "ended"):
        assert facts[what] is True, (what, facts)
    assert facts["new"] == 7.0 * (16 << 20)


# Rank 0 stops rank 1 in the middle of a collective until it has given up itself. Rank 1 comes last,
# so the collective lasts from when it writes its step to shared memory: that tells when to stop it.
STOPPED = """
N = N // 2 if WORLD > 2 else N
random.seed(11 + RANK)
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=60))
shared = torch.from_file(sys.argv[1], shared=True, size=4, dtype=torch.int64)
TURNS, TWICE = int(sys.argv[2]), sys.argv[3] == "twice"
STEP, PID, FAILED, SHORTEST_US = 0, 1, 2, 3
PATTERN = -7.0
pending = []
if RANK == 1:
    shared[PID] = os.getpid()
def stop(step, group):
    pid, shortest_s = shared[PID].item(), shared[SHORTEST_US].item() / 1e6
    while shared[STEP].item() < step:
        time.sleep(0.0002)
    time.sleep(random.uniform(0, 0.4 if TWICE else 0.9) * shortest_s)
    os.kill(pid, signal.SIGSTOP)
    if TWICE:
        time.sleep(0.2)
        os.kill(pid, signal.SIGCONT)
        time.sleep(random.uniform(0, 0.9) * shortest_s)
        os.kill(pid, signal.SIGSTOP)
        ones = torch.ones(4)
        pending.append([dist.isend(ones, 1, group=group, tag=i) for i in range(64)])
def one(turn, x, wide, group):
    # The collectives that store to and load from the peers. Returns what x must be.
    step = turn["step"]
    if turn["kind"] == "all_reduce":
        x.fill_(RANK + 1.0 + step)
        call = lambda: dist.all_reduce(x, group=group)
        expected = sum(range(1, WORLD + 1)) + WORLD * step
    elif turn["kind"] == "broadcast":
        x.fill_(RANK + 1.0 + step)
        call = lambda: dist.broadcast(x, src=1, group=group)
        expected = 2.0 + step
    else:
        wide.fill_(RANK + 1.0 + step)
        call = lambda: dist.reduce_scatter_tensor(x, wide, group=group)
        expected = sum(range(1, WORLD + 1)) + WORLD * step
    if RANK != 1:
        call()
        return expected
    time.sleep(0.02)
    shared[STEP] = turn["number"] * 1000 + step
    began = time.monotonic()
    call()
    took_us = int((time.monotonic() - began) * 1e6)
    shared[SHORTEST_US] = min(took_us, shared[SHORTEST_US].item() if step > 1 else took_us)
    return expected
def play(turn, group):
    x, wide = torch.empty(N), torch.empty(N * WORLD if turn["kind"] == "reduce_scatter" else 1)
    assert in_arena(x)
    error = None
    try:
        while turn["step"] < 900:
            if RANK == 0 and turn["step"] == 3:
                turn["stopper"] = threading.Thread(
                    target=stop, args=(turn["number"] * 1000 + 3, group))
                turn["stopper"].start()
            expected = one(turn, x, wide, group)
            if not (x == expected).all():
                note(wrong=[turn["number"], turn["step"], x.unique().tolist()[:5], expected])
            turn["step"] += 1
    except dist.DistBackendError as e:
        error = str(e)
    return x, wide, error
KINDS = ["all_reduce", "all_reduce", "broadcast", "reduce_scatter"][3 if TWICE else 0:]
intact, texts, steps = [], [], []
for number in range(1, TURNS + 1):
    group = dist.new_group(timeout=timedelta(seconds=1 if RANK == 0 else 30))
    turn = {"number": number, "kind": KINDS[number % len(KINDS)], "step": 0}
    shared[FAILED] = 0
    dist.barrier()
    x, wide, error = play(turn, group)
    texts.append(error)
    steps.append(turn["step"])
    if RANK == 0:
        x.fill_(PATTERN)
        wide.fill_(PATTERN)
        turn["stopper"].join()
        os.kill(shared[PID].item(), signal.SIGCONT)
        while shared[FAILED].item() == 0:
            time.sleep(0.001)
        time.sleep(0.05)
        intact.append(bool((x == PATTERN).all() and (wide == PATTERN).all()))
    if RANK == 1:
        shared[FAILED] = 1
    dist.destroy_process_group(group)
    dist.barrier()
note(texts=texts, intact=intact, steps=steps)
dist.destroy_process_group()
"""


# Stopped twice, with two chunks to a shard: rank 0 is done with rank 1's input while rank 1 is at
# its first chunk, so that nothing keeps rank 1 from finishing after the second one. It cannot hear
# of rank 0's failure either, since sends that it has not taken yet leave no slot for the news.
@pytest.mark.parametrize(
    ("ranks", "how", "tuning"),
    [
        pytest.param(2, "once", "", id="2", marks=pytest.mark.thorough),
        pytest.param(2, "twice", "chunk=32M", id="2-twice"),
        pytest.param(3, "once", "", id="3"),
    ],
)
def test_what_a_late_peer_does_reaches_no_tensor_of_a_rank_that_gave_up(
    tmp_path: Path, ranks: int, how: str, tuning: str
) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(32))
    worker = write_worker(tmp_path, COMMON + STOPPED)
    env = {"RDMATRAIN_TUNING": tuning}
    ended = run(worker, str(shared), str(TURNS), how, ranks=ranks, env=env)
    assert ended.code == 0, ended.out
    for rank in range(ranks):
        assert "wrong" not in ended.of(rank), ended.out
        assert None not in ended.of(rank)["texts"], ended.out
        assert min(ended.of(rank)["steps"]) >= 3, ended.out
    assert ended.of(0)["intact"] == [True] * TURNS, ended.out
    timed_out = [
        text
        for text in ended.of(0)["texts"]
        if "did not finish within its timeout of 1.0 s" in text
    ]
    assert len(timed_out) == TURNS, ended.of(0)["texts"]
