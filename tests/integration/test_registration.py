"""How torch comes to know the backend, and how groups begin and end."""

import sys
from pathlib import Path

import pytest
from integration_jobs import (
    TORCHRUN,
    Ended,
    finish,
    free_port,
    nothing_left_behind,
    run,
    run_alone,
    start,
    write_worker,
)

ALONE = """
store = dist.HashStore()
dist.init_process_group("rdmatrain", store=store, rank=0, world_size=1)
x = torch.arange(5.0)
dist.all_reduce(x)
note(sum=x.tolist(), backend=dist.get_backend())
"""
NO_AUTOLOAD = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def python(folder: Path, code: str, env: dict[str, str] | None = None) -> Ended:
    """Run code that imports what it likes, unlike a worker."""
    path = folder / "bare.py"
    path.write_text(code)
    return finish([start([sys.executable, str(path)], env)])[0]


def test_a_backend_that_nobody_imported_is_found_by_its_entry_point(tmp_path: Path) -> None:
    ended = run_alone(write_worker(tmp_path, ALONE))
    assert ended.code == 0, ended.out
    assert ended.of(0) == {"sum": [0, 1, 2, 3, 4], "backend": "rdmatrain"}


def test_importing_torch_loads_neither_the_backend_nor_its_c_modules(tmp_path: Path) -> None:
    code = "import torch, sys; print(*sorted(m for m in sys.modules if m.startswith('rdmatrain')))"
    ended = python(tmp_path, code)
    assert ended.code == 0, ended.out
    loaded = {
        "rdmatrain",
        *(f"rdmatrain.{name}" for name in ("autoload", "config", "errors", "spelling")),
    }
    assert "rdmatrain.autoload" in ended.out.split()
    assert set(ended.out.split()) <= loaded


def test_importing_rdmatrain_imports_no_torch(tmp_path: Path) -> None:
    code = "import rdmatrain, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"
    for env in ({}, NO_AUTOLOAD):
        assert python(tmp_path, code, env).out.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("env", "imports"),
    [
        ({}, "import rdmatrain, torch"),
        ({}, "import torch, rdmatrain"),
        (NO_AUTOLOAD, "import torch, rdmatrain"),
        (NO_AUTOLOAD, "import rdmatrain, torch; rdmatrain.register()"),
        (NO_AUTOLOAD, "import rdmatrain; rdmatrain.register(); rdmatrain.register()"),
    ],
)
def test_the_backend_is_known_after(tmp_path: Path, env: dict[str, str], imports: str) -> None:
    code = f"{imports}\nimport torch.distributed as dist\n"
    code += "print(dist.is_backend_available('rdmatrain'), dist.Backend('rdmatrain'))"
    assert python(tmp_path, code, env).out.split() == ["True", "rdmatrain"]


@pytest.mark.parametrize(
    "breakage",
    [
        "dist.Backend.register_backend = None",
        "del dist.Backend.backend_list",
        "del dist.Backend",
    ],
)
def test_the_entry_point_never_raises(tmp_path: Path, breakage: str) -> None:
    code = f"""
import torch.distributed as dist
{breakage}
from rdmatrain.autoload import register
register()
print("went on")
"""
    ended = python(tmp_path, code, NO_AUTOLOAD)
    assert ended.code == 0, ended.out
    assert ended.out.splitlines()[-1] == "went on"


def test_another_minor_of_torch_gives_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    code = """
import torch
torch.__version__ = "2.99.1+cu130"
import torch.distributed as dist
try:
    dist.init_process_group("rdmatrain", store=dist.HashStore(), rank=0, world_size=1)
except ImportError as error:
    print(error)
"""
    ended = python(tmp_path, code)
    assert ended.code == 0, ended.out
    assert ended.out.count("\n") == 1
    assert "2.99.1+cu130" in ended.out and "pip install" in ended.out


def test_unknown_settings_are_warned_of(tmp_path: Path) -> None:
    ended = run_alone(write_worker(tmp_path, ALONE), env={"RDMATRAIN_TRANSPROT": "tcp"})
    assert ended.code == 0, ended.out
    assert "did you mean RDMATRAIN_TRANSPORT?" in ended.out


