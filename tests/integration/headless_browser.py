# SPDX-License-Identifier: Apache-2.0
"""A Chromium without a screen, driven over a pipe in the DevTools protocol.

Standard library only. Nothing waits without a limit, and the browser ends with its context.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
TIMEOUT_S = 40.0
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1280,900",
    "--remote-debugging-pipe",
)


class Browser:
    """One page of the browser.

    Attributes:
        errors: texts of errors and warnings of the console, and of exceptions that nobody caught.
        requests: addresses of all that was asked for.

    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._received = b""
        self._calls = 0
        self._session = ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, ready: str) -> None:
        """Open a file, and wait until an expression is true."""
        self.errors.clear()
        self.requests.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait(ready)

    def wait(self, expression: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"not in time: {expression}; {self.errors}"
            time.sleep(0.05)

    def run(self, expression: str) -> Any:
        """Return the value of an expression, as JSON has it; a promise is waited for."""
        done = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def dark(self, on: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def press(self, key: str) -> None:
        """Press and release a key, as Tab or ArrowRight."""
        code = {"Tab": 9, "ArrowRight": 39, "ArrowDown": 40, " ": 32}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._calls:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert select.select([self._from], [], [], TIMEOUT_S)[0], "the browser says nothing"
            more = os.read(self._from, 1 << 20)
            assert more, "the browser is gone"
            self._received += more
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("warning", "error"):
            self.errors.append(str(params["args"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium.

    Args:
        profile: an empty folder.

    """
    assert CHROMIUM
    pipes = [os.pipe(), os.pipe()]
    (for_it, to_browser), (from_browser, by_it) = pipes
    # It reads 3 and writes 4; a shell puts them there, whatever the numbers are now.
    command = f'exec "$0" "$@" 3<&{for_it} 4>&{by_it}'
    process = subprocess.Popen(
        ["bash", "-c", command, CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(for_it, by_it),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(for_it)
    os.close(by_it)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(TIMEOUT_S)
        os.close(to_browser)
        os.close(from_browser)
