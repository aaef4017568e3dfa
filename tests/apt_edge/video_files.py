"""Real videos in which every frame carries its number: bright and dark columns are the bits."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, COLUMN, HEIGHT = 9, 8, 48


def write_video(
    path: Path,
    frames: int = 40,
    gop: int = 12,
    b_frames: int = 2,
    faststart: bool = False,
    codec: str = "libx264",
    times: list[int] | None = None,
    rate: int = 12,
) -> Path:
    """Encode `frames` frames of 72x48 at `rate` fps; `times` sets other presentation times, in frames."""
    flags = {"movflags": "+faststart"} if faststart else {}
    settings = {"g": str(gop), "bf": str(b_frames)} if codec != "libvpx-vp9" else {}
    if codec == "libx264":
        settings |= {"crf": "20", "keyint_min": str(gop), "sc_threshold": "0"}
    with av.open(str(path), "w", options=flags) as container:
        stream = container.add_stream(codec, rate=rate, options=settings)
        stream.width, stream.height, stream.pix_fmt = BITS * COLUMN, HEIGHT, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i), format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def picture(number: int) -> np.ndarray:
    """uint8 [48, 72, 3] that shows `number` in binary, least significant bit left."""
    bits = number >> np.arange(BITS) & 1
    return np.broadcast_to(np.repeat(bits * 255, COLUMN)[None, :, None], (HEIGHT, BITS * COLUMN, 3)).astype(np.uint8)


def numbers(frames: np.ndarray) -> list[int]:
    """The number that each frame [T, 48, 72, 3] shows."""
    columns = frames.reshape(len(frames), HEIGHT, BITS, COLUMN, 3)[:, :, :, 2:-2].mean(axis=(1, 3, 4))
    return [int(n) for n in (columns > 128) @ (1 << np.arange(BITS))]


def write_audio(path: Path) -> Path:
    """A second of silence in the container that `path` names."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        for i in range(16):
            frame.sample_rate, frame.pts = 16000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
