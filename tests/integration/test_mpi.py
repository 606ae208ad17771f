# SPDX-License-Identifier: Apache-2.0
"""Groups over the ranks of mpirun: Open MPI and MPICH, which `make mpi` puts into build/mpi."""

import re
import socket
import sys
from pathlib import Path

import pytest
from integration_jobs import Ended, finish, start

MPI = Path(__file__).parents[2] / "build" / "mpi"
OPTIONS = {
    "openmpi": ["--map-by", ":OVERSUBSCRIBE", "--mca", "mpi_yield_when_idle", "1"],
    "mpich": [],
}
ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
HEAD = """
import json, os, time
import faulthandler
faulthandler.dump_traceback_later(75, exit=True)
import rdmatrain
from mpi4py import MPI
import torch, torch.distributed as dist
COMM = MPI.COMM_WORLD
RANK = COMM.Get_rank()
def note(**facts):
    os.write(1, f"\\nmpi:{RANK}│ @{json.dumps(facts)}\\n".encode())
"""
GROUPS = """
for backend in ("rdmatrain", "gloo"):
    rdmatrain.init_from_mpi(COMM, backend)
    x = torch.full((1000,), RANK + 1.0)
    dist.all_reduce(x)
    variables = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name in os.environ]
    note(**{dist.get_backend(): {"rank": dist.get_rank(), "size": dist.get_world_size(),
                                 "sum": x[0].item(), "variables": variables}})
    dist.destroy_process_group()
"""
ERRORS = """
import rdmatrain.comm.mpi as mpi

def error_of(**kwargs):
    began = time.monotonic()
    try:
        rdmatrain.init_from_mpi(COMM, **kwargs)
    except Exception as error:
        assert time.monotonic() - began < 20
        return f"{type(error).__name__}: {error}"
    return "none"

def patched(name, value, **kwargs):
    real = getattr(mpi, name)
    setattr(mpi, name, value)
    text = error_of(**kwargs)
    setattr(mpi, name, real)
    return text

def refuse(*args):
    raise OSError("no such luck")

serve = mpi._serve
note(one_argument=error_of(**({"rank": 3} if RANK == 1 else {})),
     no_store=patched("_serve", refuse),
     no_way=patched("_connect", refuse if RANK == 1 else mpi._connect),
     other_store=patched("_serve", lambda *args: (*serve(*args)[:2], "another nonce")),
     backend=error_of(backend="nonsense"))
try:
    rdmatrain.init_from_mpi(None)
except TypeError as error:
    note(no_comm=str(error))
assert not dist.is_initialized()
rdmatrain.init_from_mpi(COMM)
note(twice=error_of())
"""
# What differs between hosts is what MPI says of them; ADDRESS is of this one.
HOSTS = """
MPI.Get_processor_name = lambda: ADDRESS
import rdmatrain.comm.mpi as mpi
mpi._is_one_host = lambda comm: False
from rdmatrain.comm import host
host.host_id = lambda: f"host {RANK}"
rdmatrain.init_from_mpi(COMM)
x = torch.ones(3)
dist.all_reduce(x)
store = dist.distributed_c10d._get_default_store()
while isinstance(store, dist.PrefixStore):
    store = store.underlying_store
note(sum=x[0].item(), host=store.host, transports=rdmatrain.transports())
"""


@pytest.fixture(params=["openmpi", "mpich"])
def mpi(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not (MPI / name / "bin" / "mpirun").exists():
        pytest.skip(f"no {name} in {MPI}: make mpi gets it from PyPI")
    return name


def mpirun(mpi: str, folder: Path, body: str, *, run: bool = True) -> Ended:
    """Run a worker on two ranks; ``run``: as ``python -m mpi4py`` does."""
    worker = folder / "worker.py"
    worker.write_text(HEAD + body, encoding="utf-8")
    prefix = MPI / mpi
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    env = ENV | {
        "LD_LIBRARY_PATH": str(prefix / "lib"),
        "PYTHONPATH": str(prefix / "lib" / version / "site-packages"),
    }
    command = [str(prefix / "bin" / "mpirun"), *OPTIONS[mpi], "-n", "2", sys.executable]
    return finish([start([*command, *(["-m", "mpi4py"] * run), str(worker)], env)])[0]


def test_groups_form_without_variables_and_again(mpi: str, tmp_path: Path) -> None:
    ended = mpirun(mpi, tmp_path, GROUPS, run=mpi == "mpich")
    assert ended.code == 0, ended.out
    for rank in range(2):
        expected = {"rank": rank, "size": 2, "sum": 3.0, "variables": []}
        assert ended.of(rank) == {"rdmatrain": expected, "gloo": expected}


def test_what_fails_on_one_rank_is_raised_on_all(mpi: str, tmp_path: Path) -> None:
    ended = mpirun(mpi, tmp_path, ERRORS)
    assert ended.code == 0, ended.out
    for rank in range(2):
        facts = ended.of(rank)
        assert facts["one_argument"].startswith("BootstrapError: rank 1 of 2: TypeError: rank: ")
        assert facts["no_store"] == "BootstrapError: rank 0 of 2: OSError: no such luck"
        assert facts["no_way"] == "BootstrapError: rank 1 of 2: OSError: no such luck"
        assert re.search("rank 1 of 2: .* another store than rank 0's", facts["other_store"])
        assert "nonsense" in facts["backend"]
        assert "intracommunicator" in facts["no_comm"]
        assert "default process group" in facts["twice"]


def test_the_store_of_several_hosts_is_where_their_names_lead(mpi: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this host has no address but loopback")
        address = probe.getsockname()[0]
    ended = mpirun(mpi, tmp_path, f"ADDRESS = {address!r}" + HOSTS)
    assert ended.code == 0, ended.out
    for rank in range(2):
        facts = ended.of(rank)
        assert facts["sum"] == 2.0
        assert facts["host"] == address
        assert facts["transports"] == ["self" if rank == peer else "tcp" for peer in range(2)]


def test_a_rank_that_fails_later_ends_the_job_under_mpi4pys_run(mpi: str, tmp_path: Path) -> None:
    body = """
rdmatrain.init_from_mpi(COMM)
if RANK == 1:
    raise ValueError("my own fault")
time.sleep(60)
"""
    ended = mpirun(mpi, tmp_path, body)
    assert ended.code != 0
    assert "my own fault" in ended.out
