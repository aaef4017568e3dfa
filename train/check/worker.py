"""One process of `train.clips check`: reads jobs from stdin, a JSON line each, and writes an answer a line.

A process of its own, because a damaged file may take the decoder down with it, or keep it for ever. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from apt_edge.errors import AptEdgeError, VideoError, reason_of
from apt_edge.video.decode import frame_range, verify


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Decode a video to its end, count the frames of its segments, hash its bytes.

    Args:
        job: `path`, `decoder`; `decode` and `hash`, whether to; `segments`, pairs of seconds.

    Returns:
        `reason` of a bad file, or `frames`, `width`, `height`, `fps` and `segments`: for each a count of frames or a
        reason; `sha256` where asked for and readable.
    """
    path = Path(job["path"])
    found: dict[str, Any] = {}
    if job["hash"]:
        with suppress(OSError):  # decoding says what is wrong with it
            found["sha256"] = _sha256(path)
    if not job["decode"]:
        return found
    try:
        info = verify(path, job["decoder"])
    except (VideoError, OSError) as error:
        return found | {"reason": reason_of(error, path)}
    segments = [_segment(path, start, end, job["decoder"]) for start, end in job["segments"]]
    size = {"frames": info.frames, "width": info.width, "height": info.height, "fps": info.fps}
    return found | size | {"segments": segments}


def _segment(path: Path, start: float | None, end: float | None, decoder: str) -> int | str:
    try:
        return frame_range(path, start, end, decoder)[1]
    except (VideoError, OSError) as error:
        return reason_of(error, path)


def _sha256(path: Path) -> str:
    """Of a file, or of a folder's files in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():  # reading a named pipe would wait for ever
            with file.open("rb") as data:
                while block := data.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def main() -> None:
    """Answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, once
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what decoders print must not come between
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except AptEdgeError as error:  # of the installation, not of the file
            found = {"fatal": [error.wrong, error.found, error.fix]}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
