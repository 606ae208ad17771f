"""Which files a script is made of: itself, and those of its own that it imports, by its text.

Not all that lies below its folder: results lie there as well, and copies of code that one rank has
made, so that a node that comes later would differ. What is imported by a name that is put together
while it runs is not seen, nor what is installed: that is compared as a list of packages.
"""

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

# Together with the limit of a file; who imports more than this is not compared in that.
MAX_FILES = 10_000
MAX_BYTES = 64 << 20
MAX_FILE_BYTES = 16 << 20
MAX_S = 0.2
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([.\w]{1,200})[ \t]+import[ \t]+(\([^)]*\)|[^\n]+)"
    rb"|import[ \t]+([^\n]+))",
    re.MULTILINE,
)
_COMMENT = re.compile(rb"#[^\n]*")
_NAME = re.compile(rb"[\w.]{1,200}")
_STANDARD_LIBRARY = Path(os.__file__).resolve().parent


@dataclass(frozen=True)
class Sources:
    """What was found.

    Attributes:
        digests: by the path of each file, from the script's folder; the script is not among them.
        complete: no limit has cut it short.

    """

    digests: Mapping[str, str]
    complete: bool = True


def read(path: Path) -> bytes:
    """Return a file's bytes; none if it cannot be read, is none, or is too large to be code."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


def digest(data: bytes) -> str:
    """Return a short fingerprint."""
    return f"sha256:{hashlib.sha256(data).hexdigest()[:12]}"


def is_installed(path: Path) -> bool:
    """Tell whether a file is of a package or of the standard library, and not somebody's own."""
    path = path.resolve()
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or path.is_relative_to(
        _STANDARD_LIBRARY
    )


def sources_of(script: Path, roots: Sequence[Path], module: str = "") -> Sources:
    """Find what a script imports of its own, the nearest first.

    Args:
        script: where it begins.
        roots: folders that modules are looked for in.
        module: the script's name, where it is run as a module of a package.

    """
    script = script.absolute()
    if is_installed(script):
        return Sources({})
    end_s, num_bytes = monotonic() + MAX_S, 0
    digests: dict[str, str] = {}
    finder = _Finder([str(root.absolute()) for root in roots if not is_installed(root)])
    todo = deque([str(script), *finder.files(0, "", _parts(module.encode()))])
    finder.seen.add(str(script))
    while todo:
        path = todo.popleft()
        text = read(Path(path))
        num_bytes += len(text)
        if path != str(script):
            digests[os.path.relpath(path, script.parent)] = digest(text)
        for level, parts in _imports(text):
            todo += finder.files(level, path, parts)
        if num_bytes > MAX_BYTES or len(digests) > MAX_FILES or monotonic() > end_s:
            return Sources(digests, complete=False)
    return Sources(digests)


class _Finder:
    """Finds the files that are read where a module is imported: its own, and its packages'."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = roots
        self._asked: set[tuple[str, tuple[str, ...]]] = set()
        self.seen: set[str] = set()

    def files(self, level: int, importer: str, parts: tuple[str, ...]) -> Iterator[str]:
        """Find those that were not found before.

        Args:
            level: leading dots of the name.
            importer: the file that imports it.
            parts: of the name.

        """
        folders = self._roots
        for _ in range(level):
            folders = [importer := str(Path(importer).parent)]
        for folder in folders:
            if (folder, parts) not in self._asked:
                self._asked.add((folder, parts))
                for path in _candidates(folder, parts):
                    # Path.is_file() takes three times as long, and raises for too long a name.
                    if path not in self.seen and os.path.isfile(path):  # noqa: PTH113
                        self.seen.add(path)
                        yield path


def _candidates(folder: str, parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        folder = f"{folder}/{part}"
        yield f"{folder}/__init__.py"
    yield f"{folder}.py" if parts else f"{folder}/__init__.py"


def _imports(text: bytes) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Find what a text imports: leading dots of its name, and the parts of it."""
    for base, names, plain in _IMPORT.findall(_COMMENT.sub(b"", text)):
        level = len(base) - len(base.lstrip(b"."))
        package = _parts(base)
        if base:
            yield level, package
        for name in _NAME.findall(
            names or plain
        ):  # what follows "as" too, and may be a file by chance
            yield level, (*package, *_parts(name))


def _parts(name: bytes) -> tuple[str, ...]:
    return tuple(filter(None, name.decode("ascii").split(".")))
