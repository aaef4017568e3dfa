"""The frames of a clip: spans, segments and videos that are too short, as the published rules have them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, VideoError
from apt_edge.video import sampling
from apt_edge.video.sampling import clip_indices
from tests.apt_edge import sampling_oracle as oracle

DENSE = ClipSpec(frames=8, sampling="dense", stride=4)
SEGMENTS = ClipSpec(frames=8, sampling="segments")
DATA_SETS = {  # spec and the clips of its published test
    "kinetics": (ClipSpec(frames=16, sampling="dense", stride=4), 5),
    "ucf101": (ClipSpec(frames=16, sampling="dense", stride=4), 5),
    "hmdb51": (ClipSpec(frames=16, sampling="dense", stride=4), 10),
    "ssv2": (ClipSpec(frames=16, sampling="segments"), 2),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_thousand_lengths_agree_with_the_oracle(name):
    spec, clips = DATA_SETS[name]
    lengths = random.Random(name)
    mine, theirs = np.random.default_rng(5), np.random.default_rng(5)

    def draw(low: int, high: int) -> int:
        return int(theirs.integers(low, high))

    below = 0
    for _ in range(1000):
        length = lengths.randint(1, 80) if lengths.random() < 0.5 else lengths.randint(1, 2000)
        below += length < (64 if spec.sampling == "dense" else 16)
        train = clip_indices(length, spec, mine).tolist()
        val = clip_indices(length, spec, None).tolist()
        test = sampling.test_indices(length, spec, clips).tolist()
        if spec.sampling == "dense":
            assert train == oracle.dense_clip(length, 16, 4, draw), length
            assert val == oracle.dense_clip(length, 16, 4, None), length
            assert test == oracle.dense_test(length, 16, 4, clips), length
        else:
            assert train == oracle.segments_clip(length, 16, draw), length
            assert val == oracle.segments_clip(length, 16, None), length
            assert test == oracle.segments_test(length, 16, clips), length
    assert below > 80  # videos shorter than the clip are among them
    assert mine.integers(2**60) == theirs.integers(2**60)  # and as many numbers were drawn


def test_dense_is_centred_without_randomness():
    assert clip_indices(49, DENSE, None).tolist() == [8, 12, 17, 21, 26, 30, 35, 39]


def test_dense_with_randomness_reaches_every_start():
    rng = np.random.default_rng(0)
    clips = np.stack([clip_indices(38, DENSE, rng) for _ in range(200)])
    assert (clips - clips[:, :1] == [0, 4, 9, 13, 18, 22, 27, 31]).all()
    assert set(clips[:, 0]) == {0, 1, 2, 3, 4, 5}


def test_dense_spreads_over_a_short_video_then_repeats_the_last_frame():
    assert clip_indices(20, DENSE, None).tolist() == [0, 5, 10, 15, 19, 19, 19, 19]
    assert clip_indices(9, DENSE, None).tolist() == [0, 8, 8, 8, 8, 8, 8, 8]
    assert clip_indices(3, DENSE, None).tolist() == [2] * 8
    assert clip_indices(1, DENSE, np.random.default_rng(0)).tolist() == [0] * 8


def test_segments_take_the_middle_of_equal_parts():
    assert clip_indices(80, SEGMENTS, None).tolist() == [5, 15, 25, 35, 45, 55, 65, 75]
    assert clip_indices(3, SEGMENTS, None).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_segments_with_randomness_stay_in_their_part_and_fill_it():
    rng = np.random.default_rng(0)
    clips = np.stack([clip_indices(24, SEGMENTS, rng) for _ in range(200)])
    assert (clips // 3 == np.arange(8)).all()
    assert len(np.unique(clips)) == 24
    assert clip_indices(7, SEGMENTS, rng).tolist() == [0] * 8


@pytest.mark.parametrize("spec", [DENSE, SEGMENTS, ClipSpec(frames=1), ClipSpec(frames=64, stride=9)])
def test_any_length_gives_ordered_frames_inside_the_video(spec):
    rng = np.random.default_rng(1)
    for frames in (1, 2, 3, 7, 8, 9, 31, 100, 1001):
        tests = [sampling.test_indices(frames, spec, clips) for clips in (1, 2)]
        for indices in (clip_indices(frames, spec, None), clip_indices(frames, spec, rng), *np.concatenate(tests)):
            assert indices.dtype == np.int64
            assert indices.shape == (spec.frames,)
            assert (np.diff(indices) >= 0).all()
            assert indices.min() >= 0
            assert indices.max() < frames


def test_test_clips_reach_both_ends_of_a_video():
    first, *_, last = sampling.test_indices(101, DENSE, 5)
    assert first.tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert last.tolist() == [72, 76, 80, 84, 88, 92, 96, 100]


def test_two_clips_of_segments_are_starts_and_middles():
    starts, middles = sampling.test_indices(80, SEGMENTS, 2)
    assert starts.tolist() == [0, 10, 20, 30, 40, 50, 60, 70]
    assert middles.tolist() == clip_indices(80, SEGMENTS, None).tolist()


def test_more_clips_of_segments_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match="starts and middles") as caught:
        sampling.test_indices(80, SEGMENTS, 3)
    assert "2x3" in caught.value.fix


def test_a_video_without_frames_is_an_error():
    for clips in (1, 2):
        with pytest.raises(VideoError, match="without frames"):
            sampling.test_indices(0, DENSE, clips)
