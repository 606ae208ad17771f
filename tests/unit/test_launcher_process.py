"""Process bookkeeping, each in a child interpreter: it changes and kills the process it runs in."""

import os
import subprocess
import sys
from pathlib import Path

import rdmatrain

ROOT = str(Path(rdmatrain.__file__).parents[1])
PREAMBLE = """
import os, signal, subprocess, sys, time
from rdmatrain.launcher import process
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
NESTED = [sys.executable, "-c", '''
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
''']
def nested():
    done = subprocess.run(NESTED, stdout=subprocess.PIPE, check=True)
    return int(done.stdout)
"""


def run_in_child(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + body],
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_subreaper_adopts_and_sweeps_orphans_of_other_sessions() -> None:
    run_in_child("""
assert process.become_subreaper()
orphan = nested()
assert process.descendants(os.getpid()) == [orphan]
assert process.sweep(5.0) == []
try:
    os.kill(orphan, 0)
except ProcessLookupError:
    pass
else:
    raise SystemExit("the orphan is still there")
""")


def test_a_sweep_spares_what_it_is_told_to() -> None:
    run_in_child("""
kept, swept = subprocess.Popen(SLEEP), subprocess.Popen(SLEEP)
assert process.sweep(5.0, [kept.pid]) == []
assert process.descendants(os.getpid()) == [kept.pid]
os.kill(kept.pid, signal.SIGKILL)
kept.wait()
swept.returncode = -9
""")


def test_descendants_are_listed_at_any_depth_without_zombies() -> None:
    run_in_child("""
zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
zombie.stdout.read()
os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
shell = subprocess.Popen(["sh", "-c", "sleep 60 & echo ok; wait"], stdout=subprocess.PIPE)
assert shell.stdout.readline() == b"ok\\n"
found = process.descendants(os.getpid())
assert shell.pid in found and len(found) == 2, found
process.sweep(5.0)
zombie.returncode = shell.returncode = 0
""")


def test_a_child_whose_parent_died_before_prctl_kills_itself() -> None:
    run_in_child("""
in_child = process.child_setup()
reader, writer = os.pipe()
middle = os.fork()
if middle == 0:
    inner = os.fork()
    if inner:
        os.write(writer, b"%d " % inner)
        time.sleep(0.2)
        os._exit(0)
    in_child()  # its parent is not the process that child_setup was called in
    os.write(writer, b"alive")
    os._exit(0)
os.close(writer)
assert process.become_subreaper()
os.waitpid(middle, 0)
text = b""
while chunk := os.read(reader, 100):
    text += chunk
assert b"alive" not in text and text, text
""")


def test_closed_standard_descriptors_are_opened() -> None:
    run_in_child("""
os.close(0)
os.close(1)
process.open_standard_fds()
assert os.readlink("/proc/self/fd/0") == os.readlink("/proc/self/fd/1") == os.devnull
assert not os.path.exists("/proc/self/fd/3")
""")
