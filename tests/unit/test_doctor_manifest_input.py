# SPDX-License-Identifier: Apache-2.0
"""Manifests of any content: places, errors of one line, and never a traceback."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from doctor_manifests import FIXTURES, JOB, PYTORCH, TRAIN_JOB, VOLCANO, WORKLOADS, changed, read
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain import cli as command_line
from rdmatrain.doctor.manifest.command import examine_manifest, manifest_checks, questions
from rdmatrain.doctor.manifest.define import Question, question
from rdmatrain.doctor.manifest.networks import Networks
from rdmatrain.doctor.manifest.nodes import MAX_DEPTH, MAX_VALUES, Node, documents
from rdmatrain.doctor.manifest.quantity import quantity
from rdmatrain.doctor.model import Finding, Needs, Verdict
from rdmatrain.errors import SettingError

SHARED = Path(__file__).parents[3] / "shared/fixtures"
BASES = [JOB, VOLCANO, PYTORCH, TRAIN_JOB, WORKLOADS]
TREES = [list(yaml.safe_load_all(each)) for each in BASES]
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)


def run(*words: str, stdin: str | bytes = "") -> tuple[int, str]:
    result = CliRunner().invoke(command_line.cli, ["doctor", *words], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def only(text: str) -> Node:
    return next(iter(documents(text, "a.yaml")))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no pod in "),
        ("hello", "there is no pod"),
        ("a: 1\n---\n[1, 2]", "there is no pod"),
        ("kind: Pod\nspec: {containers: []}", "there is no pod"),
        ("kind: Pod\nspec: {containers: [a, 1, [b]]}", "there is no pod"),
        ("kind: ConfigMap\nmetadata: {name: a}\ndata: {a: b}", "nothing has spec.containers"),
        ("a: [", "while parsing a flow node"),
        ("a: b: c", "mapping values are not allowed in this context"),
        ("\tkind: Pod", "found character"),
        ("{{ if .Values.rdma }}\nkind: Pod", "is it a template? Give what it renders to"),
        ("%YAML 9.9\n---\na", "found incompatible YAML document"),
        ("a: *b", "what *b means is not there"),
        ("a: &b [*b]", "what *b means refers to itself"),
        ("[" * 300 + "]" * 300, f"nested deeper than {MAX_DEPTH}"),
        ("[" * 100_000, "exceeded maximum nesting depth"),
        ('{"a":' * 5000, "nest"),
        (BOMB, f"more than {MAX_VALUES} values, with its aliases followed"),
        ("a: " + "x" * (9 << 20), "more than 8388608"),
        ("a\0b: 1", "control characters are not allowed"),
        ("---\n".join(["kind: Pod\nspec: {containers: [{}]}\n"] * 301), "more than 300 templates"),
    ],
)
def test_what_is_no_manifest_is_an_error_of_one_line(text: str, told: str) -> None:
    code, output = run("-f", "-", stdin=text)
    assert code == 2, output
    assert output.startswith("Error: ")
    assert output.count("\n") == 1
    assert told in output
    assert len(output) < 600


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as file:
        file.truncate(100 << 20)
    assert run("-f", str(huge)) == (2, f"Error: {huge} has more than 64 MiB\n")
    code, output = run("-f", str(tmp_path / "none.yaml"))
    assert (code, "cannot read" in output, "No such file" in output) == (2, True, True)
    assert "Errno" not in output
    code, output = run("-f", str(tmp_path))
    assert (code, "cannot read" in output) == (2, True)
    assert run("-f", "") == (2, "Error: -f is empty: give a name, or leave it out\n")
    code, output = run("-f", "-", stdin=b"\xff\xfe\x00\xd8")
    assert code == 2


def test_bytes_of_any_kind() -> None:
    draw = random.Random(10)
    for length in (1, 10, 100, 1000):
        code, output = run("-f", "-", stdin=draw.randbytes(length))
        assert (code, output.count("\n")) == (2, 1)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    for words in (["-F", "a.json"], ["--dump", str(tmp_path / "a")]):
        code, output = run("-f", "-", *words, stdin=JOB)
        assert (code, "leave out -F and --dump" in output) == (2, True)
    code, output = run("-f", "-", "--only", "vf-cuont", stdin=JOB)
    assert (code, "did you mean vf-count?" in output) == (2, True)


def test_a_screen_and_an_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(changed(JOB, ("networks: rdma-vf,rdma-vf", "networks: rdma-vf")), "utf-8")
    code, output = run("-f", str(path))
    assert code == 69
    assert "The cause is vf-count" in output
    assert "metadata.annotations" in output
    assert '"rdma-vf,rdma-vf"' in output
    code, output = run("-f", "-", stdin=JOB)
    assert (code, "nothing is wrong" in output) == (0, True)


@pytest.mark.parametrize("words", [[], ["--quiet"], ["--json"]])
def test_who_judges_the_rest_is_named_where_people_read(words: list[str]) -> None:
    text = changed(JOB, ("readOnlyRootFilesystem: true", "privileged: true"))
    code, output = run("-f", "-", *words, stdin=text)
    assert code == 0, "such a pod may train"
    assert ("rdmatrain k8s check FILE asks more" in output) == (not words)


def test_as_json() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    code, output = run("-f", "-", "--json", stdin=changed(JOB, ("train:1.4", "train")))
    told = json.loads(output)
    schema = json.loads(
        Path(command_line.__file__)
        .with_name("doctor")
        .joinpath("schemas/doctor.schema.json")
        .read_text()
    )
    jsonschema.validate(told, schema)
    assert (code, told["scope"], told["verdict"], told["cause"]) == (
        0,
        "manifest",
        "WARN",
        "image-tag",
    )
    assert told["subject"] == "standard input"
    assert [each["id"] for each in told["checks"]] == [each.id for each in manifest_checks()]


def test_some_checks_only() -> None:
    _, output = run("-f", "-", "--json", "--only", "shm", "--only", "grace", stdin=JOB)
    assert sorted(each["id"] for each in json.loads(output)["checks"]) == ["grace", "shm"]
    _, output = run("-f", "-", "--json", "--skip", "shm", stdin=JOB)
    assert "shm" not in [each["id"] for each in json.loads(output)["checks"]]


def test_static_checks_are_listed_and_explained() -> None:
    assert "gang-minimum" in run("--list", "--json")[1]
    code, output = run("--explain", "gang-minimum")
    assert (code, "kubeflow/trainer#165" in output) == (0, True)


def test_files_belong_together(tmp_path: Path) -> None:
    """A Service in a file of its own, and a runtime, count as if they were in the same."""
    service, rest = JOB.split("---\n", 1)
    (tmp_path / "a.yaml").write_text(service, "utf-8")
    (tmp_path / "b.yaml").write_text(rest, "utf-8")
    chosen = [each for each in manifest_checks() if each.id == "dns-leader"]

    def verdict(*names: str) -> Verdict:
        return examine_manifest([str(tmp_path / n) for n in names], Needs(), chosen)[0].verdict

    assert verdict("b.yaml") is Verdict.SKIP
    assert verdict("b.yaml", "a.yaml") is Verdict.PASS


def test_nodes_know_where_they_are() -> None:
    root = only("kind: Pod\nmetadata: {name: a}\nspec:\n  x.y/z: [{b: c}]\n")
    node = root.get("spec", "x.y/z", 0, "b")
    assert node.place == 'a.yaml:4: Pod a: spec["x.y/z"][0].b'
    missing = root.get("spec", "none", 3, "deep")
    assert (missing.there, missing.text, missing.items(), missing.entries()) == (False, "", [], [])
    assert missing.place == "a.yaml:4: Pod a: spec.none[3].deep"
    assert only('{"kind": "Pod", "a": {"b": 1}}').get("a", "b").place == "a.yaml: Pod: a.b"


def test_long_names_are_cut() -> None:
    root = only(f"? {'k' * 5000}\n: 1\nkind: {'K' * 5000}\n")
    assert len(next(iter(root.children.values())).place) < 300


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1", "number"), ("-1.5", "number"), ("1e3", "number"), ("0x1F", "number"),
        (".5", "number"),
        ("0o17", "number"), ("true", "boolean"), ("Off", "boolean"), ("YES", "boolean"),
        ("'1'", "text"), ('"true"', "text"), ("!!str 1", "text"), ("y", "text"), ("1.2.3", "text"),
        ("1Gi", "text"), ("0000:16:00.0", "base 60"), ("12:30", "base 60"),
        ("0000:1c:00.0", "text"),
        ("0000:16:00.0.", "text"), ("~", "null"), ("", "null"), ("null", "null"), ("[]", "list"),
        ("{}", "map"),
    ],
)  # fmt: skip
def test_what_readers_of_yaml_take_a_scalar_for(text: str, kind: str) -> None:
    assert only(f"a: {text}").get("a").kind == kind


@pytest.mark.parametrize("text", ["0000:16:00.0", "0000:c1:00.0", "0001:05:10.1", "22:30:40"])
def test_base_60_is_what_pyyaml_reads(text: str) -> None:
    is_number = not isinstance(yaml.safe_load(f"a: {text}")["a"], str)
    assert (only(f"a: {text}").get("a").kind == "base 60") == is_number


def test_json_keeps_its_types() -> None:
    root = only('{"a": 1, "b": "1", "c": true, "d": null, "e": 1.5}')
    assert [root.get(key).kind for key in "abcde"] == [
        "number",
        "text",
        "boolean",
        "null",
        "number",
    ]


def test_anchors_and_merged_keys() -> None:
    root = only("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}]}\nd: *a\n")
    assert {key: node.text for key, node in root.get("b").entries()} == {"y": "3", "x": "1"}
    assert {key: node.text for key, node in root.get("c").entries()} == {
        "x": "1",
        "y": "2",
        "z": "4",
    }
    assert root.get("d", "x").path == "d.x"
    assert root.get("b", "x").path == "b.x"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("500m", 0.5), ("1.5", 1.5), ("64Gi", 64 << 30), ("2k", 2000), ("1e3", 1000),
        ("1E3", 1000), ("1E", 10**18), (".5", 0.5), ("-1", -1), ("5.", 5), ("", None), ("x", None),
        ("1 Gi", None), ("1GiB", None), ("0x10", None), ("9" * 50, None), ("1e-2", 0.01),
        ("1e", None),
    ],
)  # fmt: skip
def test_quantities(text: str, value: float | None) -> None:
    assert quantity(only(f"a: '{text}'").get("a")) == (
        None if value is None else pytest.approx(value)
    )


@pytest.mark.parametrize(
    ("annotation", "names", "interfaces"),
    [
        ("a,b", ("a", "b"), ("net1", "net2")),
        ("ns/a@rail0, b", ("ns/a", "b"), ("rail0", "net2")),
        (
            '[{"name": "a", "namespace": "n", "interface": "r"}, {"name": "b"}]',
            ("n/a", "b"),
            ("r", "net2"),
        ),
        ("", (), ()),
        ("a,,b", ("a", "b"), ("net1", "net2")),
    ],
)
def test_networks(annotation: str, names: tuple[str, ...], interfaces: tuple[str, ...]) -> None:
    text = changed(JOB, ("networks: rdma-vf,rdma-vf", f"networks: '{annotation}'"))
    networks = Networks.of(read(text).pods[0])
    assert (networks.names, networks.interfaces) == (names, interfaces)
    assert not networks.unreadable


@pytest.mark.parametrize(
    "annotation", ["a b", "[1]", "[", '[{"name": 1}]', "a/b/c", '["a"]', "[" * 9000]
)
def test_networks_that_cannot_be_read(annotation: str) -> None:
    text = changed(JOB, ("networks: rdma-vf,rdma-vf", f"networks: '{annotation}'"))
    assert Networks.of(read(text).pods[0]).unreadable


def test_a_train_job_and_its_runtime_are_one() -> None:
    (pod,) = read(changed(TRAIN_JOB, ("    numNodes: 4", "    image: other:2"))).pods
    (box,) = pod.containers
    assert (pod.count, pod.whole, pod.kind) == (2, True, "TrainJob")
    assert (box.node.get("image").text, box.gpus, box.vfs) == (
        "other:2",
        2,
        {"nvidia.com/rdma-vf": 2},
    )
    assert box.node.get("image").place == "job.yaml:32: TrainJob llm: spec.trainer.image"


def test_a_train_job_alone_is_half_a_pod() -> None:
    (pod,) = read(TRAIN_JOB.split("---\n")[1]).pods
    assert (pod.whole, pod.count, pod.containers[0].command) == (
        False,
        4,
        ["rdmatrain", "run", "train.py"],
    )


def test_runtimes_are_not_changed_by_the_job_that_uses_them() -> None:
    text = changed(TRAIN_JOB, ("    numNodes: 4", "    resourcesPerNode: {limits: {a.b/c: 1}}"))
    manifest = read(text)
    runtime = manifest.of_kind("ClusterTrainingRuntime")[0]
    (pod,) = manifest.pods
    assert dict(pod.containers[0].resources) == {"a.b/c": pod.containers[0].resources["a.b/c"]}
    assert "nvidia.com/gpu" in [key for each in runtime.walk() for key, _ in each.entries()]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["", "None", "all", "-1", "0", "1" * 40, "1e9999", "[", "{", "rdma-vf", "true", "\x1b[31m",
         "nvidia.com/rdma-vf", "0000:16:00.0", "a=b", "=^=", "$(X)", "/", "--nnodes", "é\u2028"]
    ),
    st.text(max_size=8),
    st.sampled_from([[], {}, [[]], [None], [{}], {"name": []}, {"": None}, ["a"],]),
)  # fmt: skip


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return the holder and key of everything in a tree."""
    found = []
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in list(pairs):
        found += [(tree, key), *places(value)]
    return found


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Return a manifest in which some values were replaced by others of any type."""
    tree = json.loads(json.dumps(draw(st.sampled_from(TREES))))
    for _ in range(draw(st.integers(1, 4))):
        holder, key = draw(st.sampled_from(places(tree)))
        how = draw(st.sampled_from(["junk", "junk", "drop", "swap"]))
        if how == "drop" and isinstance(holder, dict):
            holder.pop(key, None)
        elif how == "swap":
            other, name = draw(st.sampled_from(places(tree)))
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = json.loads(json.dumps(other[name]))
        elif isinstance(holder, dict) or key < len(holder):
            holder[key] = draw(JUNK)
    if draw(st.booleans()):
        return "\n---\n".join(json.dumps(each) for each in tree)
    return yaml.dump_all(tree, Dumper=yaml.CSafeDumper, allow_unicode=True)


def check_all(text: str) -> None:
    """Ask all questions of whatever it is; only errors of one line may come."""
    try:
        manifest = read(text)
    except SettingError as error:
        assert "\n" not in str(error)
        return
    for each in questions() if manifest.pods else ():
        found = each.ask(manifest, Needs())
        assert isinstance(found.verdict, Verdict)
        assert found.evidence
        assert bool(found.fix) == (found.verdict in {Verdict.WARN, Verdict.FAIL}), found
        assert "\x1b" not in found.evidence + found.fix
        assert len(found.evidence) < 5000


@given(mutated())
@settings(max_examples=50)
def test_values_of_any_type_break_nothing(text: str) -> None:
    check_all(text)


@settings(max_examples=50)
@given(st.sampled_from(BASES), st.integers(0, 4000), st.integers(0, 60), st.text(max_size=5))
def test_texts_of_any_kind_break_nothing(base: str, start: int, length: int, text: str) -> None:
    check_all(base[:start] + text + base[start + length :])


def test_a_question_that_breaks_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    @question("broken", "it works", nothing="nothing")
    def broken(_manifest: object, _needs: Needs) -> list[Finding]:
        """Break."""
        raise KeyError("oops")

    assert isinstance(broken, Question)
    monkeypatch.setattr("rdmatrain.doctor.manifest.command.questions", lambda: (broken,))
    (result,) = examine_manifest([str(FIXTURES / "job.yaml")], Needs(), [broken.check])
    assert result.verdict is Verdict.SKIP
    assert "KeyError" in result.finding.evidence


@pytest.mark.skipif(not SHARED.exists(), reason=f"there is no {SHARED}")
def test_files_of_a_cluster_that_have_no_pod() -> None:
    names = ["oci/sriov-network-node-policy.yaml", "manifests/sriov.yaml"]
    slices = [str(each.relative_to(SHARED)) for each in SHARED.glob("k8s/resourceslices/*")]
    for name in [*names, *slices[:3], "k8s/show_gids_samples.txt"]:
        code, output = run("-f", str(SHARED / name))
        assert (code, output.count("\n")) == (2, 1), name
    job = FIXTURES / "job.yaml"
    policy = str(SHARED / names[0])
    output = run("-f", str(job), "-f", policy, "--verbose")[1]
    assert "0000:16:00.0 is a number to the base of 60 for PyYAML" in " ".join(output.split())


REAL = sorted([*SHARED.glob("manifests/*.yaml"), *SHARED.glob("oci/**/*.yaml")])
# What is to be found in those that were published: their own faults, not ours.
KNOWN = {
    "volcano.yaml": {"gang-secret"},
    "trainer.yaml": {"gang-secret", "vf-count", "shm"},
    "core.yaml": set(),
    "jobset_kueue.yaml": {"gang-secret", "identity"},
    "lws_mpi_cosched.yaml": {"gang-secret"},
    "pytorchjob.yaml": {"gang-secret"},
}


@pytest.mark.skipif(not REAL, reason=f"there are no manifests in {SHARED}")
def test_real_manifests() -> None:
    for path in REAL:
        text = path.read_text("utf-8")
        manifest = read(text, path.name)
        if not manifest.pods:
            continue
        found = {each.check.id: each.ask(manifest, Needs()) for each in questions()}
        failures = {name for name, each in found.items() if each.verdict is Verdict.FAIL}
        assert failures == KNOWN.get(path.name, set()), path
        if "kueue-vf" in str(path):  # OCI's own, which train on every shape
            warned = {name for name, each in found.items() if each.verdict is Verdict.WARN}
            assert {"env-gid-index", "privileged", "device-granted"} <= warned
            assert found["vf-count"].verdict is Verdict.PASS
            assert found["queue-covers"].verdict is Verdict.PASS
