# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain doctor``: its options, and a saved pod that gets the same answers."""

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import pytest
from click.testing import CliRunner, Result
from doctor_pods import HEALTHY, case_of, healthy
from doctor_variables import with_variables
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pod_scenarios import NAMES, Files, seen

from rdmatrain.cli import _end_beside_hung_probes, cli
from rdmatrain.discovery import deadline
from rdmatrain.discovery.snapshot import Recorder, dump
from rdmatrain.doctor import command, subject
from rdmatrain.doctor.catalog import by_id, checks, every
from rdmatrain.doctor.examine import examine
from rdmatrain.doctor.gang.checks import CHECKS
from rdmatrain.doctor.gang.command import GangOptions
from rdmatrain.doctor.meeting import meeting
from rdmatrain.doctor.model import Case, Check, Finding, Needs, Verdict, failed, passed, warned
from rdmatrain.doctor.model import Result as CheckResult
from rdmatrain.doctor.probes import about
from rdmatrain.doctor.subject import HERE, needs_of, saved_pod
from rdmatrain.errors import SettingError
from rdmatrain.launcher import termination
from rdmatrain.launcher.job import Gang, Job, Program

HAS_MATPLOTLIB = find_spec("matplotlib") is not None
Doctor = Callable[..., Result]
Catalogue = Callable[..., None]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run the command in a healthy pod, which stands for this machine."""

    def this_pod(needs: Needs) -> Case:
        return case_of(Recorder(healthy().source), needs)

    monkeypatch.setattr(subject, "this_pod", this_pod)

    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, ["doctor", *args])

    return run


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Put checks that find what they are told in place of the real ones."""

    def put(**found: Finding | Callable[[Case], Finding]) -> None:
        made = tuple(
            Check(
                name, "group", f"{name} is so", "It matters.",
                (lambda _, each=each: each) if isinstance(each, Finding) else each,
                exit_code=70 + number,
            )
            for number, (name, each) in enumerate(found.items())
        )  # fmt: skip
        for name in ("checks", "every"):
            monkeypatch.setattr(f"rdmatrain.doctor.catalog.{name}", lambda: made)
            monkeypatch.setattr(command, name, lambda: made)

    return put


def ids(done: Result) -> list[str]:
    return [each["id"] for each in json.loads(done.output)["checks"]]


# -- which checks --


