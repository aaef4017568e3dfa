"""Windows are the clips of validation of their stretches, and say what they share."""

from __future__ import annotations

import numpy as np
import pytest

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError
from apt_edge.stream.ring import Ring
from apt_edge.stream.windows import Windows, windows_of
from apt_edge.video.sampling import clip_indices

DENSE = ClipSpec()
SEGMENTS = ClipSpec(sampling="segments")


@pytest.mark.parametrize(
    ("spec", "hop", "span"), [(DENSE, 1, None), (DENSE, 17, None), (DENSE, 100, None), (SEGMENTS, 16, 90)]
)
def test_a_ring_gives_every_window_and_no_other(spec, hop, span):
    windows = windows_of(spec, hop, span)
    ring, found = Ring(windows), []
    for number in range(400):
        wanted = ring.wants()
        window = ring.push(np.full(3, number) if wanted else None, number / 30, number / 25)
        if window is not None:
            assert [int(picture[0]) for picture in window.pictures] == list(window.numbers)
            assert (window.numbers[-1], window.captured, window.seconds) == (number, number / 30, number / 25)
            found.append(window.numbers)
        assert len(ring) <= windows.last + 1
    offline = clip_indices(windows.span, spec, None)
    starts = range(0, 400 - windows.last, hop)
    assert found == [tuple((start + offline).tolist()) for start in starts]


def test_no_window_spans_a_gap():
    windows = windows_of(DENSE, 4)
    ring, found = Ring(windows), []
    for number in range(300):
        if number == 150:
            ring.restart()
            assert len(ring) == 0
        found.append(ring.push(np.zeros(1) if ring.wants() else None, 0, 0))
    numbers = [window.numbers for window in found if window is not None]
    assert all(window[-1] < 150 or window[0] >= 150 for window in numbers)
    assert (150 + windows.offsets[0], 150 + windows.last) in [(window[0], window[-1]) for window in numbers]


def test_frames_that_no_window_has_are_not_wanted():
    windows = windows_of(ClipSpec(frames=4, stride=4), 16)
    wanted = [index for index in range(64) if windows.uses(index)]
    assert wanted == sorted({16 * k + offset for k in range(4) for offset in windows.offsets})
    assert len(wanted) == 16


def test_shared_tubelets_are_counted_as_they_are():
    windows = windows_of(DENSE, 17)
    assert windows.reuse(2) == 6 / 8
    assert windows_of(DENSE, 16).reuse(2) == 0
    assert windows_of(DENSE, 1).reuse(2) == 7 / 8
    assert Windows(8, (0, 2, 4, 6), 4).reuse(2) == 1 / 2


def test_the_hop_by_itself_shares_most():
    assert windows_of(DENSE, tubelet=2).hop == 17
    assert windows_of(DENSE).hop == 16
    assert windows_of(ClipSpec(frames=1, stride=1)).hop == 1


@pytest.mark.parametrize(
    ("spec", "hop", "span", "message"),
    [(DENSE, None, 90, "64 frames long"), (SEGMENTS, None, 15, "too short"), (DENSE, 0, None, "one frame apart")],
)
def test_windows_that_make_no_sense_are_refused(spec, hop, span, message):
    with pytest.raises(ConfigError, match=message):
        windows_of(spec, hop, span)
