# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain doctor`` on this machine, by itself and around ``rdmatrain run``."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import jsonschema
import pytest

import rdmatrain
from rdmatrain.doctor import around
from rdmatrain.doctor.model import Check, failed
from rdmatrain.doctor.report import Style
from rdmatrain.errors import SettingError
from rdmatrain.launcher import command, termination

ROOT = Path(rdmatrain.__file__).parents[1]
RDMATRAIN = [sys.executable, "-m", "rdmatrain.cli"]
SCHEMA = json.loads(files("rdmatrain.doctor").joinpath("schemas/doctor.schema.json").read_text())
# In which the checks ask only for what is in /sys, /dev/infiniband and of the driver's.
OF_DEVICES = {"devices", "ports", "gpudirect"}
Ended = subprocess.CompletedProcess[str]


def environment(**more: str) -> dict[str, str]:
    """A plain one: of others a snapshot would leave out what looks secret."""
    own = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return own | {"PYTHONPATH": str(ROOT)} | more


def rdmatrain_(*args: str | Path, **env: str) -> Ended:
    return subprocess.run(
        [*RDMATRAIN, *map(str, args)],
        env=environment(**env), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def document(*args: str | Path, **env: str) -> Any:
    done = rdmatrain_("doctor", "--json", *args, **env)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert done.returncode == found["exit_code"]
    return found


# -- by itself --


def test_this_machine_is_examined_and_says_how_long_that_took() -> None:
    found = document()
    assert (found["scope"], found["subject"]) == ("node", "this machine")
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["host"] == Path("/proc/sys/kernel/hostname").read_text().strip()
    assert all(each["seconds"] <= found["seconds"] for each in found["checks"])
    assert not [each for each in found["checks"] if "is broken" in each["evidence"]]


def test_what_was_saved_of_this_machine_gets_the_same_answers(tmp_path: Path) -> None:
    saved, hidden = tmp_path / "saved.json", tmp_path / "hidden.json"
    said = [
        document("--dump", saved, "--checkpoint-dir", tmp_path),
        document("-F", saved),
        document("-F", saved, "--dump", hidden, "--redact"),
        document("-F", hidden),
    ]
    texts = [
        [each["evidence"].replace(one["subject"], "this machine") for each in one["checks"]]
        for one in said[:3]
    ]
    verdicts = [[(each["id"], each["verdict"]) for each in one["checks"]] for one in said]
    assert texts[0] == texts[1] == texts[2]
    assert verdicts[0] == verdicts[3]
    assert said[0]["host"] == said[1]["host"]
    assert str(tmp_path) not in hidden.read_text()


def test_a_manifest_gets_a_document_of_the_same_schema() -> None:
    found = document("-f", ROOT / "tests/fixtures/manifests/job.yaml")
    assert (found["scope"], found["host"]) == ("manifest", "")


def test_a_gang_gets_a_document_of_the_same_schema_and_a_drawing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="drawings need matplotlib")
    found = document("--gang", "--plot", tmp_path / "gang.svg", "--gang-timeout", "30")
    assert (found["scope"], found["gang"]["ranks"]) == ("gang", 1)
    assert "gang-forms" in {each["id"] for each in found["checks"]}
    assert (tmp_path / "gang.svg").read_text().startswith("<?xml")


LIGHT = ("--list", "--help", "--explain shm")


@pytest.mark.parametrize("args", LIGHT)
def test_who_only_asks_for_words_waits_for_no_library(args: str) -> None:
    code = (
        "import sys; from rdmatrain.cli import cli\n"
        f"try: cli(['doctor', *{args.split()}], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'yaml', 'matplotlib', 'asyncio'} & set(sys.modules)),\n"
        "      [name for name in sys.modules if name.startswith('rdmatrain.discovery')],\n"
        "      file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    heavy, _, discovery = done.stderr.strip().partition("] ")
    assert heavy == "["
    # The checks themselves are imported to be explained, and what they ask with them.
    assert discovery == "[]" or "--explain" in args
    assert done.stdout


