# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, made by openssl: no key is kept in the repository."""

import subprocess
from pathlib import Path

KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256"


def openssl(folder: Path, command: str) -> None:
    subprocess.run(
        ["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=30
    )


def make_certificates(folder: Path) -> Path:
    """Make an authority, and what a node has of it."""
    folder.mkdir()
    openssl(folder, f"req -x509 {KEY} -nodes -keyout ca.key -out ca.crt -subj /CN=job -days 2")
    openssl(folder, f"req -new {KEY} -nodes -keyout tls.key -out tls.csr -subj /CN=node")
    openssl(
        folder, "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -set_serial 7 -days 2 -out tls.crt"
    )
    return folder
