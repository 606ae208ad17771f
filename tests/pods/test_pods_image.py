# SPDX-License-Identifier: Apache-2.0
"""The image of launch/Containerfile by itself: its user, its entrypoint, and what is not in it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pods_setup
import pytest
from pods_job import SMALL, Machine
from pods_podman import Podman, PodmanError

pytestmark = pytest.mark.timeout(300)

# As the SR-IOV device plugin names what it gives; a shell would drop it.
DASHED = "PCIDEVICE_NVIDIA_COM_RDMA-VF"
FACTS = f"""
import ctypes, grp, json, os, pwd
ctypes.CDLL("libibverbs.so.1")
made = {{"cc", "c++", "gcc", "g++", "cc1", "cc1plus", "collect2", "clang", "ld", "as", "cmake"}}
print(json.dumps({{
    "pid": os.getpid(), "variable": os.environ["{DASHED}"],
    "user": [os.getuid(), pwd.getpwuid(os.getuid()).pw_name],
    "group": [os.getgid(), grp.getgrgid(os.getgid()).gr_name],
    "compilers": [name for _, _, names in os.walk("/") for name in names if name in made],
    "sources": [name for name in ("/src", "/build", "/wheel") if os.path.exists(name)],
}}))
"""
# An orphan of a process that podman started, and that ends when PID 1 is its parent.
ORPHAN = """
import os, time
read, write = os.pipe()
if os.fork() == 0:
    if (pid := os.fork()) == 0:
        while os.getppid() != 1:
            time.sleep(0.01)
        os._exit(0)
    os.write(write, str(pid).encode())
    os._exit(0)
os.wait()
orphan, end = os.read(read, 20).decode(), time.monotonic() + 20
while os.path.exists(f"/proc/{orphan}"):
    assert time.monotonic() < end, open(f"/proc/{orphan}/status").read()
    time.sleep(0.05)
"""


@pytest.fixture
def host(machine: Machine) -> Iterator[Podman]:
    """Podman, and a container of a test whose name is `alone`."""
    yield machine.podman
    machine.podman.run("rm", "-f", "-i", "-t", "0", "alone")


def test_a_program_in_the_image_is_pid_1_of_a_user_and_there_is_no_compiler(machine):
    words = ("--network", "none", "--cap-drop", "all", "-e", f"{DASHED}=0000:0c:00.2")
    told = machine.podman.run("run", "--rm", *words, machine.image, "python3", "-c", FACTS)
    assert json.loads(told) == {
        "pid": 1,
        "variable": "0000:0c:00.2",
        "user": [1000, "trainer"],
        "group": [1000, "trainer"],
        "compilers": [],
        "sources": [],
    }


def test_a_command_of_rdmatrain_needs_no_name_of_a_program(machine):
    line = ("run", "--rm", "--network", "none", machine.image)
    assert machine.podman.run(*line, "--version").startswith("rdmatrain, version")
    report = json.loads(machine.podman.run(*line, "doctor", "--json"))
    assert report["counts"]["FAIL"] == 0, report["cause"]


def test_the_entrypoint_as_pid_1_gathers_orphans_and_ends_by_sigterm(machine, host):
    script = ["/opt/rdmatrain/share/train_gpt.py", *SMALL, "--steps", "100000", "--log-every", "1"]
    line = ["run", "-d", "--name", "alone", "--network", "none", machine.image]
    host.run(*line, "run", "--nproc-per-node", "1", *script)
    end = time.monotonic() + 120
    while " loss " not in host.logs("alone"):
        assert time.monotonic() < end, host.logs("alone")
        time.sleep(0.5)
    host.run("exec", "alone", "python3", "-c", ORPHAN)
    host.run("kill", "-s", "TERM", "alone")
    assert host.exit_code("alone", 60) == 143, host.logs("alone")


def test_a_base_whose_torch_is_too_old_is_refused_and_keeps_it(machine, host, tmp_path: Path):
    base = "localhost/old-torch"
    where = "import importlib.metadata as m; print(m.distribution('torch').locate_file(''))"
    older = f'sed -i "s/^Version: .*/Version: 2.12.0/" "$(python3 -c "{where}")"/torch-*/METADATA'
    text = f"FROM {pods_setup.base_name()}\nENV PIP_NO_INDEX=1\nRUN {older}\n"
    host.run("build", "-q", "-t", base, "-f", "-", str(tmp_path), given=text)
    try:
        with pytest.raises(PodmanError, match=r"rdmatrain.*and torch==2\.12\.0 because"):
            pods_setup.make_image(host, "localhost/never", base, pods_setup.make_wheel())
    finally:
        host.run("rmi", "-f", base)
