"""The frames of a clip: spans, segments and videos that are too short."""

from __future__ import annotations

import numpy as np
import pytest

from apt_edge.clip import ClipSpec
from apt_edge.errors import VideoError
from apt_edge.video.sampling import clip_indices

DENSE = ClipSpec(frames=8, sampling="dense", stride=4)
SEGMENTS = ClipSpec(frames=8, sampling="segments")


def test_dense_is_centred_without_randomness():
    assert clip_indices(49, DENSE, None).tolist() == [10, 14, 18, 22, 26, 30, 34, 38]


def test_dense_with_randomness_reaches_both_ends_and_keeps_the_stride():
    rng = np.random.default_rng(0)
    clips = np.stack([clip_indices(34, DENSE, rng) for _ in range(200)])
    assert (np.diff(clips, axis=1) == 4).all()
    assert set(clips[:, 0]) == {0, 1, 2, 3, 4, 5}


def test_dense_shrinks_the_stride_then_repeats_the_last_frame():
    assert clip_indices(20, DENSE, None).tolist() == [2, 4, 6, 8, 10, 12, 14, 16]
    assert clip_indices(9, DENSE, None).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert clip_indices(5, DENSE, None).tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert clip_indices(1, DENSE, np.random.default_rng(0)).tolist() == [0] * 8


def test_segments_take_the_middle_of_equal_parts():
    assert clip_indices(80, SEGMENTS, None).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert clip_indices(3, SEGMENTS, None).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_segments_with_randomness_stay_in_their_part_and_fill_it():
    rng = np.random.default_rng(0)
    clips = np.stack([clip_indices(24, SEGMENTS, rng) for _ in range(200)])
    assert (clips // 3 == np.arange(8)).all()
    assert len(np.unique(clips)) == 24


@pytest.mark.parametrize("spec", [DENSE, SEGMENTS, ClipSpec(frames=1), ClipSpec(frames=64, stride=9)])
def test_any_length_gives_ordered_frames_inside_the_video(spec):
    rng = np.random.default_rng(1)
    for frames in (1, 2, 3, 7, 8, 9, 31, 100, 1001):
        for source in (None, rng):
            indices = clip_indices(frames, spec, source)
            assert indices.dtype == np.int64
            assert indices.shape == (spec.frames,)
            assert (np.diff(indices) >= 0).all()
            assert indices.min() >= 0
            assert indices.max() < frames


def test_a_video_without_frames_is_an_error():
    with pytest.raises(VideoError, match="without frames"):
        clip_indices(0, DENSE, None)
