"""Half precision on the GPU against float32 on the CPU: the same model, the same clips, on prompts that were tuned.

Tuned prompts stand on the embedded backbone, the only trained weights that a clone holds. The larger backbones are
random, with prompts as wide as tuned ones are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from apt_edge.backbone.checkpoints import load_backbone, random_backbone
from apt_edge.backbone.vit import SIZES, Head
from apt_edge.methods.apt import Apt
from apt_edge.runtime.agreement import agreement, failures
from bench.gpu.clips import Labelled, drawn_clips
from bench.gpu.models import Contender, assemble, build, cast
from bench.gpu.record import Record, Settings
from bench.gpu.running import Running, circumstances, hardware, session_name
from bench.gpu.tuning import accuracy, tune

TOLERANCE = {"max_abs": 2e-2, "top1_agreement": 0.9, "kl": 1e-3}  # of every float16 target in export/targets
RANDOM_TOLERANCE = TOLERANCE | {"top1_agreement": 0.0}  # classes of random weights lie too close
EMBEDDED = "nano"
TOKENS, START = 64, 3  # as in the demonstration recipes
TRAINING, VALIDATION = 256, 32  # clips
RANDOM_CLIPS = 4
# Standard deviation of the keys and values of demo-apt after its 20 epochs: 1.4 to 2.7.
WIDE = 2.0


class Case(NamedTuple):
    """One model on the CPU in float32, its clips, what its logits must be, and how near."""

    size: str
    contender: Contender
    prompts: str
    module: nn.Module
    clips: Tensor
    expected: np.ndarray
    tolerance: dict[str, float] = TOLERANCE


def run(settings: Settings, record: Record) -> None:
    """Tuned prompts first, then every size of the settings with random ones."""
    torch.backends.cudnn.allow_tf32 = False  # float32 rows are to be float32 in the patch convolution as well
    config, environment = SIZES[EMBEDDED], circumstances(settings.place)
    training, validation = drawn_clips(config, TRAINING, "train"), drawn_clips(config, VALIDATION, "val")
    for method in ("apt", "vpt-deep"):
        with record.step(f"parity {EMBEDDED}, {method} tuned here"):
            for case in tuned(method, training, validation, settings):
                compare(case, settings, environment, record)
    for size in settings.sizes:
        with record.step(f"parity {size}, random"):
            compare(random_case(size, settings), settings, environment, record)


def tuned(name: str, training: Labelled, validation: Labelled, settings: Settings) -> Iterator[Case]:
    """Prompts tuned on this machine as constants; those of VPT-deep as tokens too, which must give the same."""
    clips, labels = (tensor.to(settings.place) for tensor in training)
    vit, steps = load_backbone(EMBEDDED).to(settings.place), settings.rounds
    model = tune(vit, name, TOKENS, START, (clips, labels), steps).cpu()
    right = accuracy(model, validation)
    prompts = f"tuned here in {steps} steps; {right:.0%} of {len(validation[0])} new clips of 16 classes right"
    contender = Contender(f"{name}-{TOKENS}", name, {"tokens": TOKENS, "start": START})
    folded = assemble(model.vit, model.method, model.head)
    expected = Running(folded, validation[0], graph=False).result()
    yield Case(EMBEDDED, contender, prompts, folded, validation[0], expected)
    if name == "vpt-deep":
        as_tokens = Contender(f"{contender.name} as tokens", name, contender.settings, as_tokens=True)
        module = assemble(model.vit, model.method, model.head, as_tokens=True)
        yield Case(EMBEDDED, as_tokens, prompts, module, validation[0], expected)


def random_case(size: str, settings: Settings) -> Case:
    """APT with the most prompts of the settings, random weights and wide random prompts."""
    vit = random_backbone(size)
    count = max(settings.tokens)
    contender = Contender(f"APT-{count}", "apt", {"tokens": count, "reparam": "none"})
    built = build(vit, contender)
    head, method = built.module.head, built.method
    assert isinstance(head, Head)
    assert isinstance(method, Apt)
    draws = torch.Generator().manual_seed(0)
    for table in (method.key, method.value):
        table.normal_(0, WIDE, generator=draws)
    module = assemble(vit, method, head)
    clips, _ = drawn_clips(vit.config, RANDOM_CLIPS)
    prompts = f"random with standard deviation {WIDE:g}, as tuned ones have; random backbone"
    expected = Running(module, clips, graph=False).result()
    return Case(size, contender, prompts, module, clips, expected, RANDOM_TOLERANCE)


def compare(case: Case, settings: Settings, environment: dict[str, Any], record: Record) -> None:
    """Rows of one case: in float32, which tells the kernels' share apart, and in float16."""
    for dtype in (torch.float32, torch.float16):
        module = cast(copy.deepcopy(case.module), dtype).to(settings.place)
        session = Running(module, case.clips.to(settings.place, dtype), settings.graphs)
        report = agreement(case.expected, session.result())
        broken = failures(report, case.tolerance)
        precision = str(dtype).removeprefix("torch.")
        row: dict[str, Any] = {
            "size": case.size,
            "contender": case.contender.name,
            "method": case.contender.method,
            "tokens": case.contender.tokens,
            "prompts": case.prompts,
            "session": session_name(settings.place, settings.graphs),
            "device": hardware(environment),
            "precision": precision,
            "reference": "float32 on the CPU, prompts as constants",
            **report,
            "tolerance": case.tolerance,
            "passed": not broken,
            "environment": environment,
        }
        record.add("parity", [row])
        if broken:
            record.fail(f"parity {case.size}, {case.contender.name}, {precision}", "; ".join(broken), gate=True)
