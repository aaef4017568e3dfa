"""PyTorch behind the session protocol, really run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import AptEdgeError, ModelError
from apt_edge.video.preprocess import normalise
from bench.build import random_clips
from bench.modules import random_model
from bench.suite import RandomModel
from bench.torch_session import TorchSession
from tests.conftest import TINY, TINY_CLIP

LINEAR = RandomModel(size="tiny", method="linear", classes=7)
HUGGING_FACE = LINEAR.model_copy(update={"huggingface": True})
APT = RandomModel(size="tiny", method="apt", settings={"tokens": 6}, classes=7)


@pytest.fixture(autouse=True)
def _tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)


def logits(module: nn.Module, frames: np.ndarray) -> np.ndarray:
    clips = torch.from_numpy(np.stack([normalise(clip, TINY_CLIP) for clip in frames]))
    with torch.no_grad():
        return module(clips).numpy()


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("pytorch-eager", LINEAR),
        ("pytorch-eager", HUGGING_FACE),
        ("pytorch-eager", APT),
        ("pytorch-compile", APT),
        ("pytorch-compile", HUGGING_FACE),
    ],
)
def test_a_session_gives_the_modules_logits(name: str, request_: RandomModel) -> None:
    module, _ = random_model(request_)
    frames = random_clips(TINY_CLIP, 2)
    expected = logits(module, frames)
    session = TorchSession(name, module, TINY_CLIP, threads=1, batch=2)
    (logits_spec,) = session.outputs.values()
    assert session.inputs["clip"].shape == (2, 4, 32, 32, 3)
    assert (logits_spec.shape, session.precision) == ((2, 7), "float32")
    found = session.run({"clip": frames})["logits"]
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(ModelError, match="must be uint8 of shape 2x4x32x32x3"):
        session.run({"clip": frames[:1]})


def test_threads_are_pytorchs() -> None:
    before = torch.get_num_threads()
    try:
        TorchSession("pytorch-eager", random_model(LINEAR)[0], TINY_CLIP, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_every_module_of_a_suite_is_compiled() -> None:
    stats = torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    begin = stats["unique_graphs"]
    with torch._dynamo.config.patch(recompile_limit=1):  # as if these two were the eighth and the ninth
        sessions = [TorchSession("pytorch-compile", random_model(r)[0], TINY_CLIP, threads=1) for r in (LINEAR, APT)]
        assert stats["unique_graphs"] - begin == 2
        for session in sessions * 2:
            session.run({"clip": random_clips(TINY_CLIP, 1)})
    assert stats["unique_graphs"] - begin == 2  # a run compiles nothing


def test_a_compiler_that_fails_without_a_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return clips.mean((2, 3, 4))

    with pytest.raises(AptEdgeError, match=r"torch\.compile cannot compile the model"):
        TorchSession("pytorch-compile", Broken(), TINY_CLIP, threads=1)

    def silent(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(torch, "compile", lambda *_, **__: silent)
    with pytest.raises(AptEdgeError, match="found: RuntimeError: "):
        TorchSession("pytorch-compile", Broken(), TINY_CLIP, threads=1)


@pytest.mark.slow
def test_without_a_compiler_the_message_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "from bench.torch_session import TorchSession; from bench.modules import clip_of, random_model\n"
        "from bench.suite import RandomModel\n"
        "r = RandomModel(size='nano', method='linear')\n"
        "from apt_edge.errors import run_tool\n"
        "run_tool(lambda: TorchSession('pytorch-compile', random_model(r)[0], clip_of(r), 1), 'bench.run')"
    )
    env = os.environ | {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert "torch.compile cannot compile the model" in done.stderr
    assert "install a C++ compiler (apt install g++)" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the tests below run")
@pytest.mark.parametrize("name", ["pytorch-cuda-eager", "pytorch-cuda-compile", "pytorch-cuda-graph"])
def test_without_a_gpu_the_message_says_so(name: str) -> None:
    with pytest.raises(AptEdgeError, match=rf"{name} needs an NVIDIA GPU(.|\n)*leave the contender out"):
        TorchSession(name, random_model(LINEAR)[0], TINY_CLIP, threads=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch for CUDA")
@pytest.mark.parametrize("request_", [LINEAR, HUGGING_FACE, APT], ids=["linear", "huggingface", "apt"])
@pytest.mark.parametrize("name", ["pytorch-cuda-eager", "pytorch-cuda-compile", "pytorch-cuda-graph"])
def test_a_gpu_gives_the_modules_logits_in_half(name: str, request_: RandomModel) -> None:
    module, _ = random_model(request_)
    frames = random_clips(TINY_CLIP, 4)
    expected = logits(module, frames)
    session = TorchSession(name, module, TINY_CLIP, threads=1, batch=2)
    assert session.precision == "float16"
    for rows in (slice(0, 2), slice(2, 4)):  # a CUDA graph that read other memory would repeat itself
        session.transfer({"clip": frames[rows]})
        found = session.run({"clip": frames[rows]})["logits"]
        np.testing.assert_allclose(found, expected[rows], rtol=0, atol=2e-2)
