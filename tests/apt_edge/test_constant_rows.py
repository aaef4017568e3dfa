"""The first prompted block's shorter gradient is autograd's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from apt_edge.backbone.constant_rows import attend_constant_rows, only_prompts_train
from apt_edge.backbone.vit import ExtraKV

BATCH, HEADS, VIDEO, PROMPTS, WIDTH = 3, 2, 9, 5, 8


class Calls(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [(1, 1), (1, HEADS), (BATCH, 1), (BATCH, HEADS)])
def test_output_and_gradients_are_those_of_autograd(shape):
    torch.manual_seed(0)
    query, key, value, weight = torch.randn(4, BATCH, HEADS, VIDEO, WIDTH, dtype=torch.float64)
    prompts = torch.randn(2, *shape, PROMPTS, WIDTH, dtype=torch.float64)

    def run(constant: bool) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = prompts.clone().requires_grad_()
        keys = torch.cat([key, leaf[0].expand(BATCH, HEADS, -1, -1)], 2)
        values = torch.cat([value, leaf[1].expand(BATCH, HEADS, -1, -1)], 2)
        if constant:
            out = attend_constant_rows(query, keys, values, leaf[0], leaf[1])
        else:
            out = F.scaled_dot_product_attention(query, keys, values, scale=1.0)
        (out * weight).sum().backward()
        return out.detach(), leaf.grad

    (out, grad), (expected_out, expected_grad) = run(True), run(False)
    assert torch.equal(out, expected_out)
    assert expected_grad.abs().min() > 1e-4
    assert (grad - expected_grad).abs().max() <= 1e-12


def test_it_runs_where_the_prompts_alone_train():
    own = tuple(torch.randn(3, 1, 2, 4, 8))
    prompts = torch.randn(2, 1, 1, 3, 8)
    trained = prompts.clone().requires_grad_()
    assert only_prompts_train(own, *trained)
    assert not only_prompts_train(own, *prompts)
    assert not only_prompts_train((own[0].clone().requires_grad_(), *own[1:]), *trained)
    assert not only_prompts_train(tuple(part.half() for part in own), *trained.half())
    with torch.no_grad():
        assert not only_prompts_train(own, *trained)


def test_the_backbone_uses_it_in_the_first_prompted_block(tiny_vit, tiny_clips):
    extra = {block: ExtraKV(*torch.randn(2, 1, 1, 3, 32).requires_grad_()) for block in (0, 1)}
    with Calls() as calls:
        tiny_vit(torch.from_numpy(tiny_clips), extra).sum().backward()
    assert calls.names.count("_scaled_dot_product_flash_attention_for_cpu") == 2
    assert calls.names.count("_scaled_dot_product_flash_attention_for_cpu_backward") == 1
