"""Say why a file is no video, in words that lead to the remedy."""

from __future__ import annotations

from pathlib import Path

from apt_edge.errors import VideoError

_AGAIN = "copy or download it again, or leave it out of the list"


def refuse_non_video(path: Path) -> None:
    """Raise VideoError for a path that is missing, a folder, empty or plain text."""
    if not path.exists():
        raise VideoError(
            f"{path} does not exist", fix="check the path; paths in a list file are relative to the list's folder"
        )
    if path.is_dir():
        raise VideoError(f"{path} is a folder", fix="give a video file")
    with path.open("rb") as file:
        head = file.read(1024)
    if not head:
        raise VideoError(f"{path} is empty", found="0 bytes", fix=_AGAIN)
    if _is_text(head):
        first = head.decode("utf-8", errors="replace").splitlines()[0][:60]
        raise VideoError(f"{path} is a text file, not a video", found=repr(first), fix=_AGAIN)


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
