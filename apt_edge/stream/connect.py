"""How a source is opened, by what its name says it is, and why one cannot be."""

from __future__ import annotations

import errno
import math
import os
import re
import select
import stat
from pathlib import Path
from typing import Any, NamedTuple

import av

from apt_edge.errors import AptEdgeError, VideoError
from apt_edge.stream.clock import Clock
from apt_edge.video.damage import explain_missing, explain_unreadable, refuse_non_video, refuse_size
from apt_edge.video.decoders.packets import LIMIT

STDIN = "-"
FROZEN = 10.0  # seconds without a picture: a camera is lost, although FFmpeg waits for it without end
PATIENCE = 5.0  # seconds without a byte: the source is lost
OPENING = 10.0  # seconds until a network source has told what it sends
ANALYSE = {"analyzeduration": "1000000"}  # microseconds of a live stream until its first frame; FFmpeg takes 5 s
STEP = 100  # milliseconds: so soon is a stop seen while a pipe is silent
CAMERA = {
    errno.EBUSY: "another program uses it: close that (fuser -v {source} names it), or choose another camera",
    errno.EACCES: "allow it: sudo usermod -aG video $USER, then log in again",
    errno.ENOENT: "plug it in, or choose one of: ls /dev/video*",
    errno.ENODEV: "plug it in, or choose one of: ls /dev/video*",
    errno.ENOTTY: "this device is no camera: choose one of v4l2-ctl --list-devices",
}


class Connection(NamedTuple):
    """An open source: its container, its video stream, and the pipe to close, if it is one."""

    container: Any
    stream: Any
    pipe: int | None

    def close(self) -> None:
        """Give everything back."""
        self.container.close()
        if self.pipe is not None:
            os.close(self.pipe)


def kind_of(source: str) -> str:
    """`file`, `stdin`, `fifo`, `camera` or `network`."""
    if source == STDIN:
        return "stdin"
    if "://" in source:
        return "network"
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return "camera" if source.startswith("/dev/") else "file"
    return "fifo" if stat.S_ISFIFO(mode) else "camera" if stat.S_ISCHR(mode) else "file"


def shown(source: str) -> str:
    """The source for people and logs: without a name, a password and a token that its address holds."""
    if source == STDIN:
        return "standard input"
    if "://" not in source:
        return source
    # Up to the last @: a password may hold a slash, at which an address would end, and is shown in no case.
    bare = re.sub(r"(?<=://)([^/]*:.*@|[^/]*@)", "", source)
    return re.sub(r"\?.+", "?...", bare)


def connect(source: str, kind: str, clock: Clock) -> Connection:
    """Open a source; a pipe waits for its writer and the first data, whatever that takes.

    Raises:
        VideoError: it cannot be opened, or holds no video; the message says what to do.
    """
    pipe, reader = None, None
    try:
        if kind == "file":
            refuse_non_video(Path(source))
        if kind in ("stdin", "fifo"):
            pipe = os.dup(0) if kind == "stdin" else os.open(source, os.O_RDONLY | os.O_NONBLOCK)
            patience = math.inf if kind == "stdin" else PATIENCE  # whoever pipes into a program may pause
            reader = _Pipe(pipe, clock, patience)
            container = av.open(reader, container_options=ANALYSE, metadata_errors="replace")
        else:
            container = _open(source, kind)
    except VideoError as error:
        raise _of_one(error) from None
    except (av.FFmpegError, OSError, ValueError) as error:  # ValueError: a name with a null character
        if pipe is not None:
            os.close(pipe)
        if reader is not None and not reader.begun:
            found, fix = "0 bytes", "see that the program that writes into it runs and finds its input"
            raise VideoError(f"{shown(source)} is empty", found=found, fix=fix) from None
        raise _explain(source, kind, error) from None
    connection = Connection(container, None, pipe)
    try:
        return connection._replace(stream=_video(container, source, kind))
    except VideoError as error:
        connection.close()
        raise _of_one(error) from None
    except BaseException:
        connection.close()
        raise


def reason_of_loss(error: Exception) -> str:
    """Why a connection broke, in a few words without the source's address."""
    if isinstance(error, av.error.ExitError | TimeoutError):
        return f"no data for {PATIENCE:g} s"
    return str(getattr(error, "strerror", None) or error)