def test_options_of_another_backend_are_refused(tmp_path: Path) -> None:
    body = """
store = dist.HashStore()
reported(dist.init_process_group, "rdmatrain", store=store, rank=0, world_size=1, pg_options=3)
"""
    ended = run_alone(write_worker(tmp_path, body))
    assert ended.of(0)["kind"] == "TypeError" and "rdmatrain.Options" in ended.of(0)["error"]


# Groups begin and end

LIFE = """
import rdmatrain
for turn in range(3):
    dist.init_process_group("rdmatrain")
    x = torch.full((3,), float(RANK + turn))
    dist.all_reduce(x)
    assert x.tolist() == [sum(range(WORLD)) + WORLD * turn] * 3, x
    groups = [dist.new_group() for _ in range(2)] + [dist.new_group([r]) for r in range(WORLD)]
    for i, group in enumerate(groups[:2]):
        y = torch.full((2,), float(RANK * (i + 1)))
        dist.all_reduce(y, group=group)
        assert y[0].item() == sum(range(WORLD)) * (i + 1), y
    mine = groups[2 + RANK]
    z = torch.tensor([float(RANK)])
    dist.all_reduce(z, group=mine)
    assert z.item() == RANK
    note(**{f"turn {turn}": rdmatrain.transports(), f"own {turn}": rdmatrain.transports(mine)})
    dist.destroy_process_group(groups[0])
    dist.all_reduce(x, group=groups[1])
    if turn == 0:
        reported(rdmatrain.transports, dist.new_group(backend="gloo"))
    dist.destroy_process_group()
try:
    rdmatrain.transports()
except ValueError as error:
    note(without=str(error))
note(end=True)
"""


def test_groups_can_be_made_used_destroyed_and_made_again(tmp_path: Path) -> None:
    with nothing_left_behind() as env:
        ended = run(write_worker(tmp_path, LIFE), env=env)
        assert ended.code == 0, ended.out
    for rank in range(2):
        facts = ended.of(rank)
        expected = ["self", "shm"] if rank == 0 else ["shm", "self"]
        assert [facts[f"turn {turn}"] for turn in range(3)] == [expected] * 3
        assert facts["own 0"] == ["self"]
        assert facts["kind"] == "ValueError" and "not rdmatrain" in facts["error"]
        assert "call init_process_group first" in facts["without"]
        assert facts["end"]


def test_torchruns_store_outlives_the_group_and_serves_the_next_one(tmp_path: Path) -> None:
    options = ["--nproc-per-node", "2", "--master-port", str(free_port())]
    with nothing_left_behind() as env:
        worker = write_worker(tmp_path, LIFE)
        ended = finish([start([*TORCHRUN, *options, worker], env)])[0]
        assert ended.code == 0, ended.out
    assert ended.out.count('"end": true') == 2  # torchrun does not say which rank wrote


@pytest.mark.parametrize(
    "state",
    {
        "an idle group": "dist.barrier()",
        "a pending work": "work = dist.all_reduce(torch.ones(9), async_op=True)",
        "a dropped pending work": "dist.all_reduce(torch.ones(9), async_op=True)",
        "a pending callback": (
            "f = dist.all_reduce(torch.ones(9), async_op=True).get_future()\n"
            "f.then(lambda f: print(f))"
        ),
    }.items(),
    ids=lambda item: item[0].replace(" ", "-"),
)
def test_leaving_without_destroying(tmp_path: Path, state: tuple[str, str]) -> None:
    body = f"dist.init_process_group('rdmatrain')\nif RANK == 0:\n    time.sleep(0.3)\n{state[1]}\n"
    with nothing_left_behind() as env:
        ended = run(write_worker(tmp_path, body + "note(end=True)\n"), env=env, timeout_s=60)
        assert ended.code == 0, ended.out
    assert ended.of(0)["end"] and ended.of(1)["end"]
