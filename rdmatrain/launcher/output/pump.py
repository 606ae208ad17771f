"""Moves what workers print to the launcher's output and to files.

Everything runs in the launcher's loop and nothing here blocks: a reader of our output that is slow
or stopped makes the workers wait, as a full pipe would, and never the loop.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from rdmatrain.launcher.job import Output
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.output.files import LogFolder, create
from rdmatrain.launcher.output.lines import (
    LineCutter,
    colored,
    containing,
    encoded,
    marked,
    prefix_text,
)
from rdmatrain.launcher.output.sinks import FileSink, Sink, sink_for
from rdmatrain.launcher.output.streams import Streams, streams_of

_READ_BYTES = 1 << 16
_HIGH_WATER_BYTES = 1 << 20
_MAX_LEFT_BYTES = 1 << 20  # as much as a pipe can hold
_LAST_BYTES = 2000
_NAMES = {Streams.OUT: "stdout", Streams.ERR: "stderr"}


@dataclass(eq=False)
class _Stream:
    """A pipe from a worker, and where its lines go."""

    fd: int
    sink: Sink
    prefix: bytes
    plain_prefix: bytes
    which: Streams
    local_rank: int
    file: FileSink | None = None
    is_shown: bool = True
    cutter: LineCutter = field(default_factory=LineCutter)
    is_read: bool = True


class OutputPump:
    """Forwards the workers' output: whole lines, each behind its rank, none lost or mixed.

    A stream that is only wanted in a file is the file itself, at full speed. To use it::

        pump.begin_round(restart, nproc)
        with pump.worker(rank, local_rank) as (out_fd, err_fd):
            subprocess.Popen(command, stdout=out_fd, stderr=err_fd)

    At the end of a round run the loop until ``num_open_streams`` is 0, or call ``stop_reading`` if
    a process out of reach holds a pipe open. At the end of all, run it until ``num_pending_bytes``
    is 0, or give up on a reader that has stopped, then ``close``.

    Args:
        loop: the launcher's.
        output: where output goes.
        host: this host's name, for prefixes.
        role: torchrun's name for the workers.
        run_id: name of the job, for the folder of files.

    Raises:
        SettingError: the folder for files cannot be made.

    """

    def __init__(
        self, loop: Loop, output: Output, *, host: str, role: str, run_id: str = ""
    ) -> None:
        self._loop = loop
        self._output = output
        self._names = {"host": host, "role": role}
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._grep = [encoded(output.grep, self._encoding)] if output.grep else []
        self._streams: list[_Stream] = []
        self._to_file: list[Streams] = []
        self._shown: list[Streams] = []
        self._only: tuple[int, ...] = ()
        self._filtered: dict[Streams, FileSink] = {}
        self._last: dict[int, bytes] = {}  # of stderr, by local rank
        self._is_closed = False
        self._folder = LogFolder(output.log_dir, run_id) if _wants_files(output) else None
        self._out = sink_for(loop, 1, self.say, self._update)
        # Two queues to one file would tear each other's lines.
        same = os.path.sameopenfile(1, 2)
        self._err = self._out if same else sink_for(loop, 2, self.say, self._update)
        if self._folder is not None and not output.log_dir:
            self.say(f"files of output are in {self._folder.path}")

    @property
    def num_open_streams(self) -> int:
        """Streams whose end has not been seen."""
        return len(self._streams)

    @property
    def num_pending_bytes(self) -> int:
        """Bytes read from workers, or said by the launcher, that are still to be written."""
        pending = self._out.num_pending_bytes
        return pending if self._err is self._out else pending + self._err.num_pending_bytes

    def begin_round(self, restart: int, nproc: int) -> None:
        """Make the files of a round; what is left of the round before is read and ended.

        Args:
            restart: how many faults there were before, torchrun's number of the attempt.
            nproc: workers of this node.

        Raises:
            SettingError: the options of output make no sense.

        """
        self.stop_reading()
        self._close_filtered()
        self._last.clear()
        redirects = streams_of(self._output.redirects, nproc, "--redirects")
        tee = streams_of(self._output.tee, nproc, "--tee")
        only = self._output.only_local or range(nproc)
        self._only = self._output.only
        self._to_file = [Streams.NONE] * nproc
        self._shown = [
            (Streams.ALL & ~redirects[n]) | tee[n] if n in only else Streams.NONE
            for n in range(nproc)
        ]
        if self._folder is None:
            if self._output.log_dir == os.devnull:  # as torchrun: no files, so all is shown
                self._shown = [Streams.ALL if n in only else Streams.NONE for n in range(nproc)]
            return
        try:
            self._folder.begin(restart, nproc)
        except OSError as error:
            self.say(f"no files in {self._folder.path}: {error.strerror}")
            self._shown, self._only = [Streams.ALL] * nproc, ()
            return
        self._to_file = [redirects[n] | tee[n] for n in range(nproc)]
        self._open_filtered()

    @contextlib.contextmanager
    def worker(self, rank: int, local_rank: int) -> Iterator[tuple[int, int]]:
        """Open stdout and stderr for a worker that is started meanwhile; closed at the end.

        Args:
            rank: in the job.
            local_rank: on this node, below ``nproc`` of the round.

        Yields:
            The descriptors to start it with.

        Raises:
            OSError: no descriptor could be opened.

        """
        with contextlib.ExitStack() as given:
            fds = []
            for which in _NAMES:
                fds.append(self._open(which, rank, local_rank))
                given.callback(os.close, fds[-1])
            yield fds[0], fds[1]

    def say(self, message: str) -> None:
        """Write a line of the launcher's own to stderr."""
        self._err.put(encoded(f"rdmatrain run: {message}\n", self._encoding))

    def stop_reading(self) -> None:
        """Read what the workers have written, queue it, unfinished lines too, and read no more."""
        for stream in list(self._streams):
            self._take_all(stream)
            if stream in self._streams:
                self._end(stream)

    def last_line(self, local_rank: int) -> str:
        """Return the last line of a worker on stderr that is not blank; empty if there is none."""
        for stream in list(self._streams):
            if stream.local_rank == local_rank and stream.which is Streams.ERR:
                self._take_all(stream)
        text = self._last.get(local_rank, b"").decode(self._encoding, errors="replace")
        return "".join(each if each.isprintable() else " " for each in text).strip()

    def close(self) -> None:
        """End everything; what is still to be written to a pipe is dropped. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self.stop_reading()
        self._close_filtered()
        self._out.close()
        if self._err is not self._out:
            self._err.close()

    def _open(self, which: Streams, rank: int, local_rank: int) -> int:
        """Return what a worker is to write to: a pipe to the pump, a file, or nothing.

        Of stderr the last line may be told even if it is not shown.
        """
        is_shown = self._is_wanted(which, rank, local_rank)
        file_fd = None
        if which in self._to_file[local_rank]:
            file_fd, name = self._create(which, local_rank)
            if file_fd is None:
                is_shown = True
            elif not is_shown:
                return file_fd
        if not is_shown and which is Streams.OUT:
            return os.open(os.devnull, os.O_WRONLY)
        file = None if file_fd is None else FileSink(file_fd, name, self.say)
        try:
            read_fd, write_fd = os.pipe()
        except OSError:
            if file is not None:
                file.close()
            raise
        os.set_blocking(read_fd, False)
        stream = self._add(read_fd, which, rank, local_rank)
        stream.file, stream.is_shown = file, is_shown
        return write_fd

    def _is_wanted(self, which: Streams, rank: int, local_rank: int) -> bool:
        return which in self._shown[local_rank] and (not self._only or rank in self._only)

    def _create(self, which: Streams, local_rank: int) -> tuple[int | None, str]:
        assert self._folder is not None
        path = self._folder.of_worker(local_rank) / f"{_NAMES[which]}.log"
        try:
            return create(path), str(path)
        except OSError as error:
            self.say(f"{path}: {error.strerror}: the output is shown instead")
            return None, str(path)

    def _add(self, fd: int, which: Streams, rank: int, local_rank: int) -> _Stream:
        sink = self._out if which is Streams.OUT else self._err
        plain = prefix_text(self._output.template, **self._names, rank=rank, local_rank=local_rank)
        shown = colored(plain, rank) if self._output.color and sink.is_terminal else plain
        prefix, plain_prefix = (encoded(text, self._encoding) for text in (shown, plain))
        stream = _Stream(fd, sink, prefix, plain_prefix, which, local_rank)
        self._streams.append(stream)
        self._loop.watch(fd, read=partial(self._read, stream))
        return stream

    def _read(self, stream: _Stream) -> None:
        self._take(stream)

    def _take_all(self, stream: _Stream) -> None:
        """Take what the pipe of a worker holds that has ended, and of another's not for ever."""
        num_left = _MAX_LEFT_BYTES
        while num_left > 0 and stream in self._streams and (num := self._take(stream)):
            num_left -= num

    def _take(self, stream: _Stream) -> int:
        """Take what there is, at most one portion; returns how much it was."""
        try:
            data = os.read(stream.fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            if stream.file is not None:
                stream.file.put(data)
            self._show(stream, stream.cutter.feed(data))
        else:
            self._end(stream)
        self._update()
        return len(data)

    def _show(self, stream: _Stream, lines: bytes) -> None:
        if stream.which is Streams.ERR and (last := lines[-_LAST_BYTES:].rstrip()):
            self._last[stream.local_rank] = last.rpartition(b"\n")[2]
        if not stream.is_shown:
            return
        shown = containing(lines, self._grep) if self._grep else lines
        stream.sink.put(marked(shown, stream.prefix))
        if (filtered := self._filtered.get(stream.which)) is not None:
            kept = containing(lines, self._texts(stream.which))
            filtered.put(marked(kept, stream.plain_prefix))

    def _end(self, stream: _Stream) -> None:
        self._show(stream, stream.cutter.close())
        self._streams.remove(stream)
        self._loop.watch(stream.fd)
        os.close(stream.fd)
        if stream.file is not None:
            stream.file.close()

    def _update(self) -> None:
        """Hold the streams of a sink that is full; end those that nobody reads any more."""
        for stream in [each for each in self._streams if each.is_shown]:
            if stream.sink.is_broken and stream.file is None:
                self._end(stream)  # as without a launcher: the next write of the worker fails
                continue
            may_read = stream.sink.num_pending_bytes < _HIGH_WATER_BYTES
            if stream.is_read != may_read:
                stream.is_read = may_read
                self._loop.watch(stream.fd, read=partial(self._read, stream) if may_read else None)

    def _texts(self, which: Streams) -> list[bytes]:
        is_out = which is Streams.OUT
        texts = self._output.stdout_filters if is_out else self._output.stderr_filters
        return [encoded(text, self._encoding) for text in texts]

    def _open_filtered(self) -> None:
        assert self._folder is not None
        for which, name in _NAMES.items():
            if not self._texts(which):
                continue
            path = self._folder.filtered(name)
            try:
                self._filtered[which] = FileSink(create(path), str(path), self.say)
            except OSError as error:
                self.say(f"{path}: {error.strerror}: no filtered lines")

    def _close_filtered(self) -> None:
        for file in self._filtered.values():
            file.close()
        self._filtered.clear()


def _wants_files(output: Output) -> bool:
    named = output.redirects != "0" or output.tee != "0"
    filtered = bool(output.stdout_filters or output.stderr_filters)
    return output.log_dir != os.devnull and (bool(output.log_dir) or named or filtered)
