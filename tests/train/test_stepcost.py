"""What a training step computes and keeps: counted, and the same in every run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from apt_edge.backbone.checkpoints import random_backbone
from apt_edge.methods import METHODS
from apt_edge.methods.tuned import TunedModel
from tests.conftest import TINY
from train.engine.stepcost import Step, held_bytes, make_step, peak_above, peak_bytes, step_macs

CLASSES, TOKENS, BATCH = 5, 6, 2
CPU = torch.device("cpu")
PLACED = {
    "apt": {"tokens": TOKENS},
    "vpt-deep": {"tokens": TOKENS},
    "adaptformer": {"r": 5},
    "st-adapter": {"width": 5},
}
PLACED |= {"aim": {"ratio": 0.1}, "lora": {"rank": 5}}
SETTINGS = {**PLACED, "vpt-shallow": {"tokens": TOKENS}, "linear": {}, "full": {}}


def tiny_step(vit, name: str, cached: bool = False, **settings: object) -> Step:
    torch.manual_seed(0)
    method = METHODS[name](vit.config, **{**SETTINGS[name], **settings})
    return make_step(TunedModel(vit, method, CLASSES), BATCH, cached)


def test_peak_is_that_of_the_tensors_alive_together():
    def three() -> None:
        first, second = torch.empty(1000), torch.empty(2000)
        del first
        third = torch.empty(500)
        del second, third

    assert peak_above(three, CPU) == 4 * (1000 + 2000)
    assert peak_above(lambda: torch.ones(64, 64) @ torch.ones(64, 64), CPU) == 4 * 3 * 64**2
    kept = torch.ones(1000)
    assert peak_above(lambda: kept.add_(kept), CPU) == 0


def test_a_storage_is_held_once():
    whole = torch.zeros(10, 10)
    assert held_bytes([whole, whole[0], whole.T, torch.zeros(3)]) == 400 + 12


def test_peak_of_a_step_repeats_and_holds_weights_gradients_and_both_moments(tiny_vit):
    step = tiny_step(tiny_vit, "full")
    peak = peak_bytes(step)
    assert peak == peak_bytes(step)
    assert peak > 4 * 4 * step.model.trainable_parameters()


def test_macs_are_the_closed_form(tiny_vit):
    video, width, depth = TINY.tokens, TINY.width, TINY.depth
    embed = video * width * 3 * TINY.tubelet * TINY.patch**2
    linear, head = 12 * video * width**2, 3 * CLASSES * width
    keys = video + TOKENS
    # Block 0: no gradient into its projections, of the attention's only the prompts' columns.
    first = 2 * linear - 3 * video * width**2 + 2 * video * keys * width + 4 * video * TOKENS * width
    apt = embed + first + (depth - 1) * (2 * linear + 7 * video * keys * width) + head
    assert step_macs(tiny_step(tiny_vit, "apt")) == BATCH * apt
    assert step_macs(tiny_step(tiny_vit, "linear", cached=True)) == BATCH * head
    full = 2 * embed + depth * (3 * linear + 7 * video**2 * width) + head
    assert step_macs(tiny_step(tiny_vit, "full")) == BATCH * full


def test_a_cached_step_is_the_step(tiny_vit):
    losses = []
    for cached in (False, True):
        step = tiny_step(tiny_vit, "apt", cached, start=1, dropout=0.0)
        step()
        step()
        losses.append([p.detach().clone() for p in step.model.method.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


def test_a_step_in_half_precision_keeps_its_weights_in_float32(tiny_vit):
    torch.manual_seed(0)
    model = TunedModel(tiny_vit, METHODS["apt"](tiny_vit.config, tokens=TOKENS), CLASSES)
    seen = []
    tiny_vit.block(0).fc1.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    step = make_step(model, BATCH, autocast=torch.bfloat16)
    before = model.method.key.detach().clone()
    step()
    assert seen == [torch.bfloat16]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.method.key.isfinite().all()
    assert not torch.equal(model.method.key, before)


class Backward(TorchDispatchMode):
    """What the backward pass computes: shapes of its products, which LayerNorms get weight gradients, convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[tuple[int, ...]] = set()
        self.norms: list[bool] = []
        self.channels: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm"):
            self.products.add(tuple(result.shape))
        if name == "native_layer_norm_backward":
            self.norms.append(result[1] is not None)
        if name == "convolution_backward":
            self.channels.add(args[0].shape[1])
        return result


def nodes(root) -> Iterator:
    seen, open_nodes = set(), [root]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            open_nodes += [following for following, _ in node.next_functions]
            yield node


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "full"])
def test_frozen_weights_get_no_gradient_and_frozen_blocks_no_graph(tiny_vit, name, start):
    step = tiny_step(tiny_vit, name, **({"start": start} if name in PLACED else {}))
    model = step.model
    assert not model.prefix(step.inputs).requires_grad
    loss = model(step.inputs).square().sum()
    graph = list(nodes(loss.grad_fn))
    leaves = {id(node.variable) for node in graph if hasattr(node, "variable")}
    assert leaves == {id(p) for p in (*model.method.parameters(), *model.head.parameters())}
    attentions = [n for n in graph if "ScaledDotProduct" in n.name() or "ConstantRows" in n.name()]
    assert len(attentions) <= TINY.depth - model.method.first_block
    with Backward() as backward:
        loss.backward()
    frozen = {tuple(p.shape) for p in model.vit.parameters() if p.ndim == 2}
    assert not frozen & backward.products
    assert backward.norms.count(True) == 1  # the head's
    assert TINY.width not in backward.channels  # the patch embedding's
    assert all(p.grad is None for p in model.vit.parameters())


def test_full_tuning_shows_that_the_probe_sees_weight_gradients(tiny_vit):
    step = tiny_step(tiny_vit, "full")
    with Backward() as backward:
        step.model(step.inputs).square().sum().backward()
    assert {tuple(p.shape) for p in tiny_vit.parameters() if p.ndim == 2} <= backward.products
    assert backward.norms.count(True) == 2 * TINY.depth + 1
    assert TINY.width in backward.channels


def test_every_method_needs_less_memory_than_full_tuning():
    peaks = {}
    for name in METHODS:
        vit = random_backbone("nano")
        settings = {"tokens": 64} if "tokens" in SETTINGS[name] else {}
        peaks[name] = peak_bytes(make_step(TunedModel(vit, METHODS[name](vit.config, **settings), 16), 1))
    shares = {name: peak / peaks["full"] for name, peak in peaks.items()}
    assert all(share < 0.8 for name, share in shares.items() if name != "full"), shares
    assert max(shares["apt"], shares["vpt-deep"], shares["linear"]) <= 0.6, shares
