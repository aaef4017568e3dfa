"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

OLD = "old"


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it is moved into place when the block ends well and removed when not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        if temporary.is_file():  # safetensors and ONNX writers create private files: give them the usual permissions
            temporary.chmod(0o666 & ~_umask())
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # whole after a power cut, too
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary directory; it takes the place of `path` when the block ends well, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        replace_directory(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A name beside `path` that is this process's own; what killed processes left under such names is removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        owner = left.name.removesuffix(".tmp").rpartition(".")[2]
        if owner.isdecimal() and not _alive(int(owner)):
            if f".{OLD}." in left.name and not path.exists():  # killed between taking the old away and placing the new
                os.replace(left, path)
            elif left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def replace_directory(new: Path, path: Path) -> None:
    """Give directory `new` the name `path`; what stood there before is removed once the new one is in place.

    Raises:
        NotADirectoryError: `path` is a file.
    """
    if path.is_file():  # one look: two would see another process's replacement between them
        raise NotADirectoryError(f"{path} is a file, not a directory")
    old = path.with_name(f".{path.name}.{OLD}.{os.getpid()}.tmp")
    while True:
        with suppress(FileNotFoundError):
            os.replace(path, old)
        try:
            os.replace(new, path)
            break
        except OSError as error:  # another process has put its own in place since
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def scratch(path: str | Path) -> Iterator[Path]:
    """Yield an empty directory beside `path` for what is not kept; the next process that writes `path` removes it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = _temporary(path).with_name(f".{path.name}.scratch.{os.getpid()}.tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: str | Path, data: Any) -> None:
    """Write indented JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def as_text(path: str | Path) -> str:
    """A path or name as text that every file and terminal takes: what is no UTF-8 in it is written out, as \\xe9."""
    try:
        name = str(path).encode("utf-8", "surrogateescape")  # the bytes that the file system holds
    except UnicodeEncodeError:  # of a list: no file system has such a name
        name = str(path).encode("utf-8", "surrogatepass")
    return name.decode("utf-8", "backslashreplace")


def sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
