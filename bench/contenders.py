"""Contenders of a suite, opened: whatever the source and the session, uint8 frames in and logits out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apt_edge.clip import ClipSpec
from apt_edge.errors import ConfigError, ModelError
from apt_edge.runtime.model_dir import INPUT, OUTPUT, ModelDir, feeds
from apt_edge.runtime.session import Session
from apt_edge.runtime.sessions import SESSIONS, open_session
from apt_edge.runtime.tensorrt_log import MODULES
from bench.build import build, build_unfolded, random_facts
from bench.graph import graph_macs
from bench.modules import clip_of, random_model
from bench.numbers import weights_sha256
from bench.suite import Contender, RandomModel
from bench.torch_session import TorchSession

# What makes two models compute the same function, if it is equal.
WEIGHTS = ("method", "settings", "pack_sha256", "backbone", "prompt_tokens", "trainable_parameters", "labels")


@dataclass(frozen=True)
class Opened:
    """A contender at one batch size, ready to run.

    Attributes:
        contender: its entry in the suite.
        batch: clips a run.
        session: what runs it.
        clip: the input contract.
        prompts: values of the prompts that are graph inputs.
        weights: equal for models that compute the same function.
        facts: what a row says of the model: method, precision, tokens, gmacs, trainable_parameters, accuracy,
            model_sha256, pack_sha256.
        source: directory of the graph; None for a module.
    """

    contender: Contender
    batch: int
    session: Session
    clip: ClipSpec
    prompts: Mapping[str, np.ndarray]
    weights: str
    facts: Mapping[str, Any]
    source: Path | None

    @property
    def key(self) -> str:
        """What tells it from the others of the run."""
        return f"{self.contender.name}, batch {self.batch}"

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return "cuda" in self.contender.session or self.contender.session in MODULES

    def feeds(self, frames_BTSSC: np.ndarray) -> dict[str, np.ndarray]:
        """What the session takes; frames are normalised here for a graph that does not do it itself."""
        return feeds(self.session.inputs, frames_BTSSC, self.clip, self.prompts)

    def run(self, frames_BTSSC: np.ndarray) -> np.ndarray:
        """One run from uint8 frames to logits `[B, classes]`: normalising is part of it, wherever it happens."""
        return self.session.run(self.feeds(frames_BTSSC))[OUTPUT]


def open_contenders(
    contenders: Sequence[Contender], batches: Sequence[int], threads: int, cache: Path
) -> Iterator[Opened]:
    """Every contender at every batch size.

    Args:
        contenders: of a suite.
        batches: clips a run.
        threads: within one operator.
        cache: where random models are kept between runs.

    Raises:
        ModelError: a model is damaged, its graph cannot be counted, or its batch axis is not free.
        AptEdgeError: something that the session needs is missing.
    """
    for contender in contenders:
        if contender.in_pytorch:
            yield from _modules(contender, batches, threads)
        else:
            yield from _graphs(contender, batches, threads, cache)


def _modules(contender: Contender, batches: Sequence[int], threads: int) -> Iterator[Opened]:
    request = contender.random
    assert request is not None  # Contender allows no other source
    clip = clip_of(request)
    for batch in batches:
        module, tuned = random_model(request)
        known = random_facts(request, tuned)
        digest = weights_sha256(module)  # before the session rounds it
        session = TorchSession(contender.session, module, clip, threads, batch)
        facts = {
            "method": request.method,
            "precision": session.precision,
            "tokens": request.tokens,
            "gmacs": tuned.method.clip_macs(request.classes, deployed=not request.as_tokens) / 1e9,
            "trainable_parameters": known["trainable_parameters"],
            "accuracy": _accuracy(contender),
            "model_sha256": digest,
            "pack_sha256": None,
        }
        yield Opened(contender, batch, session, clip, {}, _weights(known, clip), facts, None)


def _graphs(contender: Contender, batches: Sequence[int], threads: int, cache: Path) -> Iterator[Opened]:
    model = ModelDir.load(_directory(contender, max(batches), cache))
    facts = {
        "method": model.facts.get("method"),
        "precision": "bfloat16" if contender.session == "openvino-bfloat16" else model.facts["precision"],
        "tokens": _tokens(contender.random, model.facts),
        "gmacs": graph_macs(model.onnx) / 1e9,
        "trainable_parameters": model.facts.get("trainable_parameters"),
        "accuracy": _accuracy(contender),
        "model_sha256": model.facts["onnx_sha256"],
        "pack_sha256": model.facts.get("pack_sha256"),
    }
    weights = _weights(model.facts, model.clip)
    frames = np.zeros((model.clip.frames, model.clip.size, model.clip.size, 3), np.uint8)
    for batch in batches:
        session = _graph_session(contender.session, model, threads)  # of its own: buffers are kept for one size
        model.feeds(session.inputs, frames)  # checks
        rows = session.inputs[INPUT].shape[0]
        if rows not in (None, batch):
            raise ModelError(
                f"{model.onnx} takes {rows} clip(s) a run, not {batch}",
                fix="export it with --set batch.max, or leave that batch out of the suite",
            )
        yield Opened(contender, batch, session, model.clip, model.prompts, weights, facts, model.path)


def _graph_session(name: str, model: ModelDir, threads: int) -> Session:
    """A session that leaves its cores to the other contenders as soon as its run ends."""
    if name.startswith("onnxruntime"):
        opens: Callable[..., Session] = SESSIONS[name]
        return opens(model.onnx, threads, yields=True)
    return open_session(model, threads, name)


def _directory(contender: Contender, batch: int, cache: Path) -> Path:
    if contender.random:
        return build(contender.random, contender.session, cache, batch)
    if contender.unfolded:
        return build_unfolded(Path(contender.unfolded))
    assert contender.model is not None  # Contender has exactly one source
    return Path(contender.model)


def _tokens(request: RandomModel | None, facts: Mapping[str, Any]) -> int | None:
    """Prompts a block; None when that is not one number."""
    if request is not None:
        return request.tokens
    counts = set(facts.get("prompt_tokens", {None: None}).values())
    if facts.get("form") == "tokens" or len(counts) > 1:  # that form's tokens are not counted with the constants
        return None
    return counts.pop() if counts else 0


def _weights(facts: Mapping[str, Any], clip: ClipSpec) -> str:
    return json.dumps([clip.to_dict(), *(facts.get(key) for key in WEIGHTS)], sort_keys=True)


def _accuracy(contender: Contender) -> float | None:
    if contender.evaluation is None:
        return None
    try:
        return float(json.loads(Path(contender.evaluation).read_text(encoding="utf-8"))["accuracy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{contender.evaluation} holds no accuracy",
            found=f"{type(error).__name__}: {error}",
            fix="give the JSON of train.evaluate, or leave evaluation out",
        ) from None