def test_examining_imports_no_torch() -> None:
    code = (
        "import sys; from rdmatrain.cli import cli\n"
        "try: cli(['doctor'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_a_terminal_has_colours_and_a_pipe_has_none() -> None:
    assert "\x1b[" not in rdmatrain_("doctor").stdout
    assert b"\x1b[" in on_terminal(TERM="xterm")
    assert b"\x1b[" not in on_terminal(TERM="xterm", NO_COLOR="1")


def on_terminal(**env: str) -> bytes:
    ours, theirs = pty.openpty()
    doctor = subprocess.Popen(
        [*RDMATRAIN, "doctor"], env=environment(**env), cwd=ROOT, stdin=theirs, stdout=theirs
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # Linux says so when the last writer has gone
        pass
    finally:
        os.close(ours)
        doctor.wait(timeout=60)
    return said


# -- as uid 1000, without any capability, with a root that is read-only --

# What hides the machine: the interpreter stays where it is, though its folder is root's.
HIDE = """
set -e
python=$1; sys=$2; hold=$3; shift 3
mount --bind "$python" "$hold"
case $python in /root/*) mount -t tmpfs none /root && mkdir -p "$python";; esac
mount --bind "$hold" "$python" && umount "$hold"
if [ "$sys" = hidden ]; then
  mount -t tmpfs none /sys
  [ ! -d /dev/infiniband ] || mount -t tmpfs none /dev/infiniband
fi
mount -o remount,bind,ro /
exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all --bounding-set=-all \
  --no-new-privs "$@"
"""


@pytest.fixture
def place() -> Iterator[str]:
    """A folder that everybody may enter."""
    folder = mkdtemp(prefix="rdmatrain-doctor-")
    Path(folder).chmod(0o755)
    yield folder
    Path(folder).rmdir()


def as_nobody(place: str, sys_: str, *args: str) -> Ended:
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", HIDE, "sh", sys.base_prefix, sys_, place,
         *RDMATRAIN, "doctor", *args],
        env=environment(PYTHONDONTWRITEBYTECODE="1", HOME="/nonexistent"),
        cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def require_namespaces() -> None:
    tools = all(map(shutil.which, ("unshare", "setpriv")))
    if os.geteuid() or not tools or subprocess.call(["unshare", "-m", "true"]):
        pytest.skip("mount namespaces need root, unshare and setpriv")


@pytest.mark.parametrize("sys_", ["seen", "hidden"])
def test_a_user_without_rights_gets_an_answer_and_no_pass_of_what_is_not_seen(
    place: str, sys_: str
) -> None:
    require_namespaces()
    done = as_nobody(place, sys_, "--json")
    assert done.stderr == "", done.stderr
    found = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert done.returncode == found["exit_code"]
    assert not [each for each in found["checks"] if "is broken" in each["evidence"]]
    if sys_ == "hidden":
        seen = [e for e in found["checks"] if e["group"] in OF_DEVICES and e["verdict"] == "PASS"]
        assert seen == []


def test_a_user_without_rights_who_asks_for_rdma_that_is_not_there_is_not_told_it_passes(
    place: str,
) -> None:
    require_namespaces()
    done = as_nobody(place, "hidden", "--json", "--transport", "verbs")
    found = json.loads(done.stdout)
    rdma = [each for each in found["checks"] if each["group"] in {"devices", "ports"}]
    assert "PASS" not in {each["verdict"] for each in rdma}
    assert done.returncode == found["exit_code"]


# -- what hangs --

HANGS = """
import os, threading
from rdmatrain.discovery import probes as discovery
from rdmatrain.doctor.probes import memory, network, storage
def hang(*_):
    threading.Event().wait()
discovery._live_verbs = discovery._live_nvml = memory.ask_memlock = memory.ask_shm = hang
discovery.HANG_SECONDS = 0.2
network.addresses_of = storage._Save.run = hang
from rdmatrain import cli
cli.main()
"""


def hanging(*args: str | Path) -> Ended:
    """The command where drivers, name servers and disks do not answer."""
    return subprocess.run(
        [sys.executable, "-c", HANGS, *map(str, args)],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_whatever_hangs_the_doctor_answers_in_time(tmp_path: Path) -> None:
    done = hanging("doctor", "--json", "--checkpoint-dir", tmp_path, "--dump", tmp_path / "saved")
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_code"]
    assert found["seconds"] < 30, "2 s, where nothing else is to be done"
    said = {each["id"]: (each["verdict"], each["evidence"]) for each in found["checks"]}
    assert said["shm"] == ("WARN", "shm: no answer within 1.3 s")
    assert said["checkpoint-dir"][0] == "WARN"
    again = document("-F", tmp_path / "saved")
    assert {each["id"]: (each["verdict"], each["evidence"]) for each in again["checks"]} == said


def test_a_driver_that_hangs_does_not_keep_a_job_from_starting(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("print('ran')")
    done = hanging("run", "--preflight", "--nproc-per-node", "1", script)
    assert (done.returncode, done.stdout.endswith("ran\n")) == (0, True), done.stderr
    assert "WARN shm: shm: no answer within" in done.stderr


# -- around a job --

CHECK = """
import rdmatrain.doctor.catalog as catalog
from rdmatrain.doctor.model import Check, Finding, Verdict
def put(*verdicts):
    made = tuple(
        Check(f"check-{n}", "group", "t", "w",
              lambda _, v=v: Finding(v, f"seen {v.value}", "do it"), exit_code=77)
        for n, v in enumerate(verdicts)
    )
    catalog.checks = lambda: made
put({verdicts})
from rdmatrain import cli
cli.main()
"""


def run(tmp_path: Path, verdicts: str, *args: str, body: str = "", **env: str) -> Ended:
    """``rdmatrain run`` where the doctor has checks that say so."""
    script = tmp_path / "worker.py"
    script.write_text(body or "print('ran')")
    named = ", ".join(f"Verdict.{each}" for each in verdicts.split())
    return subprocess.run(
        [sys.executable, "-c", CHECK.replace("{verdicts}", named), "run", *args, str(script)],
        env=environment(**env), cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_a_preflight_that_fails_starts_nothing_and_ends_with_the_checks_code(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, "WARN PASS FAIL", "--preflight")
    assert (done.returncode, done.stdout) == (77, "")
    assert done.stderr.splitlines() == [
        "rdmatrain doctor:",
        "  FAIL check-2: seen FAIL",
        "    fix: do it",
        "  WARN check-0: seen WARN",
        "    fix: do it",
        "Error: nothing was started, as rdmatrain doctor says FAIL check-2: seen FAIL; do this: "
        "do it",
    ]


def test_a_preflight_that_warns_starts_the_job(tmp_path: Path) -> None:
    done = run(tmp_path, "WARN PASS", RDMATRAIN_PREFLIGHT="1")
    assert done.returncode == 0
    assert done.stdout.endswith("ran\n")
    assert done.stderr == "rdmatrain doctor:\n  WARN check-0: seen WARN\n    fix: do it\n"


def test_a_preflight_says_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert run(tmp_path, "PASS SKIP", "--preflight").stderr == ""


def test_without_preflight_nobody_is_asked(tmp_path: Path) -> None:
    done = run(tmp_path, "FAIL")
    assert (done.returncode, done.stderr) == (0, "")


def test_who_only_looks_starts_no_preflight(tmp_path: Path) -> None:
    done = run(tmp_path, "FAIL", "--preflight", "--explain")
    assert (done.returncode, done.stderr) == (0, "")
    assert any(line.split()[:2] == ["preflight", "yes"] for line in done.stdout.splitlines())


@pytest.mark.parametrize("code", [77, 202])
def test_after_a_fault_that_may_be_of_the_pod_the_doctor_says_what_is_wrong(
    tmp_path: Path, code: int
) -> None:
    done = run(tmp_path, "WARN FAIL", body=f"import sys; sys.exit({code})")
    assert done.returncode == code
    assert done.stderr.endswith(
        "rdmatrain doctor:\n  FAIL check-1: seen FAIL\n    fix: do it\n"
        "  WARN check-0: seen WARN\n    fix: do it\n"
    )


def test_after_a_refusal_for_devices_the_doctor_speaks_last(tmp_path: Path) -> None:
    done = run(tmp_path, "FAIL", "--transport", "verbs", RDMATRAIN_DEVICES="none0")
    assert done.returncode == 69
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Error: --transport=verbs, but no RDMA port")
    assert lines[1:] == ["rdmatrain doctor:", "  FAIL check-0: seen FAIL", "    fix: do it"]


def test_the_doctor_is_not_asked_after_a_fault_where_nobody_wants_it(tmp_path: Path) -> None:
    done = run(tmp_path, "FAIL", body="import sys; sys.exit(77)", RDMATRAIN_NO_DOCTOR="1")
    assert done.returncode == 77
    assert "doctor" not in done.stderr


def test_the_doctor_is_not_asked_after_other_ends(tmp_path: Path) -> None:
    done = run(tmp_path, "FAIL", body="import sys; sys.exit(3)")
    assert (done.returncode, "doctor" in done.stderr) == (3, False)


def test_kubernetes_is_told_of_a_preflight_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    write = termination.write
    monkeypatch.setattr(termination, "write", lambda text: write(text, str(log)))
    check = Check("memlock", "g", "t", "w", lambda _: failed("64 KiB", "raise it"), exit_code=77)
    monkeypatch.setattr(around, "checks", lambda: (check,))
    (tmp_path / "t.py").touch()
    given = {"script": str(tmp_path / "t.py"), "preflight": True, "nproc_per_node": "1"}
    told: list[str] = []
    with pytest.raises(SettingError, match="memlock"):
        command.run_job(given, print, lambda it: around.preflight(it.job, told.append, Style()))
    found = json.loads(log.read_text())
    assert (found["exit_code"], found["retryable"]) == (77, False)
    assert "FAIL memlock: 64 KiB; do this: raise it" in found["message"]
    assert told == ["rdmatrain doctor:\n  FAIL memlock: 64 KiB\n    fix: raise it"]
