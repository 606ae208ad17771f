# SPDX-License-Identifier: Apache-2.0
"""With TLS below the channel nobody reads along, and certificates of both sides are checked."""

import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import make_certificates, openssl
from channel_pairs import SECRET, Two, in_between, run_until, tcp_pair, two_in

from rdmatrain.errors import SettingError
from rdmatrain.launcher.channel import CONTROL, STORE
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.proof import MAX_PAYLOAD
from rdmatrain.launcher.tls import TlsFiles, load_tls

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made by openssl, which is not here"
)
PLAIN = b"what nobody may read"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "job")


@pytest.fixture(scope="module")
def other_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "other")


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def contexts(dialer: Path, listener: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return load_tls(dialer, dialed=True), load_tls(listener, dialed=False)


def refused(loop: Loop, tls: tuple[ssl.SSLContext | None, ssl.SSLContext | None]) -> Two:
    with two_in(loop, tls=tls) as two:
        two.end()
    assert two.by_dialer.opened == two.by_listener.opened == 0
    assert len(two.by_dialer.closed) == len(two.by_listener.closed) == 1
    return two


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_recorder_sees_no_plain_text(loop: Loop, job: Path, encrypted: bool) -> None:
    tls = contexts(job, job) if encrypted else (None, None)
    with in_between(loop) as (socks, between), two_in(loop, socks=socks, tls=tls) as two:
        two.dialer.send(CONTROL, PLAIN)
        two.listener.send(STORE, PLAIN)
        run_until(loop, lambda: bool(two.by_dialer.messages and two.by_listener.messages))
        two.dialer.close(PLAIN.decode())
        two.end()
    assert two.by_listener.closed == [f"the other side closed: {PLAIN.decode()}"]
    for said in between.said:
        for plain in (PLAIN, b"rdmatrain", b"job 1"):
            assert (plain in said) == (not encrypted), "the recorder works if it sees the plain one"
        assert SECRET not in said


def test_much_arrives_in_order_through_a_pause(loop: Loop, job: Path) -> None:
    data = os.urandom(MAX_PAYLOAD)
    with two_in(loop, socks=tcp_pair(), tls=contexts(job, job)) as two:
        two.open()
        two.listener.pause()
        for number in range(8):
            two.dialer.send(number + 1, data)
        run_until(loop, lambda: two.dialer.num_pending_bytes < 8 * MAX_PAYLOAD)
        assert two.by_listener.messages == []
        two.listener.resume()
        run_until(loop, lambda: len(two.by_listener.messages) == 8)
        assert two.by_listener.messages == [(number + 1, data) for number in range(8)]
        two.listener.close("enough")
        two.end()
        assert two.by_dialer.closed == ["the other side closed: enough"]


def test_how_the_stream_is_cut_does_not_matter(loop: Loop, job: Path) -> None:
    with in_between(loop) as (socks, between):
        between.cut = lambda: 1
        with two_in(loop, socks=socks, tls=contexts(job, job)) as two:
            two.dialer.send(CONTROL, PLAIN)
            run_until(loop, lambda: bool(two.by_listener.messages))
            assert two.by_listener.messages == [(CONTROL, PLAIN)]


def test_another_secret_is_refused_although_the_certificates_fit(loop: Loop, job: Path) -> None:
    with two_in(loop, tls=contexts(job, job), secrets=(SECRET, SECRET + b"x")) as two:
        two.end()
    assert "another secret" in two.by_listener.closed[0]
    assert "another secret" in two.by_dialer.closed[0]


def test_certificates_of_another_authority_are_refused(
    loop: Loop, job: Path, other_job: Path
) -> None:
    two = refused(loop, contexts(job, other_job))
    assert two.by_dialer.closed[0].startswith("TLS failed: ")
    assert "certificate" in two.by_dialer.closed[0]
    assert two.by_listener.closed[0].startswith("TLS failed: ")


def test_who_has_no_certificate_is_refused(loop: Loop, job: Path) -> None:
    naked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    naked.check_hostname = False
    naked.load_verify_locations(job / "ca.crt")
    two = refused(loop, (naked, load_tls(job, dialed=False)))
    assert "did not return a certificate" in two.by_listener.closed[0]
    assert "certificate required" in two.by_dialer.closed[0]


def test_an_older_tls_is_refused(loop: Loop, job: Path) -> None:
    old = load_tls(job, dialed=True)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    two = refused(loop, (old, load_tls(job, dialed=False)))
    assert "unsupported protocol" in two.by_listener.closed[0]


def test_only_one_side_with_tls_is_refused_in_either_way(loop: Loop, job: Path) -> None:
    dialer, listener = contexts(job, job)
    two = refused(loop, (dialer, None))
    assert two.by_listener.closed[0].startswith("the other side has TLS, and this side has not")
    two = refused(loop, (None, listener))
    assert two.by_listener.closed[0].startswith("TLS failed: ")
    assert two.by_dialer.closed[0].endswith("or has TLS and this side has not")


def test_changed_bits_are_found_out(loop: Loop, job: Path) -> None:
    tls = contexts(job, job)
    with in_between(loop) as (socks, between), two_in(loop, socks=socks, tls=tls) as two:
        two.open()
        loop.later(0, lambda: two.dialer.send(CONTROL, PLAIN))

        def flip(direction: int, place: int, data: bytes) -> bytes:
            return data if direction else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]

        between.edit = flip
        two.end()
    assert two.by_listener.messages == []
    assert "TLS failed: decryption failed or bad record mac" in two.by_listener.closed[0]


