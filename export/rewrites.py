"""Exact rewrites of weights, done on a copy before tracing: the logits stay the same.

`export.graph.pooling` holds the one that is easier on the graph. Each identity stands in its docstring, and each has a
proof in float64 (`tests/export/test_rewrites.py`).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from apt_edge.backbone.blocks import EnteringBlock
from apt_edge.backbone.vit import Head, Vit
from apt_edge.clip import ClipSpec
from apt_edge.pack import HEAD_TENSORS, folded_head


class Pixels(nn.Module):
    """uint8 frames `[B, T, S, S, 3]` to a clip `[B, 3, T, S, S]`.

    Args:
        clip: gives mean and standard deviation.
        normalise: (x / 255 - mean) / std in float32; False when `absorb_pixels` has put that into the weights.
    """

    def __init__(self, clip: ClipSpec, normalise: bool) -> None:
        super().__init__()
        self.normalise = normalise
        self.gain, self.offset = (values[:, None, None, None] for values in _affine(clip, torch.float32))

    def forward(self, frames_BTSSC: Tensor) -> Tensor:
        clip_BCTSS = frames_BTSSC.float().permute(0, 4, 1, 2, 3)  # TensorRT does nothing else with uint8
        return clip_BCTSS * self.gain + self.offset if self.normalise else clip_BCTSS


def _affine(clip: ClipSpec, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor(clip.mean, dtype=dtype), torch.tensor(clip.std, dtype=dtype)
    return 1 / (255 * std), -mean / std


def scale_queries(model: nn.Module) -> None:
    """The attention's scale in the query weights: s (x W_q + b_q) = x (s W_q) + s b_q. One Mul less a block.

    In float32 exact to the bit when D is a power of 4, as 64 is.
    """
    vit = backbone_of(model)
    for index in range(vit.config.depth):
        block = vit.block(index)
        attention = block.attn
        if isinstance(block, EnteringBlock):  # its queries were projected before
            block.get_buffer("query").mul_(attention.scale)
        attention.qkv.weight.data[: vit.config.width] *= attention.scale
        attention.q_bias.data *= attention.scale
        attention.scale = 1.0


def absorb_pixels(model: nn.Module, clip: ClipSpec) -> None:
    """The normalisation in the patch convolution: conv(g x + o, W) + b = conv(x, g W) + (b + sum W o), no padding.

    Two passes over the pixels less. For float32 graphs: g W is about 1e-4, too close to float16's smallest numbers.
    """
    patch = backbone_of(model).patch
    gain, offset = (values[None, :, None, None, None] for values in _affine(clip, patch.weight.dtype))
    assert patch.bias is not None
    patch.bias.data += (patch.weight.data * offset).sum(dim=(1, 2, 3, 4))
    patch.weight.data *= gain


def join_positions(model: nn.Module) -> None:
    """The patch convolution's bias in the table of positions, a constant: one addition to every token less.

    Class tokens, which stand first in their time steps, are no patches and get none.
    """
    vit = backbone_of(model)
    assert vit.patch.bias is not None
    steps = vit.positions.detach().unflatten(1, (vit.config.steps, -1)).clone()
    steps[:, :, int(vit.config.per_frame) :] += vit.patch.bias.data
    del vit.positions  # a weight in some families, here a constant
    vit.register_buffer("positions", steps.flatten(1, 2), persistent=False)
    vit.patch.bias = None


def absorb_head_norm(model: nn.Module) -> None:
    """The pooled norm's affine part in the classifier, by the function that devices use on a pack's head."""
    head = model.head
    assert isinstance(head, Head)
    norm, linear = head.norm, head.linear
    parts = zip(HEAD_TENSORS, (norm.weight, norm.bias, linear.weight, linear.bias), strict=True)
    weight_1CK, bias_1K = folded_head({name: part.detach().numpy() for name, part in parts})
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight_1CK[0].T))
        linear.bias.copy_(torch.from_numpy(bias_1K[0]))
        norm.weight.fill_(1)
        norm.bias.zero_()


def rewritten(model: nn.Module, clip: ClipSpec | None) -> nn.Module:
    """A copy with every rewrite applied; the pixels' only for the `clip` of a uint8 input that the weights absorb."""
    model = copy.deepcopy(model)
    scale_queries(model)
    if clip is not None:
        absorb_pixels(model, clip)
    join_positions(model)
    absorb_head_norm(model)
    return model


def backbone_of(model: nn.Module) -> Vit:
    """The backbone of a model that is exported."""
    vit = model.vit
    assert isinstance(vit, Vit)
    return vit
