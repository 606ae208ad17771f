# SPDX-License-Identifier: Apache-2.0
"""The options of ``rdmatrain run``: torchrun's own parser is the oracle, where it is installed."""

import random
import re
import shlex
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain import config
from rdmatrain.cli import cli
from rdmatrain.errors import SettingError
from rdmatrain.launcher import command, options
from rdmatrain.launcher.options import BY_FIELD, OPTIONS, choose, unknown_option, unknown_variables

# Of torchrun 2.14 and 2.15, which are alike, beside those of 2.13 that the installed one tells.
NEW = {"log-line-prefix-template", "print-completion"}
OWN = {
    "transport", "require", "no-bind", "dry-run", "explain", "join-timeout", "secret-file",
    "tls-dir", "insecure", "grace", "hang-timeout", "preflight",
    "metrics-port", "metrics-addr", "only", "grep",
}  # fmt: skip


@pytest.fixture(scope="module")
def torchrun() -> Any:
    run = pytest.importorskip("torch.distributed.run", reason="torchrun is not installed")
    return run.get_args_parser()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that says what the command line gives to the launcher."""
    seen: list[dict[str, Any]] = []

    def run_job(found: dict[str, Any], *_how: object) -> int:
        seen.append(found)
        return 0

    monkeypatch.setattr(command, "run_job", run_job)

    def parse(*args: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli, ["run", *args])
        assert done.exit_code == 0, done.output
        found = seen.pop()
        return {name: value for name, value in found.items() if value is not None}

    return parse


def test_every_option_of_torchrun_is_there_under_both_names(torchrun: Any) -> None:
    theirs = {
        text[2:]
        for action in torchrun._actions
        for text in action.option_strings
        if text.startswith("--") and text != "--help"
    }
    ours = {name for option in OPTIONS for name in (option.name, option.field)}
    assert theirs - ours == set()
    # And nothing that looks like one of theirs.
    rest = {option.name for option in OPTIONS} - {name.replace("_", "-") for name in theirs}
    assert rest - OWN - NEW == {"exit-barrier-timeout"}


def test_flags_short_forms_and_choices_are_torchruns(torchrun: Any) -> None:
    for action in torchrun._actions:
        option = BY_FIELD.get(action.dest)
        if option is None or action.dest == "help":
            continue
        assert (action.nargs == 0) is (not option.metavar), option.name
        shorts = [text[1:] for text in action.option_strings if re.fullmatch("-[a-z]", text)]
        assert shorts == ([option.short] if option.short else []), option.name
        for choice in action.choices or ():
            assert option.read(choice) == choice


def test_each_option_of_torchrun_is_a_variable_as_well() -> None:
    for option in OPTIONS:
        if option.name in OWN | {"print-completion"}:
            assert not option.variable.startswith("PET_")
        else:
            assert option.variable == f"PET_{option.field.upper()}"
    own = {option.variable for option in OPTIONS if option.variable.startswith("RDMATRAIN_")}
    # The secret itself is never on a command line.
    assert own | {"RDMATRAIN_SECRET"} == set(config.OPTIONS_OF_LAUNCHER)


LINES = [
    "t.py",
    "t.py --nnodes 3 -m --help",
    "t.py -- --x",
    "t.py a -- b",
    "-- t.py --x",
    "--nproc-per-node 2 t.py --nproc-per-node 3",
    "--nproc_per_node=2 -m pkg.t -r 3",
    "-r=3 -t1 t.py -r=1",
    "-mr3 pkg.t",
    "--nnodes=1:4 --rdzv_backend c10d --rdzv-endpoint h:1 --rdzv_id 7 t.py",
    "--standalone --no_python t.py -x=1 --y -- -- z",
    "--tee 0:3,1:1 --log_dir /l --local_ranks_filter 0,1 t.py ''",
    "--node-rank 1 --master_addr h --master-port 29501 t.py --master-port",
    "--tee 1 --tee 2 t.py",
    "--virtual-local-rank --numa_binding node --signals_to_handle SIGUSR1 t.py '' ' '",
]


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_means_what_it_means_to_torchrun(
    line: str, torchrun: Any, parsed: Any
) -> None:
    args = shlex.split(line)
    theirs, ours = vars(torchrun.parse_args(args)), parsed(*args)
    assert ours.pop("script") == theirs["training_script"]
    assert list(ours.pop("script_args")) == theirs["training_script_args"]
    read = {
        name: value if value is True else BY_FIELD[name].read(value) for name, value in ours.items()
    }
    for name, value in read.items():
        assert str(value) == str(theirs[name]) or value == BY_FIELD[name].read(theirs[name])
    # What is not on the command line is what torchrun has for a default.
    for name in set(theirs) - set(read) - {"training_script", "training_script_args"}:
        assert theirs[name] == torchrun.get_default(name)


ANY = {
    "nnodes": "2:3", "nproc-per-node": "auto", "node-rank": "1", "master-addr": "a.b",
    "master-port": "29501", "rdzv-id": "x", "tee": "3", "redirects": "0:1", "log-dir": "/x",
    "module": None, "standalone": None, "grace": "3.5", "role": "t", "max-restarts": "2",
    "signals-to-handle": "SIGTERM", "virtual-local-rank": None, "local-ranks-filter": "0",
}  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    chosen=st.lists(st.sampled_from(sorted(ANY)), unique=True),
    seed=st.integers(0, 1 << 30),
)
def test_order_dashes_and_equal_signs_do_not_matter(chosen: list[str], seed: int) -> None:
    rng = random.Random(seed)

    def line() -> list[str]:
        args = []
        for name in rng.sample(chosen, len(chosen)):
            text = name if rng.random() < 0.5 else name.replace("-", "_")
            value = ANY[name]
            if value is None:
                args += [f"--{text}"]
            else:
                args += [f"--{text}={value}"] if rng.random() < 0.5 else [f"--{text}", value]
        return [*args, "t.py", "--tee", "1"]

    run = cli.commands["run"]  # type: ignore[attr-defined]
    found = [run.make_context("run", line()).params for _ in range(2)]
    assert found[0] == found[1]
    given_names = {name for name, value in found[0].items() if value is not None}
    assert given_names == {*(name.replace("-", "_") for name in chosen), "script", "script_args"}
    assert choose(found[0], {}) == choose(found[1], {})


@pytest.mark.parametrize(
    "text", ["--nproc-per-nod", "--nproc", "--stand", "--rdzv", "--tee_", "-q"]
)
def test_options_are_never_guessed(text: str) -> None:
    done = CliRunner().invoke(cli, ["run", text, "t.py"])
    assert done.exit_code == 2
    assert f"there is no option {text.replace('_', '-')}" in done.output


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("2", True), ("0", False), ("", False), (" ", False)]
)
def test_a_flags_variable_is_a_number(text: str, value: bool) -> None:
    assert choose({}, {"PET_STANDALONE": text})["standalone"].value is value
    assert choose({"standalone": True}, {"PET_STANDALONE": text})["standalone"].value is True


@pytest.mark.parametrize("text", ["true", "yes", "-1", "1.0", "\x1b[31m"])
def test_a_flags_variable_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"PET_MODULE=.* is not allowed: give 1 or 0") as caught:
        choose({}, {"PET_MODULE": text})
    assert str(caught.value).isprintable()


def test_the_command_line_wins_over_a_variable() -> None:
    environ = {"PET_NNODES": "3", "PET_TEE": "2", "PET_RUN_PATH": "", "RDMATRAIN_GRACE": "9"}
    found = choose({"nnodes": "2", "module": True}, environ)
    assert (found["nnodes"].value, found["nnodes"].source) == ((2, 2), "--nnodes")
    assert (found["tee"].value, found["tee"].source) == ("2", "PET_TEE")
    assert (found["grace"].value, found["grace"].source) == (9.0, "RDMATRAIN_GRACE")
    assert found["module"].value is True
    assert (found["run_path"].value, found["run_path"].level) == (False, 0)
    assert found["role"].value is None


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("nnodes", ["0", "2:1", "1:2:3", "x", "-1", "1e3", "99999999", ""]),
        ("nproc-per-node", ["0", "-1", "tpu", "1.5", "9999", ""]),
        ("node-rank", ["-1", "a", ""]),
        ("master-port", ["0", "65536", "-1", "http"]),
        ("master-addr", ["", " ", "a b", "a/b", "a\nb", "x" * 300]),
        ("rdzv-endpoint", ["", ":1", "h:", "h:99999", "a:b:c", "fd00::1", "[::1]x"]),
        ("rdzv-conf", ["a", "a=", "=b", "a=b,,c=d"]),
        ("redirects", ["4", "0:4", "0:3,", "x", ""]),
        ("local-ranks-filter", ["", "a", "0,", "-1"]),
        ("only", ["", "a", "0,", "-1", "1-", "3-1", "0-123456", "0;1"]),
        ("grep", ["", " "]),
        ("signals-to-handle", ["", "TERM", "SIGKILL", "SIGTERM,"]),
        ("max-restarts", ["-1", "1.5", "many"]),
        ("grace", ["-1", "soon", "1e9", "9" * 12]),
        ("start-method", ["thread"]),
        ("numa-binding", ["nodes"]),
        ("role", ["", " "]),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(option: str, bad: list[str]) -> None:
    for text in bad:
        with pytest.raises(SettingError) as caught:
            choose({option.replace("-", "_"): text}, {})
        assert str(caught.value).startswith(f"--{option} ")
        assert " is not allowed: give " in str(caught.value)


def test_values_are_read() -> None:
    read = {name: option.read for name, option in BY_FIELD.items()}
    assert read["nnodes"]("2:4") == (2, 4)
    assert str(read["nnodes"]("2:2")) == "2"
    assert read["rdzv_endpoint"]("[fd00::1]:29500") == ("fd00::1", 29500)
    assert str(read["rdzv_endpoint"]("[fd00::1]:29500")) == "[fd00::1]:29500"
    assert read["rdzv_endpoint"]("head") == ("head", None)
    assert read["master_addr"]("[::1]") == "::1"
    assert read["duplicate_stdout_filters"]("a,,b,c") == ("a,b", "c")
    assert read["rdzv_conf"]("join_timeout=3, timeout = 4") == {"join_timeout": "3", "timeout": "4"}
    assert read["local_ranks_filter"]("3, 1,1") == (1, 3)
    assert read["only"]("12, 3-5,4,0-0") == (0, 3, 4, 5, 12)
    assert read["signals_to_handle"]("SIGTERM, SIGUSR1") == ("SIGTERM", "SIGUSR1")


# What people write, and what they mean.
WRITTEN = """
--nproc-per-nod=--nproc-per-node --nproc_per_nodes=--nproc-per-node --nproc=--nproc-per-node
--nprocs-per-node=--nproc-per-node --num-nodes=--nnodes --nnode=--nnodes --nodes=--nnodes
--node-rnak=--node-rank --noderank=--node-rank --rank=--node-rank --rank-node=--node-rank
--master-adr=--master-addr --master-address=--master-addr --master_prot=--master-port
--mater-port=--master-port --port=--master-port --stand-alone=--standalone
--rdvz-endpoint=--rdzv-endpoint --rdzv-backed=--rdzv-backend --rdzvid=--rdzv-id
--max-restart=--max-restarts --restarts=--max-restarts --start-methd=--start-method
--monitor-intervall=--monitor-interval --log-directory=--log-dir --redirect=--redirects
--local-rank-filter=--local-ranks-filter --numa-bind=--numa-binding --transprot=--transport
--hang-timout=--hang-timeout --signal-to-handle=--signals-to-handle --dryrun=--dry-run
--no-pyton=--no-python --secretfile=--secret-file --expalin=--explain --modul=--module
PET_NNODE=PET_NNODES PET_NPROC_PER_NOD=PET_NPROC_PER_NODE PET_MASTER_ADDRESS=PET_MASTER_ADDR
PET_NODERANK=PET_NODE_RANK PET_MAX_RESTART=PET_MAX_RESTARTS PET_RDZV_ENDPONT=PET_RDZV_ENDPOINT
RDMATRAIN_TRANSPROT=RDMATRAIN_TRANSPORT RDMATRAIN_SECRETFILE=RDMATRAIN_SECRET_FILE
RDMATRAIN_DEVICE=RDMATRAIN_DEVICES RDMATRAIN_GID_INDX=RDMATRAIN_GID_INDEX
RDMATRAIN_REQUIRED=RDMATRAIN_REQUIRE RDMATRAIN_TRAFIC_CLASS=RDMATRAIN_TRAFFIC_CLASS
"""
TYPOS = WRITTEN.split()


def suggestion(name: str) -> str:
    if name.startswith("--"):
        said = unknown_option(name)
    elif name.startswith("PET_"):
        (said,) = unknown_variables({name: "1"})
    else:
        (said,) = map(str, config.unknown_settings({name: "1"}))
    assert name in said
    return said.partition("did you mean ")[2].removesuffix("?")


def test_of_40_misspelt_names_95_in_100_get_the_right_suggestion_first() -> None:
    wrong = {
        name: suggestion(name)
        for name, meant in (pair.split("=") for pair in TYPOS)
        if suggestion(name) != meant
    }
    assert len(TYPOS) >= 40
    assert len(wrong) <= 0.05 * len(TYPOS), wrong


def test_what_resembles_nothing_gets_no_suggestion() -> None:
    assert suggestion("--bogus") == suggestion("PET_XYZZY") == ""


def test_variables_that_kubernetes_makes_of_a_service_are_nobodys_mistake() -> None:
    tcp = ("PORT_29500_TCP", "PORT_29500_TCP_PROTO", "PORT_29500_TCP_ADDR")
    environ = {
        f"{name}_{ending}": "x"
        for name in ("RDMATRAIN", "RDMATRAIN_MASTER", "PET_STORE")
        for ending in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", *tcp)
    }
    assert config.unknown_settings(environ) == []
    assert unknown_variables(environ) == []
    # Without such a service, it is one.
    assert len(unknown_variables({"PET_STORE_PORT": "x"})) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_without_a_script(shell: str) -> None:
    done = CliRunner().invoke(cli, ["run", "--print_completion", shell])
    assert done.exit_code == 0
    assert "_RDMATRAIN_COMPLETE" in done.output


def test_completion_for_another_shell_is_refused() -> None:
    done = CliRunner().invoke(cli, ["run", "--print-completion", "tcsh"])
    assert done.exit_code == 2
    assert "--print-completion tcsh is not allowed: give one of bash, zsh, fish" in done.output


def test_help_is_in_groups_and_names_every_option() -> None:
    done = CliRunner().invoke(cli, ["run", "--help"])
    assert done.exit_code == 0
    at = [done.output.index(f"\n{group}:") for group in options.GROUPS]
    assert at == sorted(at)
    for option in OPTIONS:
        assert f"--{option.name}" in done.output
    assert max(map(len, done.output.splitlines())) <= 80
