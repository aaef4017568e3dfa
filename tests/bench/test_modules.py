"""Random models of every method, and Hugging Face's VideoMAE with the same weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from apt_edge.backbone.vit import SIZES
from apt_edge.errors import ConfigError, MissingDependency
from apt_edge.methods import METHODS
from bench.huggingface import HuggingFaceModel
from bench.modules import FromFrames, clip_of, config_of, random_model
from bench.numbers import weights_sha256
from bench.suite import RandomModel
from tests.bench.conftest import TOKENS
from tests.conftest import TINY, TINY_CLIP

PROMPTED = ("apt", "vpt-shallow", "vpt-deep")


@pytest.fixture(autouse=True)
def _tiny_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)


def clips() -> torch.Tensor:
    return torch.randn(2, *TINY_CLIP.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", list(METHODS))
def test_random_models_of_every_method_are_what_was_trained(name: str) -> None:
    settings = {"tokens": TOKENS} if name in PROMPTED else {}
    module, tuned = random_model(RandomModel(size="tiny", method=name, settings=settings, classes=7))
    with torch.no_grad():
        expected = tuned.eval()(clips())
        assert expected.abs().max() > 1e-2
        torch.testing.assert_close(module(clips()), expected, atol=1e-5, rtol=0)


def test_prompts_as_tokens_are_the_folded_model() -> None:
    request = {"size": "tiny", "method": "vpt-deep", "settings": {"tokens": TOKENS}, "classes": 7}
    folded, _ = random_model(RandomModel(**request))
    dragged, _ = random_model(RandomModel(**request, as_tokens=True))
    with torch.no_grad():
        torch.testing.assert_close(dragged(clips()), folded(clips()), atol=1e-5, rtol=0)


def test_hugging_face_gives_the_same_logits() -> None:
    request = {"size": "tiny", "method": "linear", "classes": 7}
    ours, tuned = random_model(RandomModel(**request))
    theirs, same = random_model(RandomModel(**request, huggingface=True))
    for model in (tuned, same):  # a fresh norm has weight 1 and bias 0 wherever it stands
        model.head.norm.weight.data.copy_(torch.linspace(0.5, 2, 64))
        model.head.norm.bias.data.copy_(torch.linspace(-1, 1, 64))
    assert isinstance(theirs, HuggingFaceModel)
    assert type(theirs.model).__module__.startswith("transformers.")
    assert same.trainable_parameters() == tuned.trainable_parameters() > 0
    with torch.no_grad():
        expected = ours(clips())
        assert expected.abs().max() > 1e-1
        assert (theirs(clips()) - expected).abs().max() <= 1e-4


def test_hugging_face_takes_no_backbone_of_another_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", replace(TINY, family="clip"))
    assert random_model(RandomModel(size="tiny", method="linear"))[0](clips()).shape == (2, 174)
    with pytest.raises(ConfigError, match="family clip"):
        random_model(RandomModel(size="tiny", method="linear", huggingface=True))


def test_hugging_face_takes_its_positions_along_when_it_moves() -> None:
    theirs, _ = random_model(RandomModel(size="tiny", method="linear", huggingface=True))
    assert theirs.to("meta").model.videomae.embeddings.position_embeddings.device.type == "meta"


def test_without_transformers_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from bench.modules import random_model; from bench.suite import RandomModel\n"
        "random_model(RandomModel(size='nano', method='linear', huggingface=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert MissingDependency.__name__ in done.stderr
    assert "apt-edge[bench]" in done.stderr


def test_frames_are_normalised_in_front() -> None:
    module, _ = random_model(RandomModel(size="tiny", method="linear", classes=7))
    frames = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    mean, std = torch.tensor(TINY_CLIP.mean), torch.tensor(TINY_CLIP.std)
    clip = ((frames / 255 - mean) / std).permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        torch.testing.assert_close(FromFrames(module, TINY_CLIP)(frames), module(clip), atol=1e-5, rtol=0)


def test_other_frames_and_pixels_have_the_same_weights() -> None:
    usual, _ = random_model(RandomModel(size="tiny", method="linear"))
    request = RandomModel(size="tiny", method="linear", frames=8, pixels=64)
    larger, _ = random_model(request)
    assert (clip_of(request).frames, clip_of(request).size, config_of(request).tokens) == (8, 64, 4 * 16)
    assert weights_sha256(larger) == weights_sha256(usual)
    other, _ = random_model(RandomModel(size="tiny", method="linear", classes=7))
    assert weights_sha256(other) != weights_sha256(usual)
    with pytest.raises(ConfigError, match="tiny cannot take 3 frames of 32 pixels"):
        config_of(RandomModel(size="tiny", method="linear", frames=3))
