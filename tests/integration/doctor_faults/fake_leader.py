# SPDX-License-Identifier: Apache-2.0
"""Holds a port: fake_leader.py PORT READY makes the file READY when it does, and greets callers."""

import socket
import sys
from pathlib import Path

with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    listener.settimeout(60)
    Path(sys.argv[2]).touch()
    while True:
        with listener.accept()[0] as caller:
            caller.sendall(b"220 mail.example ESMTP\r\n")
