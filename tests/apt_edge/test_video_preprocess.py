"""Resizing agrees with Pillow, crops lie where they should, normalisation is the formula."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from apt_edge.clip import ClipSpec
from apt_edge.video.preprocess import _weights, normalise, resize, short_side_crop


@pytest.mark.parametrize(
    ("old", "new"),
    [((64, 64), (48, 48)), ((240, 320), (224, 299)), ((37, 53), (91, 80)), ((5, 7), (60, 60)), ((360, 640), (48, 85))],
)
def test_resize_agrees_with_pillow_within_one_level(old, new):
    frames = np.random.default_rng(0).integers(0, 256, (2, *old, 3), dtype=np.uint8)
    ours = resize(frames, *new)
    assert ours.dtype == np.uint8
    assert ours.shape == (2, *new, 3)
    for frame, result in zip(frames, ours, strict=True):
        pillow = np.asarray(Image.fromarray(frame).resize(new[::-1], Image.Resampling.BILINEAR))
        assert np.abs(result.astype(int) - pillow).max() <= 1


def test_resize_to_the_same_size_changes_nothing():
    frames = np.random.default_rng(0).integers(0, 256, (2, 31, 17, 3), dtype=np.uint8)
    assert (resize(frames, 31, 17) == frames).all()


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (60, 60), (48, 90), (20, 31)])
def test_the_default_crop_is_resize_then_centre(shape):
    spec = ClipSpec(frames=2, size=48)
    frames = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    height, width = (round(side * 48 / min(shape)) for side in shape)
    top, left = round((height - 48) / 2), round((width - 48) / 2)
    whole = resize(frames, height, width)
    assert np.abs(short_side_crop(frames, spec).astype(int) - whole[:, top : top + 48, left : left + 48]).max() <= 1


@pytest.mark.parametrize(("old", "new"), [(1, 9), (31, 48), (360, 224), (1920, 398), (2000, 7)])
def test_weights_are_those_rows_of_the_whole_filter(old, new):
    distance = np.abs(np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * (old / new)) / max(old / new, 1)
    dense = np.maximum(0, 1 - distance)
    dense = (dense / dense.sum(axis=1, keepdims=True)).astype(np.float32)
    for first, last in ((0, new), (new // 3, new // 2 + 1)):
        begin, end, values = _weights(old, new, first, last)
        assert values.tobytes() == dense[first:last, begin:end].tobytes()
        assert np.count_nonzero(values) == np.count_nonzero(dense[first:last])
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 1


def test_a_frame_of_two_lines_costs_no_more_than_its_square():
    """Its scaled width is 458752 pixels, of which 224 are kept."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 4096, 3), dtype=np.uint8)
    tracemalloc.start()
    seen = short_side_crop(frames, ClipSpec(frames=2, size=224))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e8
    assert np.abs(seen[0, 0, 112].astype(int) - frames[0, 0, 2047:2049].mean(axis=0)).max() <= 1


def test_normalise_is_the_formula_and_has_the_shape_of_the_spec():
    spec = ClipSpec(frames=3, size=16, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    expected = ((frames / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(3, 0, 1, 2)
    result = normalise(frames, spec)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, atol=2e-6)
    assert normalise(short_side_crop(np.zeros((3, 40, 30, 3), dtype=np.uint8), spec), spec).shape == spec.shape


def test_the_video_half_needs_neither_torch_nor_a_runtime():
    forbidden = "torch", "onnx", "onnxruntime", "pydantic", "tqdm"
    code = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in forbidden)
    for name in ("decode", "sampling", "preprocess", "lists", "damage"):
        code += f"import apt_edge.video.{name}\n"
    subprocess.run([sys.executable, "-c", code], check=True)