def _open(source: str, kind: str) -> Any:
    if kind == "camera":
        return av.open(source, format="v4l2", timeout=(OPENING, PATIENCE))
    if kind == "file":  # the whole path: what stands before a colon would be taken for a protocol
        return av.open(os.path.abspath(source), metadata_errors="replace")
    # RTP over UDP loses packets on most networks, and a lost packet is a gap in the stream
    options = ANALYSE | ({"rtsp_transport": "tcp"} if source.startswith(("rtsp://", "rtsps://")) else {})
    return av.open(source, container_options=options, timeout=(OPENING, PATIENCE), metadata_errors="replace")


def _video(container: Any, source: str, kind: str) -> Any:
    """The first video stream, ready to decode; raises VideoError."""
    if (name := container.format.name).endswith("_pipe") and kind == "file":  # a video of one frame, to FFmpeg
        found = name.removesuffix("_pipe").upper()
        raise VideoError(f"{shown(source)} is a picture, not a video", found=found, fix="give the video file")
    if kind == "network" and container.duration and source.startswith(("http://", "https://")):
        raise VideoError(
            f"{shown(source)} is a file on a server, not a live video",
            found=f"a length of {container.duration / av.time_base:.0f} s",
            fix="download it and give the file, or pipe it: curl ADDRESS | apt-edge stream MODEL -",
        )
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "no streams"
        raise VideoError(f"{shown(source)} holds no video stream", found=kinds, fix="give a source with video")
    if (codec := streams[0].codec_context) is None:
        raise VideoError(f"{shown(source)} uses a codec that this FFmpeg does not know", fix="send H.264")
    if codec.width and codec.height:
        refuse_size(shown(source), codec.width, codec.height)
    codec.options = {**LIMIT, "err_detect": "explode"}  # a damaged picture is an error, not a guess
    codec.thread_count = 1  # the other cores are the model's
    return streams[0]


def _explain(source: str, kind: str, error: Exception) -> AptEdgeError:
    reason, name = reason_of_loss(error), shown(source)
    if kind == "camera":
        fix = CAMERA.get(getattr(error, "errno", None) or 0, "see that it is a video device: v4l2-ctl --list-devices")
        return VideoError(f"the camera {name} cannot be opened", found=reason, fix=fix.format(source=source))
    if kind == "network":
        if isinstance(error, av.error.ExitError):
            reason = f"no answer within {OPENING:g} s"
        fix = "check address, user and password, and that the sender runs; try it with ffplay"
        return VideoError(f"{name} cannot be opened", found=reason, fix=fix)
    if kind == "file":
        return _of_one(explain_unreadable(Path(source), reason))
    if kind == "fifo" and not os.path.exists(source):
        return _of_one(explain_missing(Path(source), error))
    fix = "send a format that needs no seeking: MPEG-TS, Matroska, or MP4 in fragments"
    return VideoError(f"{name} cannot be read as a video", found=reason, fix=fix)


def _of_one(error: VideoError) -> VideoError:
    """The error with what to do about a single video, where it speaks of lists of them."""
    fix = re.sub(r"[,;] (or leave it out of the list|paths in a list file.*)", "", error.fix or "")
    return VideoError(error.wrong, found=error.found, fix=fix)


class _Pipe:
    """What FFmpeg reads a pipe through: a stop ends it, and so does a writer that is silent for too long.

    Args:
        pipe: file descriptor, which stays the caller's.
        clock: of the stream.
        patience: seconds that one `read` waits; those before the first data wait as long as it takes.

    Attributes:
        begun: there was data.
    """

    def __init__(self, pipe: int, clock: Clock, patience: float) -> None:
        self._pipe, self._clock, self._patience = pipe, clock, patience
        self.begun = False
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end."""
        since = self._clock.now()
        while not self._clock.stopped:
            if self._poll.poll(STEP):
                data = os.read(self._pipe, size)
                self.begun = self.begun or bool(data)
                return data
            if self.begun and self._clock.now() - since > self._patience:
                raise TimeoutError
        return b""
