# SPDX-License-Identifier: Apache-2.0
"""The secret comes from where the user says, whole or not at all, and is never told."""

import hashlib
import hmac
import logging
import os
from pathlib import Path

import pytest

from rdmatrain import config
from rdmatrain.errors import SettingError
from rdmatrain.secret import derive, generate, guessable_key, load_secret

TEXT = "Zecret-of-twenty-bytes"


def file_with(tmp_path: Path, data: bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(data)
    path.chmod(mode)
    return path


def of_file(path: Path, **more: str) -> bytes:
    return load_secret({"RDMATRAIN_SECRET_FILE": str(path), **more})


def test_without_variables_there_is_none() -> None:
    assert load_secret({}) == b""
    assert load_secret({"RDMATRAIN_SECRET": "", "RDMATRAIN_SECRET_FILE": ""}) == b""


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_end_does_not_count(tmp_path: Path, end: str) -> None:
    path = file_with(tmp_path, (TEXT + end).encode())
    assert of_file(path) == TEXT.encode()
    assert load_secret({"RDMATRAIN_SECRET": TEXT + end}) == TEXT.encode()
    assert of_file(path, RDMATRAIN_SECRET=TEXT) == TEXT.encode()


def test_a_binary_secret_comes_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 16
    assert of_file(file_with(tmp_path, data)) == data
    assert of_file(file_with(tmp_path, data + b"\n")) == data


def test_bytes_of_the_environment_that_are_no_text_count() -> None:
    assert load_secret({"RDMATRAIN_SECRET": os.fsdecode(b"\xff" * 16)}) == b"\xff" * 16


@pytest.mark.parametrize("data", [b"", b"\n", b"Z" * 15 + b"\n", b"Z" * 4097, b"Z" * 9999])
def test_a_secret_of_the_wrong_length_is_refused_untold(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SettingError, match=r"RDMATRAIN_SECRET_FILE=.*/dev/urandom") as caught:
        of_file(file_with(tmp_path, data))
    assert "Z" not in str(caught.value)


def test_a_short_text_is_refused_untold() -> None:
    with pytest.raises(SettingError, match="RDMATRAIN_SECRET: the secret has 5 bytes") as caught:
        load_secret({"RDMATRAIN_SECRET": "Zoror"})
    assert "Zoror" not in str(caught.value)


def test_two_that_differ_are_refused(tmp_path: Path) -> None:
    path = file_with(tmp_path, TEXT.encode())
    with pytest.raises(SettingError, match="both set and differ") as caught:
        of_file(path, RDMATRAIN_SECRET=TEXT + "x")
    assert "Zecret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere cannot be read \(No such file"):
        of_file(tmp_path / "nowhere")
    with pytest.raises(SettingError, match="Is a directory"):
        of_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match="is no regular file"):
        of_file(tmp_path / "pipe")
    with pytest.raises(SettingError, match="is no regular file"):
        of_file(Path("/dev/zero"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_of_no_rights_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Permission denied"):
        of_file(file_with(tmp_path, TEXT.encode(), mode=0))


def test_a_file_that_everybody_reads_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = file_with(tmp_path, TEXT.encode(), mode=0o644)
    with caplog.at_level(logging.WARNING):
        assert of_file(path) == TEXT.encode()
    assert "chmod 600" in caplog.text
    assert TEXT not in caplog.text


def test_neither_a_closed_file_nor_a_mounted_secret_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        of_file(file_with(tmp_path, TEXT.encode()))
        path = file_with(tmp_path, TEXT.encode(), mode=0o644)
        (tmp_path / "mounted").symlink_to(path)  # as kubelet does it
        of_file(tmp_path / "mounted")
    assert caplog.text == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_somebody_else_is_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = file_with(tmp_path, TEXT.encode(), mode=0o644)
    os.chown(path, 12345, -1)
    with caplog.at_level(logging.WARNING):
        of_file(path)
    assert caplog.text == ""


def test_each_purpose_has_a_key_of_its_own() -> None:
    secret = TEXT.encode()
    assert derive(secret, "store") == hmac.new(secret, b"rdmatrain store", "sha256").digest()
    keys = {derive(secret, "store"), derive(secret, "channel"), derive(secret + b"x", "store")}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}


def test_what_is_generated_is_new_and_long_enough_to_be_given() -> None:
    assert len({generate() for _ in range(100)}) == 100
    assert bytes.fromhex(generate().decode()) and len(generate()) == 64


def test_the_key_of_a_job_without_a_secret_depends_on_its_name_alone() -> None:
    assert guessable_key("job-1") == hashlib.sha256(b"rdmatrain run job-1").digest()
    assert guessable_key("job-1") != guessable_key("job-2")
    assert len(guessable_key("a\udcff")) == 32


def test_the_variables_are_known() -> None:
    environ = {"RDMATRAIN_SECRET": TEXT, "RDMATRAIN_SECRET_FILE": "/x"}
    assert config.unknown_settings(environ) == []
