"""The stream as a video with its labels written into it. Needs Pillow for the letters.

Shapes: H height, W width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from apt_edge.errors import AptEdgeError, ConfigError, MissingDependency
from apt_edge.files import atomic

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
# A keyframe at a time: memory does not grow with the video, and all but the last piece is there if the end is not.
PIECES = {"movflags": "frag_keyframe+empty_moov"}
TICK = Fraction(1, 30_000)  # of timestamps: frames of a camera come when they come; MPEG-4 takes 16 bits
LINE, MARGIN = 1 / 20, 1 / 100  # of the height: of a line of text, and around it


class Annotated:
    """A video file that gets its name when the block ends, however it ends, and is absent when no frame came.

    It never raises from then on: the stream is more than its picture.

    Args:
        path: `.mp4`, `.mov` or `.mkv`.

    Attributes:
        text: what is written into the frames from now on, one task a line; any thread may set it.
        error: why there are no more frames in the file, if they could not be written.

    Raises:
        ConfigError: another kind of file.
        MissingDependency: Pillow is not installed.
        OSError: nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in FORMATS:
            raise ConfigError(
                f"{path} is no kind of video that can be written", fix=f"name it {path.stem}.mp4, .mov or .mkv"
            )
        try:
            import PIL  # noqa: F401
        except ImportError:
            raise MissingDependency(
                "Pillow is not installed, which writes labels into pictures", fix="pip install 'apt-edge[stream]'"
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):  # now, not at the first frame
            pass
        self.text = ""
        self.error: Exception | None = None
        self._begun: dict[str, list[str]] = {}
        self._path, self._closed = path, False
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Annotated:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True  # a decoding thread that hangs may come back
        if self._container is not None:
            try:
                self._finish()
            except Exception as failure:
                self._fail(failure)

    def hear(self, entry: Mapping[str, Any]) -> None:
        """Take an event of `events.py`: `text` is the labels that have begun."""
        if entry["event"] == "begin":
            self._begun = {task: [] for task in entry["tasks"]}
        if entry["event"] == "start":
            self._begun[entry["task"]].append(entry["label"])
        if entry["event"] == "end":
            self._begun[entry["task"]].remove(entry["label"])
        several = len(self._begun) > 1
        named = {task: ", ".join(labels) for task, labels in self._begun.items() if labels}
        self.text = "\n".join(f"{task}: {labels}" if several else labels for task, labels in named.items())

    def write(self, picture_HWC: np.ndarray, seconds: float) -> None:
        """Add a frame, uint8 [H, W, 3]; one of another size is scaled to that of the first."""
        if self.error is None and not self._closed:
            try:
                self._write(picture_HWC, seconds)
            except Exception as error:  # kept, and raised by whoever owns this: the source is not lost
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, av.FFmpegError | OSError):
            found = error.strerror or str(error)
            fix = "give --annotate a place with room; what was written until then is kept"
            error = AptEdgeError(f"{self._path} could not be written to its end", found=found, fix=fix)
        self.error = self.error or error

    def _finish(self) -> None:
        with self._stack:
            try:
                if self.error is None:
                    self._container.mux(self._stream.encode())
            finally:
                self._container.close()

    def _write(self, picture_HWC: np.ndarray, seconds: float) -> None:
        if self._container is None:
            self._open(*picture_HWC.shape[:2])
        size = {"width": self._stream.width, "height": self._stream.height}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC), format="rgb24")
        if (frame.width, frame.height) != (size["width"], size["height"]):
            frame = frame.reformat(**size)
        strip_hWC = _strip(self.text, **size)
        if len(strip_hWC):
            drawn_HWC = frame.to_ndarray()
            drawn_HWC[-len(strip_hWC) :] = strip_hWC
            frame = av.VideoFrame.from_ndarray(drawn_HWC, format="rgb24")
        self._last = max(self._last + 1, round(seconds / TICK))  # timestamps have to grow
        frame.pts, frame.time_base = self._last, TICK
        self._container.mux(self._stream.encode(frame))

    def _open(self, height: int, width: int) -> None:
        path = self._stack.enter_context(atomic(self._path))
        form = FORMATS[self._path.suffix.lower()]
        self._container = av.open(str(path), "w", format=form, options={} if form == "matroska" else PIECES)
        # Builds of FFmpeg that may not have x264 have MPEG-4.
        x264 = "libx264" in av.codecs_available
        options = {"preset": "veryfast", "crf": "23"} if x264 else {"qscale": "4"}
        self._stream = self._container.add_stream("libx264" if x264 else "mpeg4", rate=30, options=options)
        self._stream.width, self._stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)  # colours are halved
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = TICK


@lru_cache(maxsize=1)
def _strip(text: str, width: int, height: int) -> np.ndarray:
    """The text in white on black over the whole width, uint8 [h, W, 3]; empty without a text."""
    from PIL import Image, ImageDraw, ImageFont

    lines = text.splitlines()
    size, margin = max(10, round(LINE * height)), max(2, round(MARGIN * height))
    tall = min(height, len(lines) * (size + margin) + margin) if lines else 0
    image = Image.new("RGB", (width, tall))
    font = ImageFont.load_default(size)
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text((margin, margin + row * (size + margin)), line, fill="white", font=font)
    return np.asarray(image).reshape(tall, width, 3)
