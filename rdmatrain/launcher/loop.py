"""The launcher's one loop: descriptors and timers, one thread, nothing that blocks."""

import heapq
import itertools
import selectors
import time
from collections.abc import Callable

Callback = Callable[[], None]
_MANY_TIMERS = 1024
_EVENTS = (selectors.EVENT_READ, selectors.EVENT_WRITE)


class Timer:
    """A callback that is still to come."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Make sure that it does not come. Idempotent."""
        self.callback = None


class Loop:
    """Calls back when a descriptor is ready or a time has come. Callbacks must not block.

    Regular files may be watched too: they are always ready.
    """

    def __init__(self) -> None:
        self._selector = selectors.PollSelector()  # unlike epoll it takes regular files
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()
        self._many_timers = _MANY_TIMERS

    def watch(self, fd: int, read: Callback | None = None, write: Callback | None = None) -> None:
        """Call ``read`` when the descriptor can be read, ``write`` when it can be written.

        Replaces what was said of this descriptor before; with neither it is not watched any more.
        """
        events = selectors.EVENT_READ * bool(read) | selectors.EVENT_WRITE * bool(write)
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, (read, write))
        else:
            self._selector.register(fd, events, (read, write))

    def later(self, delay_s: float, callback: Callback) -> Timer:
        """Call back once, after so many seconds of the monotonic clock."""
        timer = Timer(callback)
        if len(self._timers) >= self._many_timers:
            self._drop_cancelled()
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._number), timer))
        return timer

    def run(self, done: Callable[[], bool]) -> None:
        """Call back until ``done()``, which is asked after each callback."""
        while not done():
            self._turn(done)

    def close(self) -> None:
        """Forget everything."""
        self._timers.clear()
        self._selector.close()

    def _turn(self, done: Callable[[], bool]) -> None:
        for key, events in self._selector.select(self._next_timer_s()):
            for event, callback in zip(_EVENTS, key.data, strict=True):
                if events & event and callback and self._is_watched(key.fd, callback):
                    callback()
                    if done():
                        return
        self._call_timers(done)

    def _drop_cancelled(self) -> None:
        """Drop timers that will not come: who is flooded with strangers cancels one for each."""
        self._timers = [entry for entry in self._timers if entry[2].callback is not None]
        heapq.heapify(self._timers)
        self._many_timers = max(_MANY_TIMERS, 2 * len(self._timers))

    def _is_watched(self, fd: int, callback: Callback) -> bool:
        """Whether no callback before it closed the descriptor, or changed what it is for."""
        current = self._selector.get_map().get(fd)
        return current is not None and callback in current.data

    def _call_timers(self, done: Callable[[], bool]) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()
                if done():
                    return

    def _next_timer_s(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
