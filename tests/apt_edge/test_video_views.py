"""Several views of a video: where the crops lie, which frames the clips have, one clip in memory at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, VideoError
from apt_edge.video import sampling
from apt_edge.video.decode import DECODERS, read_frames
from apt_edge.video.lists import Item
from apt_edge.video.load import load_frames, sample_frames, span
from apt_edge.video.preprocess import resize, short_side_crop
from apt_edge.video.views import Views, crops_of, load_views
from tests.apt_edge.video_files import numbers, write_video

SPEC = ClipSpec(frames=4, size=48, sampling="dense", stride=2)


def test_views_are_written_as_clips_times_crops():
    assert Views.parse("5x3") == Views(5, 3)
    assert str(Views(10, 3)) == "10x3"
    assert Views.parse(str(Views())) == Views(1, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, "written as clips x crops") for text in ("5", "3x-1", "x", "5 x 3")),
        *((text, "1 to 64 clips along time") for text in ("0x1", "0x3", "65x1", "1000x3")),
        *((text, "1 or 3 crops") for text in ("5x2", "5x0")),
    ],
)
def test_other_views_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        Views.parse(text)
    assert Views.parse("64x3").clips == 64


@pytest.mark.parametrize(
    ("shape", "starts"),
    [((48, 85), (0, 18, 37)), ((85, 48), (0, 18, 37)), ((60, 101), (0, 16, 33)), ((48, 48), (0, 0, 0))],
)
def test_three_crops_lie_along_the_longer_side(shape, starts):
    frames = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    long = round(max(shape) * 48 / min(shape))
    assert starts == tuple(int(j * (long - 48) / 2) for j in range(3))
    whole = resize(frames, *((48, long) if shape[1] > shape[0] else (long, 48)))
    for crop, start in zip(crops_of(frames, SPEC, 3), starts, strict=True):
        assert crop.shape == (2, 48, 48, 3)
        part = whole[:, :, start : start + 48] if shape[1] > shape[0] else whole[:, start : start + 48]
        np.testing.assert_array_equal(crop, part)


def test_one_crop_is_that_of_validation():
    frames = np.random.default_rng(0).integers(0, 256, (2, 60, 101, 3), dtype=np.uint8)
    (crop,) = crops_of(frames, SPEC, 1)
    np.testing.assert_array_equal(crop, short_side_crop(frames, SPEC))


def test_clips_have_the_frames_of_the_rules(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", frames=40)
    clips = list(load_views(video, SPEC, Views(3, 3)))
    assert [clip.shape for clip in clips] == [(3, 4, 48, 48, 3)] * 3
    for clip, indices in zip(clips, sampling.test_indices(40, SPEC, 3), strict=True):
        expected = np.stack(crops_of(read_frames(video, indices), SPEC, 3))
        np.testing.assert_array_equal(clip, expected)


def test_one_view_is_the_clip_of_validation(tmp_path: Path):
    video = write_video(tmp_path / "a.mp4", frames=23)
    (clip,) = load_views(video, SPEC, Views())
    np.testing.assert_array_equal(clip[0], load_frames(video, SPEC))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_segment_is_a_video_of_its_own(tmp_path: Path, decoder: str):
    pytest.importorskip("decord" if decoder == "decord" else "av")
    video = write_video(tmp_path / "a.mp4", frames=40)  # 12 a second
    segment = Item(video, 0, start=1.0, end=2.5)
    assert span(segment, decoder) == (video, 12, 18)
    assert span(Item(video, 0), decoder) == span(video, decoder) == (video, 0, 40)
    assert numbers(sample_frames(segment, SPEC, decoder)) == (12 + sampling.clip_indices(18, SPEC, None)).tolist()
    for clip, indices in zip(
        load_views(segment, SPEC, Views(2, 3), decoder), 12 + sampling.test_indices(18, SPEC, 2), strict=True
    ):
        np.testing.assert_array_equal(clip, np.stack(crops_of(read_frames(video, indices, decoder), SPEC, 3)))


def test_a_video_is_read_when_its_clip_is_asked_for(tmp_path: Path):
    clips = load_views(tmp_path / "none.mp4", SPEC, Views(2, 1))
    with pytest.raises(VideoError):
        next(clips)


def test_views_that_a_spec_has_not_are_told_before_a_video_is_read():
    Views(10, 3).check(SPEC)
    with pytest.raises(ConfigError, match="starts and middles"):
        Views(3, 3).check(ClipSpec(sampling="segments"))
