"""Calls that the system may keep for half a minute: names, and disks of other hosts."""

import threading
from collections.abc import Callable

LATE = "no answer within"


def in_time(seconds: float, call: Callable[[], None]) -> str:
    """Call something that writes down what it finds; return why it did not end well, or nothing.

    What does not end in time, which is told with :data:`LATE`, goes on in a thread that nobody
    waits for, also not when this process ends.
    """
    done, problems = threading.Event(), []

    def run() -> None:
        try:
            call()
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        finally:
            done.set()

    threading.Thread(target=run, name="probe", daemon=True).start()
    if not done.wait(seconds):
        return f"{LATE} {seconds:g} s"
    return "".join(problems)
