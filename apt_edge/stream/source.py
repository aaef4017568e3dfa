"""Frames of a source with the times at which they came; a lost one is connected to again.

Shapes: H height, W width.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import av
import numpy as np

from apt_edge.errors import AptEdgeError, VideoError
from apt_edge.stream.clock import Clock
from apt_edge.stream.connect import FROZEN, Connection, connect, kind_of, reason_of_loss, shown
from apt_edge.video.damage import missing_bytes
from apt_edge.video.decoders.packets import TRUSTED_COUNT
from apt_edge.video.decoders.pyav import converter

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a connection is tried again: twice as long each time
JUMP = 1.0  # seconds between two timestamps that are a gap, of sources that send a frame a second or more
STARVED = 30.0  # seconds without a whole frame, although data comes: longer than cameras' keyframes are apart
LONGEST_DOUBLING = 10  # attempts after which the wait is the longest in any case: 2.0**1024 is no number
DRIFT = 2e-4  # seconds a second by which a sender's clock may be slow; crystals keep half of that
RATE = 25.0  # frames a second of a source that tells neither rate nor timestamps
TS_PACKETS = 188, 192  # bytes, in a stream and on a disc
_NO_KEY = object()
MID_FRAME = "it stops in the middle of a frame"


class Frame(NamedTuple):
    """A decoded frame.

    Attributes:
        captured: time at which it was there, by the stream's clock; of live sources that at which it would have come
            if it had been delayed no longer than the quickest one, so that waiting in a socket or a pipe counts.
        seconds: since the stream's beginning; of a file by its timestamps.
        picture: makes the picture, uint8 [H, W, 3], RGB, upright.
    """

    captured: float
    seconds: float
    picture: Callable[[], np.ndarray]


class Notice(NamedTuple):
    """Something that happened to the source: `lost`, `reconnected`, `gap` or `size`, and the facts of it."""

    event: str
    facts: dict[str, Any]


class Source:
    """A file, a camera, a network stream or a pipe.

    Args:
        source: path, address, or `-` for standard input.
        clock: gives the times; when it is stopped the frames end.
        retries: how often in a row a lost source is connected to again.
        fast: take the frames of a file as fast as they decode, not at the speed of its timestamps.

    Attributes:
        rate: frames a second that the source says it has; 0: unknown.
        kind: see `kind_of`.
        patience: seconds without a frame after which it is lost although it says nothing; see `Feed`.

    Raises:
        VideoError: it cannot be opened.
    """

    def __init__(self, source: str, clock: Clock, retries: int, fast: bool = False) -> None:
        self.name, self.kind = shown(source), kind_of(source)
        self._source, self._clock, self._retries, self._fast = source, clock, retries, fast
        self._live = self.kind not in ("file", "stdin")
        self.patience = FROZEN if self.kind == "camera" else math.inf
        self._connection: Connection | None = None
        self.rate = 0.0
        try:
            self._connection = connect(source, self.kind, clock)
            self.rate = float(self._connection.stream.average_rate or self._connection.stream.guessed_rate or 0)
        except VideoError:
            if not clock.stopped:  # while it waited for a writer: no error then
                raise
        self._begun = clock.now()
        self._size = ""
        self._convert: tuple[tuple[int, int, str], Callable[[Any], np.ndarray]] | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def items(self) -> Iterator[Frame | Notice]:
        """Frames as they come, and notices between them.

        Raises:
            VideoError: the source was lost for good.
        """
        lost_at, attempts = None, 0
        while self._connection is not None:
            try:
                for item in self._read(*self._connection[:2]):
                    if lost_at is not None and not (isinstance(item, Notice) and item.event == "gap"):
                        after = round(self._clock.now() - lost_at, 3)
                        yield Notice("reconnected", {"after": after, "attempts": attempts})
                        lost_at, attempts = None, 0
                    if lost_at is None:
                        yield item
                reason = ""
            except _LostError as lost:
                reason = str(lost)
            self.close()
            if self._clock.stopped or not reason:
                return
            if lost_at is None:
                lost_at = self._clock.now()
                yield Notice("lost", {"reason": reason})
            if not self._live:
                raise VideoError(f"{self.name} is lost", found=reason, fix="get an intact copy, or send it again")
            attempts = self._reconnect(attempts, reason)

    def _reconnect(self, attempts: int, reason: str) -> int:
        """Connect again after a pause that grows; returns the attempts so far. No connection: the stream is stopped."""
        while not self._clock.stopped:
            if attempts >= self._retries:
                raise VideoError(
                    f"{self.name} is lost",
                    found=f"{reason}; {attempts} attempts to connect again",
                    fix="see that the sender runs and the line holds; --retries sets how often it is tried",
                )
            self._clock.sleep(min(FIRST_WAIT * 2 ** min(attempts, LONGEST_DOUBLING), LONGEST_WAIT))
            attempts += 1
            try:
                if not self._clock.stopped:
                    self._connection = connect(self._source, self.kind, self._clock)
                    break
            except AptEdgeError as error:
                reason = error.found or error.wrong
        return attempts

    def _read(self, container: Any, stream: Any) -> Iterator[Frame | Notice]:
        """The frames of one connection up to its end; raises _LostError when it breaks."""
        # After damage, and where one joins a stream, nothing before a whole keyframe can be trusted.
        broken, key, packets, first = self._live, _NO_KEY, 0, ""
        times, whole = _Times(container, stream, self.rate or RATE), self._clock.now()
        try:
            for packet in container.demux(stream):
                if self._clock.stopped:
                    return
                if not packet.size and (lacks := self._lacks(container, packets, stream.frames)):
                    raise _LostError(lacks)  # of the frames that the decoder still holds some may be missing between
                packets += 1
                frames, damage = _decode(packet)
                first = first or damage
                if damage:
                    key = _NO_KEY
                elif packet.is_keyframe and key is _NO_KEY:
                    key = packet.pts
                for frame in frames:
                    seconds, came, jump = times.of(frame, self._clock.now())
                    if broken and frame.pts != key:
                        continue  # the decoder held it back from before the damage
                    whole = self._clock.now()
                    if jump and not broken:
                        yield Notice("gap", {"reason": f"timestamps jump by {jump:.3f} s"})
                    broken = False
                    yield from self._frame(frame, seconds, came)
                if damage and not broken:
                    broken = True
                    yield Notice("gap", {"reason": damage})
                if self._live and self._clock.now() - whole > STARVED:
                    raise _LostError(f"no whole frame for {STARVED:g} s")
        except (av.FFmpegError, OSError) as error:
            raise _LostError(reason_of_loss(error)) from None
        if broken and not self._live:
            raise _LostError(MID_FRAME if self._size else f"none of {packets} packets decodes: {first}")

    def _lacks(self, container: Any, packets: int, promised: int) -> str:
        """Why the end of a connection after so many packets is none of the video, empty when it is one."""
        if self._live:
            return "the sender has ended it"
        missing = _missing(self._source, container.format.name, packets, promised) if self.kind == "file" else ""
        return f"it is cut short, {missing}" if missing else ""

    def _frame(self, frame: Any, seconds: float, came: float) -> Iterator[Frame | Notice]:
        """A frame when it is due, and before it the notice that its size is new."""
        if self._live:
            seconds = came - self._begun
        if self.kind == "file" and not self._fast:
            self._clock.sleep(self._begun + seconds - self._clock.now())
        size = f"{frame.width}x{frame.height}"
        if self._size not in ("", size):
            yield Notice("size", {"was": self._size, "now": size})
        self._size = size
        yield Frame(came if self._live else self._clock.now(), seconds, partial(self._picture, frame))

    def _picture(self, frame: Any) -> np.ndarray:
        form = (frame.width, frame.height, frame.format.name)
        if self._convert is None or self._convert[0] != form:
            self._convert = (form, converter(frame))
        return self._convert[1](frame)


class _Times:
    """Times of the frames of one connection.

    Args:
        container, stream: of the connection; what it says of times is not believed where it makes them up.
        rate: frames a second where there are no timestamps.
    """

    def __init__(self, container: Any, stream: Any, rate: float) -> None:
        self._tick, self._step = stream.time_base, 1 / rate
        # AVI stores no presentation times: the demuxer makes them up in decoding order, wrong with B-frames.
        self._none = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
        self._time: float | None = None
        self._zero, self._seconds = 0.0, -self._step
        self._delay, self._asked = math.inf, 0.0

    def of(self, frame: Any, now: float) -> tuple[float, float, float]:
        """Of the next frame: seconds since the first one, when it came, and the jump of its timestamp, 0 if none.

        After a jump seconds go on by one frame: nobody knows how long the jump really took.
        """
        if self._none or frame.pts is None:
            self._seconds += self._step
            return self._seconds, now, 0.0
        time = float(frame.pts * self._tick)
        step = 0.0 if self._time is None else time - self._time
        jump = 0.0 if 0 <= step <= max(JUMP, 5 * self._step) else step
        if jump or self._time is None:
            self._delay, self._zero = math.inf, time - (self._seconds + self._step)
        self._time, self._seconds = time, time - self._zero
        # The least delay stays, but for what the sender's clock may lose: that must not look like a growing delay.
        self._delay = min(self._delay + DRIFT * (now - self._asked), now - time)
        self._asked = now
        return self._seconds, time + self._delay, jump


class _LostError(Exception):
    """A connection broke; the message says why."""


def _missing(path: str, container: str, packets: int, promised: int) -> str:
    """What a file of so many packets lacks, empty when it is whole or its kind does not tell."""
    if TRUSTED_COUNT in container:
        return f"{packets} of {promised} frames are there" if packets < promised else ""
    if container == "mpegts":
        rest = min(os.path.getsize(path) % size for size in TS_PACKETS)
        return f"{rest} bytes of its last packet are there" if rest else ""
    return "" if container == "avi" else missing_bytes(path)  # AVI writers err about their own size


def _decode(packet: Any) -> tuple[list[Any], str]:
    """The whole frames up to the first damaged one, and what the damage is, empty when there is none."""
    try:
        frames = packet.decode()
    except av.FFmpegError as error:
        return [], str(error.strerror or error)
    whole = [frame for frame in frames if not frame.is_corrupt]
    if packet.is_corrupt or len(whole) < len(frames):
        return [], "damaged data"
    return frames, ""
