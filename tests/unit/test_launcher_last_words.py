# SPDX-License-Identifier: Apache-2.0
"""Errors and stacks, as workers write them and as the launcher tells them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler, ProcessFailure

import rdmatrain
from rdmatrain.launcher.watch import last_words

ROOT = str(Path(rdmatrain.__file__).parents[1])

WORKER = """
import sys
from pathlib import Path
from rdmatrain.launcher.watch import last_words
last_words.write_errors(Path(sys.argv[1]))
"""


def fails(tmp_path: Path, body: str) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    script, errors = tmp_path / "train.py", tmp_path / "0.error.json"
    script.write_text(WORKER + body)
    done = subprocess.run(
        [sys.executable, str(script), str(errors)],
        env={"PYTHONPATH": ROOT, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return errors, done


def test_an_error_is_one_line_with_the_users_own_line(tmp_path: Path) -> None:
    body = "import json\ndef load():\n    json.loads('{')\nload()\n"
    errors, done = fails(tmp_path, body)
    line = WORKER.count("\n") + 3
    text = errors.read_text()
    assert last_words.short_error(text) == (
        "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 "
        f"(char 1) (train.py:{line})"
    )
    assert last_words.status_of(text) == ""
    assert "JSONDecodeError" in done.stderr  # the hook that was there before has its turn
    assert done.returncode == 1


def test_the_format_is_that_of_torchs_error_files(tmp_path: Path) -> None:
    errors, _ = fails(tmp_path, "{}['x']\n")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(errors))
    assert isinstance(failure.message, dict)
    assert failure.message["message"] == "KeyError: 'x'"
    assert "train.py" in failure.message["extraInfo"]["py_callstack"]
    assert failure.timestamp > 0
    torchs = tmp_path / "torchs.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHELASTIC_ERROR_FILE", str(torchs))
        try:
            raise KeyError("y")
        except KeyError as error:
            ErrorHandler().record_exception(error)
    assert last_words.short_error(torchs.read_text()).startswith(
        "KeyError: 'y' (test_launcher_last_words.py:"
    )


def test_the_status_of_an_error_of_rdmatrain_is_told_through_its_consequences(
    tmp_path: Path,
) -> None:
    body = (
        "from rdmatrain import _core\nfrom rdmatrain.errors import CommError\n"
        "try:\n    raise CommError('rank 1 is gone', 'PEER_LOST')\n"
        "except CommError as error:\n    raise RuntimeError('step 3') from error\n"
    )
    errors, _ = fails(tmp_path, body)
    assert last_words.status_of(errors.read_text()) == "PEER_LOST"
    assert last_words.short_error(errors.read_text()).startswith("RuntimeError: step 3 (train.py:")


@pytest.mark.parametrize("how", ["sys.exit(3)", "raise KeyboardInterrupt", "pass"])
def test_what_is_no_error_is_not_written(tmp_path: Path, how: str) -> None:
    errors, _ = fails(tmp_path, how)
    assert not errors.exists()


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    errors, done = fails(
        tmp_path, "import os\nif os.fork() == 0:\n    raise KeyError('child')\nos.wait()\n"
    )
    assert "child" in done.stderr
    assert not errors.exists()


def test_a_folder_that_is_gone_does_not_hide_the_error(tmp_path: Path) -> None:
    _, done = fails(
        tmp_path,
        "last_words.write_errors(Path('/nowhere/at/all'))\nraise ValueError('the real one')\n",
    )
    assert "ValueError: the real one" in done.stderr
    assert "nowhere/at" not in done.stderr.replace("Path('/nowhere", "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"message": 3}', '{"message": {"message": "x"}}', "null"]
)
def test_junk_says_nothing(text: str) -> None:
    assert last_words.short_error(text) == ""
    assert last_words.status_of(text) == ""


def test_a_plain_message_is_taken_and_a_long_one_cut() -> None:
    assert last_words.short_error('{"message": "a\\nb"}') == "a b"
    assert len(last_words.short_error(json.dumps({"message": "x" * 5000}))) == 300


def test_stacks_have_the_main_thread_first_and_few_lines() -> None:
    frame = '  File "a.py", line {} in f'
    threads = [
        ["Thread 0x0000000000000001 (most recent call first):", frame.format(1), ""],
        ["Current thread 0x0000000000000009 (most recent call first):", frame.format(9), ""],
        ["Thread 0x0000000000000002 (most recent call first):"] + [frame.format(2)] * 60,
    ]
    lines = ["main thread: 0x0000000000000009", *(line for each in threads for line in each)]
    short = last_words.short_stacks("\n".join(lines)).splitlines()
    assert short[:4] == [
        "Main thread (most recent call first):",
        frame.format(9),
        "Thread 0x0000000000000001 (most recent call first):",
        frame.format(1),
    ]
    assert len(short) == last_words.MAX_LINES
    assert short[-1] == "... and 26 more lines"
    assert last_words.short_stacks("") == ""
    assert last_words.short_stacks("main thread: 0x1\n") == ""


def test_stacks_are_refused_when_the_program_has_the_signal(tmp_path: Path) -> None:
    before = signal.signal(last_words.STACKS_SIGNAL, lambda *_: None)
    try:
        with pytest.raises(ValueError, match="has a handler"):
            last_words.offer_stacks(tmp_path / "0.stacks")
    finally:
        signal.signal(last_words.STACKS_SIGNAL, before)


def test_an_error_that_cannot_be_told_has_its_name(tmp_path: Path) -> None:
    body = "class Odd(Exception):\n    def __str__(self):\n        raise TypeError\nraise Odd\n"
    errors, _ = fails(tmp_path, body)
    assert last_words.short_error(errors.read_text()).startswith("Odd (train.py:")