class TestFiles:
    @pytest.fixture
    def folder(self, job: Path, tmp_path: Path) -> Path:
        return shutil.copytree(job, tmp_path / "mounted")

    @pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
    def test_a_missing_one_is_named(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(SettingError, match=f"TLS needs the file .*{name}"):
            load_tls(folder, dialed=True)

    @pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt"])
    @pytest.mark.parametrize("data", [b"", b"garbage"])
    def test_a_bad_one_is_refused(self, folder: Path, name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        with pytest.raises(SettingError, match="cannot be used"):
            load_tls(folder, dialed=False)

    def test_a_key_of_another_certificate(self, folder: Path, other_job: Path) -> None:
        shutil.copy(other_job / "tls.key", folder)
        with pytest.raises(SettingError, match="must be a pair"):
            load_tls(folder, dialed=True)

    def test_a_key_with_a_password_does_not_wait_for_it(self, folder: Path) -> None:
        openssl(folder, "pkcs8 -topk8 -in tls.key -out locked -passout pass:hidden")
        (folder / "locked").replace(folder / "tls.key")
        with pytest.raises(SettingError, match="the key has a password"):
            load_tls(folder, dialed=True)

    def test_they_are_read_again_when_they_change(self, folder: Path, other_job: Path) -> None:
        notes: list[str] = []
        files = TlsFiles(folder, notes.append, dialed=True)
        before = files.context()
        assert files.context() is before
        shutil.copytree(other_job, folder, dirs_exist_ok=True)
        after = files.context()
        (authority,) = after.get_ca_certs(binary_form=True)
        assert ssl.DER_cert_to_PEM_cert(authority) == (other_job / "ca.crt").read_text()
        assert notes == []

    def test_half_of_a_change_leaves_what_was_there(self, folder: Path, other_job: Path) -> None:
        notes: list[str] = []
        files = TlsFiles(folder, notes.append, dialed=False)
        before = files.context()
        shutil.copy(other_job / "tls.key", folder)
        assert files.context() is files.context() is before
        (note,) = notes
        assert "must be a pair" in note
        shutil.copy(other_job / "tls.crt", folder)
        assert files.context() is not before
        (folder / "ca.crt").unlink()
        files.context()
        assert "TLS needs the file" in notes[1]


def test_who_does_not_encrypt_does_not_import_ssl() -> None:
    code = "import sys, rdmatrain.launcher.listener; sys.exit('ssl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
