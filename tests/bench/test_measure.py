"""Modes, stages and sweeps on real videos."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_edge.backbone.vit import SIZES
from apt_edge.clip import ClipSpec
from apt_edge.runtime.energy import energy_per_run
from apt_edge.runtime.ort import OrtSession
from apt_edge.video import decode
from apt_edge.video.decoders import packets
from apt_edge.video.load import load_frames
from bench.clips import batches, videos_of
from bench.contenders import open_contenders
from bench.measure import energies
from bench.numbers import NOT_PAIRED
from bench.run import run_suite
from bench.suite import Contender, RandomModel, Suite
from tests.bench.conftest import TOKENS
from tests.conftest import TINY

LINEAR = {"size": "tiny", "method": "linear", "classes": 7}
APT = LINEAR | {"method": "apt", "settings": {"tokens": TOKENS}}


@pytest.fixture(autouse=True)
def _tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)


def suite(clips: Path, **changes: Any) -> Suite:
    contenders = [{"name": "none", "random": LINEAR}, {"name": "apt", "random": APT}]
    values = {"name": "tiny", "baseline": "none", "rounds": 10, "warmup": 1, "threads": 1, "contenders": contenders}
    values = values | {"clips": str(clips)} | changes
    return Suite.model_validate({key: value for key, value in values.items() if value is not None})


def test_offline_every_contender_at_every_batch(clip_list: Path, tmp_path: Path) -> None:
    contenders = [{"name": "none", "random": LINEAR}, {"name": "OpenVINO", "session": "openvino-float32"}]
    contenders[1]["random"] = LINEAR
    rows = run_suite(suite(clip_list, mode="offline", batches=[1, 3], contenders=contenders), tmp_path / "o", tmp_path)
    assert [(row["contender"], row["batch"]) for row in rows] == [
        ("none", 1), ("none", 3), ("OpenVINO", 1), ("OpenVINO", 3),
    ]  # fmt: skip
    for row in rows:
        assert row["latency_ms_per_clip"] == pytest.approx(row["latency_ms_median"] / row["batch"])
        assert (row["verdict"] == "baseline") == (row["contender"] == "none")  # at the same batch
        assert row["point"] == {"axis": "batch", "value": row["batch"], "series": row["contender"]}
        assert row["agreement"]["max_abs"] <= 1e-4  # whatever the batch
        assert row["gmacs_ratio"] == 1
        assert (row["mode"], len(row["times_ms"])) == ("offline", 10)


def test_every_batch_has_a_session_of_its_own(tmp_path: Path) -> None:
    for name in ("onnxruntime-cpu", "openvino-float32", "pytorch-eager"):
        contender = Contender(name=name, session=name, random=RandomModel(**LINEAR))
        one, two = open_contenders([contender], [1, 2], 1, tmp_path)
        assert one.session is not two.session
        for opened in (one, two):
            frames = np.zeros((opened.batch, opened.clip.frames, opened.clip.size, opened.clip.size, 3), np.uint8)
            assert opened.run(frames).shape == (opened.batch, 7)


def test_sessions_leave_their_cores_to_each_other(tmp_path: Path) -> None:
    (opened,) = open_contenders([Contender(name="none", random=RandomModel(**LINEAR))], [1], 2, tmp_path)
    assert isinstance(opened.session, OrtSession)
    options = opened.session._session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_mlperf_one_after_the_other(clip_list: Path, tmp_path: Path) -> None:
    rows = run_suite(suite(clip_list, mode="mlperf", seconds=0.2, rounds=None), tmp_path / "out", tmp_path)
    none, apt = rows
    for row in rows:
        assert row["mode"] == "mlperf"
        assert row["rounds"] == len(row["times_ms"]) >= 1024
        assert sum(row["times_ms"]) >= 200
    assert (none["verdict"], none["latency_ratio"]) == ("baseline", 1)
    assert (apt["verdict"], apt["latency_ratio_low"], apt["latency_ratio_high"]) == (NOT_PAIRED, None, None)
    assert apt["latency_ratio"] == pytest.approx(apt["latency_ms_median"] / none["latency_ms_median"], rel=1e-4)


def test_stages_of_real_files(clip_list: Path, tmp_path: Path) -> None:
    for row in run_suite(suite(clip_list, stages=True), tmp_path / "out", tmp_path):
        stages = row["stages"]
        assert set(stages) == {"decode_ms", "preprocess_ms", "transfer_ms", "inference_ms", "end_to_end_ms"}
        assert stages["transfer_ms"] is None  # on a CPU there is none
        assert stages["inference_ms"] == row["latency_ms_median"]
        assert min(stages[key] for key in ("decode_ms", "preprocess_ms", "end_to_end_ms")) > 0


class Counter:
    """A meter that gives 3 J to every run: it is read once after each."""

    source = "rapl"

    def __init__(self) -> None:
        self.spent = 0.0

    def joules(self) -> float:
        self.spent += 3
        return self.spent


def test_energy_of_a_clip(clip_list: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contender = Contender(name="none", random=RandomModel(**LINEAR))
    opened = list(open_contenders([contender], [1, 2], 1, tmp_path))
    frames = {opened[0].clip: videos_of(suite(clip_list), tmp_path).frames(opened[0].clip)}
    monkeypatch.setattr("bench.measure.find_meter", lambda gpu: None)
    assert energies(opened, frames) == {one.key: None for one in opened}
    monkeypatch.setattr("bench.measure.find_meter", lambda gpu: Counter())
    monkeypatch.setattr("bench.measure.energy_per_run", partial(energy_per_run, seconds=0.1))
    found = energies(opened, frames)
    assert [found[one.key] for one in opened] == [
        {"joules_per_clip": 3.0, "source": "rapl"},
        {"joules_per_clip": 1.5, "source": "rapl"},
    ]


@pytest.mark.slow
def test_sweeps_take_the_same_videos_at_their_own_size(clip_list: Path, tmp_path: Path) -> None:
    sweeps = [
        {"axis": "size", "values": [16, 64], "series": "pixels", "random": LINEAR},
        {"axis": "tokens", "values": [0, 3], "series": "VPT", "random": LINEAR | {"method": "vpt-deep"}},
        {"axis": "frames", "values": [2, 8], "series": "frames", "random": LINEAR},
    ]
    rows = run_suite(suite(clip_list, contenders=[], sweeps=sweeps, baseline="VPT 0"), tmp_path / "out", tmp_path)
    points = [(row["point"]["axis"], row["point"]["value"], row["point"]["series"]) for row in rows]
    assert points == [
        ("size", 16, "pixels"), ("size", 64, "pixels"), ("tokens", 0, "VPT"), ("tokens", 3, "VPT"),
        ("frames", 2, "frames"), ("frames", 8, "frames"),
    ]  # fmt: skip
    assert [row["tokens"] for row in rows] == [0, 0, 0, 3, 0, 0]
    small, large, none, prompts, short, long = (row["gmacs"] for row in rows)
    assert small < none < large
    assert short < none < long
    assert none < prompts


def test_a_file_is_new_after_forgetting_it(clip_list: Path) -> None:
    path = clip_list.parent / "first.mp4"
    decode.forget()
    decode.probe(path)
    assert packets._cached_index.cache_info().currsize == 1
    decode.forget()
    assert packets._cached_index.cache_info().currsize == 0
    assert decode.probe(path).frames == 12


def test_videos_and_batches(clip_list: Path, tmp_path: Path) -> None:
    videos = videos_of(suite(clip_list), tmp_path)
    assert [path.name for path in videos.paths] == ["first.mp4", "second.mp4"]
    clip = ClipSpec(frames=4, size=32)
    frames = videos.frames(clip)
    assert np.array_equal(frames[1], load_frames(clip_list.parent / "second.mp4", clip))
    assert [batch.shape[0] for batch in batches(frames, 1)] == [1, 1]
    (three,) = batches(frames, 3)
    assert np.array_equal(three, frames[[0, 1, 0]])
