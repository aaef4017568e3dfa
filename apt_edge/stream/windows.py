"""Which frames of a stream make a window: those that make the clip of validation of that stretch of the video.

Shapes: T frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.video.sampling import clip_indices


@dataclass(frozen=True)
class Windows:
    """Windows of one length, one every `hop` frames; frames are counted from the first one without a gap before it.

    Attributes:
        span: frames from the first of a window to its end.
        offsets: [T] of the frames that are used, from the window's first, never decreasing.
        hop: frames from one window to the next.
    """

    span: int
    offsets: tuple[int, ...]
    hop: int

    @property
    def last(self) -> int:
        """Offset of the frame with which a window is complete."""
        return self.offsets[-1]

    def uses(self, index: int) -> bool:
        """Whether any window has this frame."""
        return any(index >= offset and (index - offset) % self.hop == 0 for offset in self.offsets)

    def completes(self, index: int) -> bool:
        """Whether a window is complete with this frame."""
        return index >= self.last and (index - self.last) % self.hop == 0

    def numbers(self, end: int) -> tuple[int, ...]:
        """The T frames of the window that frame `end` completes."""
        return tuple(end - self.last + offset for offset in self.offsets)

    def reuse(self, tubelet: int) -> float:
        """Share of a window's tubelets that are also those of an earlier window, when none is dropped."""
        parts = tubelets(self.offsets, tubelet)
        again = [part for part in parts if any(self._later(part, other) for other in parts)]
        return len(again) / len(parts)

    def _later(self, part: tuple[int, ...], other: tuple[int, ...]) -> bool:
        shifts = {b - a for a, b in zip(part, other, strict=True)}
        return len(shifts) == 1 and min(shifts) > 0 and min(shifts) % self.hop == 0


def tubelets(numbers: tuple[int, ...], tubelet: int) -> list[tuple[int, ...]]:
    """Frame numbers in groups of `tubelet`."""
    return [numbers[start : start + tubelet] for start in range(0, len(numbers), tubelet)]


def windows_of(spec: ClipSpec, hop: int | None = None, span: int | None = None, tubelet: int | None = None) -> Windows:
    """The windows of a model.

    Args:
        spec: the model's clip; `dense` fixes the span.
        hop: frames from window to window. None: from an eighth to a third of the span, where most tubelets of a window
            are those of earlier ones; a quarter without a `tubelet`.
        span: frames of a window of `segments`; `stride` for each frame of the clip when None.
        tubelet: frames that are embedded together, if the runtime can embed them alone.

    Raises:
        ConfigError: a span of `dense`, or one that is too short; a hop below 1.
    """
    if span is not None and spec.sampling == "dense":
        raise ConfigError(
            f"this model's windows are {spec.frames * spec.stride} frames long",
            found=f"a span of {span} frames; it is trained with frames {spec.stride} apart",
            fix="leave --span out",
        )
    span = spec.frames * spec.stride if span is None else span
    if span < spec.frames:
        raise ConfigError(f"a window of {span} frames is too short", fix=f"use {spec.frames} frames or more")
    if hop is not None and hop < 1:
        raise ConfigError("windows are at least one frame apart", found=f"a hop of {hop}", fix="use a hop of 1 or more")
    offsets = tuple(int(index) for index in clip_indices(span, spec, None))
    if hop is None:
        hop = max(1, span // 4) if tubelet is None else _best_hop(span, offsets, tubelet)
    return Windows(span, offsets, hop)


def _best_hop(span: int, offsets: tuple[int, ...], tubelet: int) -> int:
    hops = range(max(1, span // 8), max(1, span // 3) + 1)
    return max(hops, key=lambda hop: (Windows(span, offsets, hop).reuse(tubelet), hop))