def test_the_exit_code_is_that_of_the_first_check_that_fails(
    doctor: Doctor, catalogue: Catalogue
) -> None:
    catalogue(a=passed("x"), b=failed("y", "z"), c=failed("y", "z"))
    assert doctor().exit_code == 71
    assert doctor("--skip", "b").exit_code == 72
    assert doctor("--only", "a").exit_code == 0


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kubelet looks at."""
    path = tmp_path / "termination-log"
    path.touch()
    write = termination.write
    monkeypatch.setattr(termination, "write", lambda text: write(text, str(path)))
    return path


@pytest.mark.parametrize(
    ("pid", "parent", "told"),
    [(1, 0, True), (7, 1, True), (7, 0, False), (7, 6, False)],
    ids=["entrypoint", "of its shell", "kubectl exec", "of a shell there"],
)
def test_only_who_ends_the_container_says_why_it_ended(
    pid: int,
    parent: int,
    told: bool,
    doctor: Doctor,
    catalogue: Catalogue,
    log: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: pid)
    monkeypatch.setattr(os, "getppid", lambda: parent)
    catalogue(b=failed("64 KiB", "raise it"))
    doctor()
    assert bool(log.read_text()) is told


def test_a_failure_is_in_the_pods_status_unless_it_is_of_a_saved_pod(
    doctor: Doctor, catalogue: Catalogue, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "saved.json"
    monkeypatch.setattr(os, "getppid", lambda: 1)
    catalogue(a=warned("slow", "hurry"), b=failed("64 KiB\x1b", "raise it"))
    doctor("--skip", "b", "--dump", str(saved))
    doctor("-F", str(saved))
    assert log.read_text() == ""
    assert doctor("--json").exit_code == 71
    told = json.loads(log.read_text())
    assert told["exit_code"] == 71
    assert r"FAIL b: 64 KiB\x1b; do this: raise it" in told["message"]


def test_a_warning_is_no_failure(doctor: Doctor, catalogue: Catalogue) -> None:
    catalogue(a=warned("x", "y"))
    assert doctor().exit_code == 0
    assert doctor().output.startswith("WARN: ")


def test_only_and_skip_choose_in_the_order_of_causes(doctor: Doctor, catalogue: Catalogue) -> None:
    catalogue(a=passed("x"), b=passed("x"), c=passed("x"))
    assert ids(doctor("--json", "--only", "c", "--only", "a")) == ["a", "c"]
    assert ids(doctor("--json", "--skip", "b")) == ["a", "c"]
    assert ids(doctor("--json", "--only", "c", "--only", "a", "--skip", "a")) == ["c"]


@pytest.mark.parametrize(
    ("args", "of_pod", "of_gang"),
    [
        ("", ["a", "b"], None),
        ("--only gang-ping", [], ["gang-ping"]),
        ("--only a --only gang-ping", ["a"], ["gang-ping"]),
        ("--only b", ["b"], []),
        ("--skip gang-mtu --skip a", ["b"], None),
    ],
)
def test_only_and_skip_choose_of_the_gangs_checks_too(
    args: str,
    of_pod: list[str],
    of_gang: list[str] | None,
    doctor: Doctor,
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalogue(a=passed("x"), b=passed("x"))
    monkeypatch.setattr(command, "named", lambda _: [])
    asked: list[Any] = []

    def run_gang(_: Case, results: list[CheckResult], how: GangOptions, __: object) -> int:
        ids = [each.check.id for each in CHECKS if each.check.id not in how.unasked]
        asked.append(([each.check.id for each in results], ids))
        return 0

    monkeypatch.setattr("rdmatrain.doctor.gang.command.run_gang", run_gang)
    assert doctor("--gang", *args.split()).exit_code == 0
    all_but_mtu = [each.check.id for each in CHECKS if each.check.id not in args.split()]
    assert asked == [(of_pod, all_but_mtu if of_gang is None else of_gang)]


def test_quiet_says_nothing_where_nothing_is_wrong(doctor: Doctor, catalogue: Catalogue) -> None:
    catalogue(a=passed("x"), b=warned("seen", "do"))
    assert doctor("--quiet").output == "WARN b: seen\n  fix: do\n"
    assert doctor("--quiet", "--only", "a").output == ""


def test_needs_reach_the_checks(doctor: Doctor, catalogue: Catalogue) -> None:
    catalogue(a=lambda case: passed(repr(case.needs)))
    told = "--transport tcp --ranks 4 --nodes 64 --leader [fd00::1]:29500 --checkpoint-dir /c "
    told += "--checkpoint-mib 7 --register-mib 9"
    output = doctor("--verbose", "--json", *told.split()).output
    needs = Needs("tcp", 9, 4, 64, "[fd00::1]:29500", "/c", 7)
    assert json.loads(output)["checks"][0]["evidence"] == repr(needs)


# -- how it ends --


def closed() -> TextIO:
    with Path(os.devnull).open("w") as stream:
        return stream


@pytest.mark.parametrize("stdout", [None, closed()], ids=["from the start", "since"])
def test_a_closed_output_does_not_change_the_exit_code_beside_a_probe_that_hangs(
    stdout: TextIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[object] = []
    flushed = io.StringIO()
    monkeypatch.setattr(deadline, "all_ended", lambda **_: False)
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(flushed, "flush", lambda: left.append("stderr"))
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", flushed)
    _end_beside_hung_probes(77)
    assert left == ["stderr", 77]


@pytest.mark.parametrize(("code", "at_once"), [(0, False), (77, False), (143, True), (203, False)])
def test_only_after_a_signal_no_probe_is_waited_for(
    code: int, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(deadline, "all_ended", lambda at_once: asked.append(at_once) or True)
    _end_beside_hung_probes(code)
    assert asked == [at_once]


# -- what it refuses --


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("--explain shn", "there is no check shn: did you mean shm?"),
        ("--only qqqqqq", "there is no check qqqqqq: rdmatrain doctor --list shows all"),
        ("--skip shn", "did you mean shm?"),
        ("--list --only shn", "did you mean shm?"),
        ("--only shm --skip shm", "leave no check"),
        ("--only gang-ping", "leave no check"),
        ("--redact", "--redact is about what --dump saves"),
        ("--markdown", "--markdown is a form of --list"),
        ("--list --markdown --json", "two forms"),
        ("--json --dump -", "cannot go to standard output together"),
        ("--quiet --verbose", "contradict each other"),
        ("--plot x.png", "--plot draws the bandwidths of --gang"),
        ("--gang --plot x.jpg", "ends in .png or .svg"),
        ("--gang --plot /nowhere/x.svg", "/nowhere/x.svg" if HAS_MATPLOTLIB else "pip install"),
        ("--gang -F x", "leave out -F and -f"),
        ("--gang -f x", "leave out -F and -f"),
        ("--gang --dump -", "cannot go to standard output together"),
        ("-f x -F y", "leave out -F and --dump"),
        ("--transport pigeon", "--transport pigeon is not allowed: give one of verbs, shm, tcp"),
        ("--leader node-0", "give HOST:PORT"),
        ("--leader :29500", "give HOST:PORT"),
        ("--leader a:b:c", "give HOST:PORT"),
        ("-F /nowhere", "cannot read /nowhere"),
        ("--dump /nowhere/x", "--dump cannot write /nowhere/x"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(
    args: str, says: str, doctor: Doctor
) -> None:
    done = doctor(*args.split())
    assert done.exit_code == 2
    assert says in done.output
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("rank", "code"), [("0", 2), ("1", 0), ("", 0)], ids=["rank 0", "rank 1", "not known"]
)
def test_only_rank_0_must_be_able_to_draw(
    rank: str, code: int, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    gang = {"PET_NNODES": "2", "PET_NODE_RANK": rank, "PET_MASTER_ADDR": "a"}
    case = with_variables({name: value for name, value in gang.items() if value})
    monkeypatch.setattr(subject, "this_pod", lambda needs: replace(case, needs=needs))
    monkeypatch.setattr("rdmatrain.doctor.gang.command.run_gang", lambda *_: 0)
    more = [] if rank else ["--leader", "a:1"]
    done = CliRunner().invoke(cli, ["doctor", "--gang", "--plot", "/nowhere/x.svg", *more])
    assert done.exit_code == code, done.output
    why = "/nowhere/x.svg" if HAS_MATPLOTLIB else "pip install"
    assert why in done.stderr
    assert ("does not matter unless" in done.stderr) is (code == 0)


@pytest.mark.parametrize("option", ["-F", "--only", "--skip", "--explain", "--dump", "--leader"])
def test_a_name_that_is_empty_is_refused(option: str, doctor: Doctor) -> None:
    done = doctor(option, "")
    assert (done.exit_code, "is empty" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no"),
        ("[]", "no"),
        ('{"schema": "rdmatrain-snapshot/1", "probes": []}', "is damaged"),
        ("\tGPU0\tmlx5_0\nGPU0\t X \tPIX\nmlx5_0\tPIX\t X\n", "describes a machine"),
    ],
    ids=["cut", "list", "damaged", "machine"],
)
def test_a_file_that_is_no_snapshot_is_refused(
    content: str, says: str, doctor: Doctor, tmp_path: Path
) -> None:
    file = tmp_path / "saved.json"
    file.write_text(content)
    done = doctor("-F", str(file))
    assert done.exit_code == 2, done.output
    assert says in done.output


# -- listing and explaining --


def test_every_check_is_listed_and_explained(doctor: Doctor) -> None:
    listed = doctor("--list").output
    known = json.loads(doctor("--list", "--json").output)
    assert [each["id"] for each in known] == [each.id for each in every()]
    assert {each.id for each in checks()} < {each["id"] for each in known}
    for each in every():
        assert f"  {each.id} " in listed
        told = " ".join(doctor("--explain", each.id).output.split())
        assert each.title in told
        assert str(each.exit_code) in told


def test_a_part_of_the_list_can_be_had(doctor: Doctor, catalogue: Catalogue) -> None:
    catalogue(a=passed("x"), b=passed("x"))
    assert doctor("--list", "--skip", "b").output == "group\n  a  a is so\n"


# -- saved pods --


def answers(case: Case) -> list[tuple[str, Verdict, str, str]]:
    found = examine(case, checks())
    return [(e.check.id, e.verdict, e.finding.evidence, e.finding.fix) for e in found]


def verdicts(case: Case) -> list[tuple[str, Verdict]]:
    return [(each.check.id, each.verdict) for each in examine(case, checks())]


def saved(case: Case, redact: bool = False) -> Case:
    """Save what was asked of a case's source, and read it again."""
    assert isinstance(case.source, Recorder)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "saved.json"
        file.write_text(dump(case.source, redact), encoding="utf-8")
        return saved_pod(str(file), Needs())


