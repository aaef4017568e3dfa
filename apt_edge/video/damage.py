"""Say why a file is no video, in words that lead to the remedy."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from apt_edge.errors import VideoError

REPLACE = "get an intact copy of the file, or leave it out of the list"
MAX_PIXELS = 8192 * 8192  # of one frame; no data set has larger ones, and a damaged header can promise any size
_AGAIN = "copy or download it again, or leave it out of the list"


def refuse_non_video(path: Path) -> None:
    """Raise VideoError for a path that is missing, no regular file, empty, plain text, or that may not be read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a named pipe would wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
            raise VideoError(f"{path} is {kind}", fix="give a video file")
        with path.open("rb") as file:
            head = file.read(1024)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise explain_missing(path, error) from None
    if not head:
        raise VideoError(f"{path} is empty", found="0 bytes", fix=_AGAIN)
    if _is_text(head):
        first = head.decode("utf-8", errors="replace").splitlines()[0][:60]
        raise VideoError(f"{path} is a text file, not a video", found=repr(first), fix=_AGAIN)


def explain_missing(path: Path, error: Exception) -> VideoError:
    """The error for a path that the operating system refused."""
    if not isinstance(error, FileNotFoundError):
        reason = getattr(error, "strerror", None) or str(error)
        return VideoError(f"{path} cannot be opened", found=reason, fix="see that it exists and may be read")
    if path.is_symlink():
        return VideoError(f"{path} is a link to nothing", found=os.readlink(path), fix="restore what it points to")
    return VideoError(
        f"{path} does not exist", fix="check the path; paths in a list file are relative to the list's folder"
    )


def refuse_size(path: str | Path, width: int, height: int) -> None:
    """Raise VideoError for frames of no pixels, or of so many that the header must be wrong."""
    if not 0 < width * height <= MAX_PIXELS:
        raise VideoError(
            f"{path} promises frames of {width}x{height} pixels",
            found=f"the limit is {MAX_PIXELS} pixels, such as 8192x8192",
            fix=f"the header is probably damaged: {REPLACE}; or make the video smaller",
        )


def explain_unreadable(path: Path, reason: str) -> VideoError:
    """The error for a file that the demuxer refused: a lost index is told apart from an unknown format."""
    boxes = _top_level_boxes(path)
    if "ftyp" in boxes and "moov" not in boxes:
        return VideoError(
            f"{path} is cut short: its index (the moov box) is missing, so no frame can be found",
            found=f"{path.stat().st_size} bytes with the boxes {', '.join(boxes)}",
            fix=_AGAIN,
        )
    return VideoError(f"{path} cannot be read as a video", found=reason, fix=_AGAIN)


def missing_bytes(path: str | Path) -> str:
    """How much of a Matroska, WebM or AVI file is missing, by the size that its outermost element promises; "" if none.

    A Matroska size of all ones and an AVI size of 0 mean "unknown": such files were written as they were recorded.
    """
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        head = file.read(4096)
    promised = 0
    if head[:4] == b"RIFF":
        promised = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\x1aE\xdf\xa3":  # EBML: a header element, then the segment that holds the rest
        length, width = _ebml_size(head, 4)
        start = 4 + width + length
        if head[start : start + 4] == b"\x18S\x80g":
            length, width = _ebml_size(head, start + 4)
            promised = 0 if length == (1 << 7 * width) - 1 else start + 4 + width + length
    return f"{size} of {promised} bytes" if size < promised else ""


def _ebml_size(data: bytes, start: int) -> tuple[int, int]:
    """A size of 1 to 8 bytes, and that width: the zeros before the first one bit say how many more bytes follow."""
    width = 9 - data[start].bit_length() if data[start : start + 1].strip(b"\0") else 1
    return int.from_bytes(data[start : start + width], "big") & ((1 << 7 * width) - 1), width


def _is_text(head: bytes) -> bool:
    try:
        text = head[:-3].decode("utf-8") if len(head) == 1024 else head.decode("utf-8")  # -3: a character may be cut
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f\ufeff" for character in text)


def _top_level_boxes(path: Path) -> list[str]:
    """Names of the outermost ISO-BMFF boxes that lie whole in the file; empty for other formats."""
    size, offset = path.stat().st_size, 0
    names: list[str] = []
    with path.open("rb") as file:
        while offset + 8 <= size and len(names) < 64:
            file.seek(offset)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:
                length = size - offset
            name = header[4:8]
            if not name.isalnum() or length < 8:
                break
            if name != b"moov" or offset + length <= size:  # an index that is cut is an index lost
                names.append(name.decode("ascii"))
            offset += length
    return names
