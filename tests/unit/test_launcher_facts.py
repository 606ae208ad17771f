# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
import socket
import sys
from importlib import metadata
from pathlib import Path

import pytest
from fake_survey import SURVEY

from rdmatrain import __version__
from rdmatrain.launcher import facts, sources
from rdmatrain.launcher.facts import MUST_AGREE, facts_of
from rdmatrain.launcher.job import Gang, Job, Program
from rdmatrain.launcher.membership import disagreement

PACKAGES = "the installed packages (compare pip freeze, or give all nodes one image)"
TWO = Gang(min_nodes=2, max_nodes=2)


@pytest.fixture(autouse=True)
def much_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_S", 60.0)


def job(script: str = "/nowhere/train.py", **fields: object) -> Job:
    return Job(program=Program(script=script), **{"gang": TWO, **fields})  # type: ignore[arg-type]


def test_a_lone_node_compares_nothing() -> None:
    assert facts_of(job(gang=Gang()), SURVEY).agree == {}


def test_what_is_compared() -> None:
    join = facts_of(job(nproc=3, gang=Gang(min_nodes=2, max_nodes=4, node_rank=1)), SURVEY)
    assert (join.host, join.nproc, join.node_rank) == (socket.gethostname(), 3, 1)
    agree = join.agree
    assert agree["the number of nodes"] == "2 to 4"
    assert agree["torch's version"] == metadata.version("torch")
    assert agree["rdmatrain's version"] == __version__
    assert agree["Python's version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert agree["the number of GPUs"] == str(len(SURVEY.allocation.gpus))
    assert agree["the number of RDMA NICs"] == str(len(SURVEY.allocation.nics))
    assert agree["the MTU of RDMA NICs"] == "4200"
    assert agree["the transport"] == "as by default"
    assert set(agree) == {*MUST_AGREE, "the code", "the code that it imports"}


def test_what_cannot_be_found_out_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_RELEASE", Path("/nowhere"))
    monkeypatch.setattr(sys, "path", [])

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(metadata, "distribution", missing)
    agree = facts_of(job(), None).agree
    unknown = {name for name, value in agree.items() if value == "unknown"}
    assert unknown == {
        "torch's version", "the image (its /etc/os-release)", "the number of GPUs",
        "the number of RDMA NICs", "the MTU of RDMA NICs", "the code", "the code that it imports",
        PACKAGES,
    }  # fmt: skip


def test_the_transport_is_what_options_and_variables_make_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RDMATRAIN_TRAFFIC_CLASS", "106")
    monkeypatch.setenv("RDMATRAIN_ADDR", "10.0.0.1")  # each node has its own
    agree = facts_of(job(settings={"transport": "tcp"}), None).agree
    assert agree["the transport"] == "transport=tcp traffic_class=106"
    monkeypatch.setenv("RDMATRAIN_TRAFFIC_CLASS", "loud")  # the worker says what is wrong
    assert facts_of(job(), None).agree["the transport"] == "unknown"


def test_the_code_is_that_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print(1)\n")
    digest = hashlib.sha256(b"print(1)\n").hexdigest()[:12]
    assert facts_of(job(str(script)), None).agree["the code"] == f"train.py sha256:{digest}"
    script.write_text("print(2)\n")
    assert digest not in facts_of(job(str(script)), None).agree["the code"]


def test_the_code_of_a_module_is_its_file_or_its_main(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "nets"
    package.mkdir()
    (package / "__main__.py").write_text("1")
    (package / "gpt.py").write_text("2")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for module, name in (("nets", "__main__.py"), ("nets.gpt", "gpt.py")):
        its = job()
        program = dataclasses.replace(its.program, script=module, module=True)
        agree = facts_of(dataclasses.replace(its, program=program), None).agree
        assert agree["the code"].startswith(f"{name} sha256:")


@pytest.mark.parametrize("kind", ["folder", "device", "large"])
def test_what_is_no_code_is_not_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10)
    path = {"folder": tmp_path, "device": Path("/dev/zero"), "large": tmp_path / "large"}[kind]
    if kind == "large":
        path.write_bytes(b"x" * 11)
    assert facts_of(job(str(path)), None).agree["the code"] == "unknown"


def test_a_program_of_its_own_has_no_code_to_compare() -> None:
    its = Job(program=Program(script="/bin/true", no_python=True), gang=TWO)
    assert facts_of(its, None).agree["the code"] == "unknown"


def test_packages_beside_torch_are_compared_by_name_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, own, system = (tmp_path / name / "site-packages" for name in ("user", "own", "system"))
    for folder, name in ((user, "jupyter-1"), (own, "torch-2"), (own, "a-8"), (system, "torch-1")):
        (folder / f"{name}.dist-info").mkdir(parents=True)
        (folder / f"{name}.dist-info/METADATA").write_text("Name: any\nVersion: 1\n")
    (own / "~umpy-1.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(user), str(own), str(system)])

    def packages() -> str:
        return facts_of(job(), None).agree[PACKAGES]

    def expected(*names: str) -> str:
        text = " ".join(f"{name}.dist-info" for name in names)
        return f"{len(names)} sha256:{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    assert packages() == expected("a-8", "torch-2")
    (own / "a-8.dist-info").rename(own / "a-9.dist-info")
    assert packages() == expected("a-9", "torch-2")


def test_code_that_is_imported_is_compared_and_named(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("from model import GPT\n")
    (tmp_path / "model.py").write_text("1\n")
    before = facts_of(job(str(tmp_path / "train.py")), None).agree
    (tmp_path / "model.py").write_text("2\n")
    after = facts_of(job(str(tmp_path / "train.py")), None).agree
    assert before["the code"] == after["the code"]
    assert before["the code that it imports"].startswith("1 files sha256:")
    said = disagreement([("a", before), ("b", before), ("c", after)])
    assert said.startswith("the code that it imports differs on c: 1 files sha256:")
    assert "; the code of model.py differs on c: sha256:" in said


def test_who_hits_a_limit_agrees_in_what_is_imported_with_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("import a, b, c\n")
    for name in "abc":
        (tmp_path / f"{name}.py").write_text(name)
    whole = facts_of(job(str(tmp_path / "train.py")), None).agree
    monkeypatch.setattr(sources, "MAX_S", 0)
    part = facts_of(job(str(tmp_path / "train.py")), None).agree
    assert part["the code that it imports"] == "unknown"
    assert part["the code"] == whole["the code"] != "unknown"
    assert disagreement([("a", whole), ("b", part)]) == ""


@pytest.mark.parametrize("path", ["circle", "relative"])
def test_folders_that_are_nowhere_leave_what_is_imported_unknown(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("import a\n")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "circle") if path == "circle" else path)
    agree = facts_of(job(str(tmp_path / "train.py")), None).agree
    assert agree["the code"].startswith("train.py sha256:")
    sees_circles = sys.version_info < (3, 13)  # a later one looks into them, and finds nothing
    assert (agree["the code that it imports"] == "unknown") is (path != "circle" or sees_circles)