def recorded(files: Any, probes: dict[str, Any], needs: Needs) -> Case:
    told = {name: answer() for name, answer in about.probes(needs).items()}
    source = Recorder(Files(files, {**probes, **told}))
    source.probe("needs")
    return case_of(source, needs)


SOME_NEEDS = st.builds(
    Needs,
    transport=st.sampled_from(["", "verbs", "tcp"]),
    register_mib=st.integers(1, 1 << 20),
    ranks=st.integers(0, 8),
    nodes=st.sampled_from([0, 1, 64]),
    checkpoint_mib=st.integers(1, 1 << 20),
)


@pytest.mark.parametrize("redact", [False, True], ids=["whole", "redacted"])
@given(st.sampled_from([*NAMES, HEALTHY]), st.randoms(use_true_random=False), SOME_NEEDS)
@settings(max_examples=10, deadline=None, phases=[Phase.generate])  # shrinking is slow
def test_a_saved_pod_gets_the_same_verdicts(
    redact: bool, name: str, random: Any, needs: Needs
) -> None:
    pod = seen(name)
    lost = set(random.sample(sorted(pod.files), random.randrange(4)))
    files = {path: text for path, text in pod.files.items() if path not in lost}
    case = recorded(files, pod.probes, needs)
    before, shown = verdicts(case), answers(case)
    again = saved(case, redact)
    assert again.needs == needs
    assert verdicts(again) == before
    if not redact:
        named = again.found.machine.origin
        found = [(*each[:2], each[2].replace(named, HERE), each[3]) for each in answers(again)]
        assert found == shown


def test_what_the_user_says_of_a_saved_pod_goes_before_what_was_saved() -> None:
    case = recorded({}, {}, Needs(transport="tcp", ranks=4))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "saved.json"
        file.write_text(dump(case.source, False), encoding="utf-8")  # type: ignore[arg-type]
        assert saved_pod(str(file), Needs(transport="verbs")).needs == Needs("verbs", ranks=4)


def test_needs_that_make_no_sense_in_a_snapshot_are_left_out(tmp_path: Path) -> None:
    wrong = {"transport": 1, "ranks": "4", "leader": None, "register_mib": True, "more": 1}
    for needs in (wrong, [], "x", None):
        file = tmp_path / "saved.json"
        content = {"schema": "rdmatrain-snapshot/1", "probes": {"needs": needs, "versions": needs}}
        file.write_text(json.dumps(content))
        assert saved_pod(str(file), Needs()).needs == Needs()


def test_the_command_saves_and_shows_again_what_it_said(doctor: Doctor, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    first = json.loads(doctor("--json", "--dump", str(file)).output)
    again = json.loads(doctor("--json", "-F", str(file)).output)
    assert again["subject"] == str(file)
    for document in (first, again):
        for each in document["checks"]:
            each.pop("seconds")
    assert again["checks"] == first["checks"]
    assert file.stat().st_mode & 0o77 == 0


def test_a_dump_to_standard_output_is_all_that_is_printed(doctor: Doctor) -> None:
    assert json.loads(doctor("--dump", "-").output)["schema"] == "rdmatrain-snapshot/1"


def test_redaction_takes_hosts_and_folders_out_of_what_probes_said() -> None:
    environment = "PET_MASTER_ADDR=anna-gpt-0.anna\0"
    case = recorded(
        {"/proc/self/environ": environment},
        {"dns": {"name": "anna-gpt-0.anna", "addresses": ["10.1.2.3"], "file": "/home/anna/x"},
         "tmp": {"path": "/tmp"}},
        Needs(leader="bruno-7:29500", checkpoint_dir="/scratch/anna/run"),
    )  # fmt: skip
    for name in ("dns", "tmp", "versions"):
        case.source.probe(name)
    text = dump(case.source, True)  # type: ignore[arg-type]
    assert not any(word in text for word in ("anna", "bruno", "10.1.2.3", "scratch"))
    probes = json.loads(text)["probes"]
    assert probes["tmp"] == {"path": "/tmp"}
    assert probes["needs"]["leader"].endswith(":29500")
    assert probes["versions"] == about.probes(Needs())["versions"]()


# -- what a job needs --


NEEDS = Needs(ranks=3, nodes=1, nnodes="1:1", node_rank=0)  # of a job of one node


@pytest.mark.parametrize(
    ("environ", "options", "transport"),
    [
        ({}, {}, ""),
        ({"RDMATRAIN_REQUIRE": "verbs"}, {}, "verbs"),
        ({"RDMATRAIN_TRANSPORT": "tcp"}, {}, "tcp"),
        ({"RDMATRAIN_TRANSPORT": "auto"}, {}, ""),
        ({"RDMATRAIN_TRANSPORT": "nonsense"}, {}, ""),
        ({"RDMATRAIN_REQUIRE": "tcp"}, {"require": "verbs"}, "verbs"),
        ({}, {"transport": "verbs"}, "verbs"),
    ],
)
def test_what_a_job_needs_of_transports_is_what_its_settings_say(
    environ: dict[str, str], options: dict[str, str], transport: str
) -> None:
    job = Job(program=Program(script="t.py"), nproc=3, settings=options)
    assert needs_of(job, environ) == replace(NEEDS, transport=transport)


@pytest.mark.parametrize(
    ("leader", "text"), [("node-0", "node-0:29500"), ("fd00::1", "[fd00::1]:29500")]
)
def test_the_leader_of_a_job_of_several_nodes_is_one_that_can_be_read_again(
    leader: str, text: str
) -> None:
    gang = Gang(min_nodes=2, max_nodes=2, leader=leader, port=29500)
    job = Job(program=Program(script="t.py"), gang=gang)
    assert needs_of(job, {}).leader == text
    assert needs_of(replace(job, gang=replace(gang, max_nodes=1)), {}).leader == ""


@pytest.mark.parametrize(
    ("nproc", "local_world", "nodes"),
    [(8, 0, 64), (1, 8, 8), (8, 8, 64), (1, 128, 1)],
    ids=["launcher", "tasks", "task", "one host"],
)
def test_the_nodes_of_a_job_are_its_hosts(nproc: int, local_world: int, nodes: int) -> None:
    gang = Gang(min_nodes=64, max_nodes=64, leader="a", port=29500)
    job = Job(program=Program(script="t.py"), nproc=nproc, local_world=local_world, gang=gang)
    assert needs_of(job, {}).nodes == nodes


def test_an_elastic_job_needs_what_its_fewest_nodes_need() -> None:
    gang = Gang(min_nodes=1, max_nodes=64, node_rank=None, leader="a", port=29500)
    needs = needs_of(Job(program=Program(script="t.py"), gang=gang), {})
    assert (needs.nodes, needs.nnodes) == (1, "1:64")
    found = case_of(Files({"/proc/self/environ": "A=1\0"})).found
    place = meeting(found.pod, found.identity, needs)
    assert (place.alone, place.leader) == (False, "a")


def test_a_snapshot_without_needs_has_those_of_its_variables(tmp_path: Path) -> None:
    source = Recorder(Files({"/proc/self/environ": "RDMATRAIN_REQUIRE=verbs\0"}))
    case_of(source)
    file = tmp_path / "saved.json"
    file.write_text(dump(source, False))
    assert saved_pod(str(file), Needs()).needs.transport == "verbs"


def test_ids_are_found_by_name() -> None:
    assert [each.id for each in command.choose(("shm",), (), checks())] == ["shm"]
    with pytest.raises(SettingError, match="did you mean shm"):
        command.choose(("smh",), (), checks())
    assert set(by_id()) == {each.id for each in checks()}
