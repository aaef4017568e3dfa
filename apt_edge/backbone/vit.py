"""The frozen video transformer: a ViT with ONE attention and ONE socket for extra keys and values.

Shapes: B batch, N video tokens, T prompt tokens, H heads, D head width, C width (C = H * D).
The family `videomae`: `modeling_finetune.py` (14ef8d8) - Conv3d tubelets, fixed sin-cos positions over the flat token
index, pre-norm blocks, q and v bias, zero k bias, erf GELU, LayerNorm eps 1e-6, no class token.
The family `clip`: the blocks of OpenAI's image encoder - k bias too, x sigmoid(1.702 x), eps 1e-5, positions that are
weights, a norm behind them. How an image encoder reads a video is our own definition, in two forms: joint like VideoMAE
without a class token, or per frame, where each time step attends to itself alone behind a class token of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.constant_rows import attend_constant_rows, only_prompts_train
from apt_edge.backbone.layers import ACTIVATIONS, LayerNorm, behind_class_tokens, initialise, sincos_positions
from apt_edge.errors import ConfigError


class ExtraKV(NamedTuple):
    """Keys and values that one block's queries attend to beside the video's own; all `[1|B, 1|H, T, D]`.

    With `query`, the T tokens ask too: their rows of the output stand after the video's.
    """

    key: Tensor
    value: Tensor
    query: Tensor | None = None


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a backbone and what no tensor's shape shows; every other number follows from these.

    Attributes:
        eps: of the blocks' LayerNorms; `head_eps` of the head's, the same when None.
        family: `videomae`, or `clip` for OpenAI's image encoder.
        per_frame: each time step attends to itself alone, behind a class token of its own.
    """

    width: int
    depth: int
    heads: int
    frames: int = 16
    size: int = 224
    tubelet: int = 2
    patch: int = 16
    mlp_ratio: float = 4
    eps: float = 1e-6
    head_eps: float | None = None
    family: str = "videomae"
    per_frame: bool = False

    @property
    def pool_eps(self) -> float:
        """Epsilon of the norm between mean and classifier."""
        return self.eps if self.head_eps is None else self.head_eps

    @property
    def hidden(self) -> int:
        """Width of the MLP inside: 4 C for every published size but ViT-g (48/11 C)."""
        return round(self.mlp_ratio * self.width)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        return (self.frames // self.tubelet, self.size // self.patch, self.size // self.patch)

    @property
    def patches(self) -> int:
        """Tokens of the patch embedding."""
        time, height, width = self.grid
        return time * height * width

    @property
    def steps(self) -> int:
        """Parts of equal length that attend apart: the time steps of the per-frame form, else all in one."""
        return self.grid[0] if self.per_frame else 1

    @property
    def tokens(self) -> int:
        """Video tokens N, class tokens among them."""
        return self.patches + (self.steps if self.per_frame else 0)

    @property
    def head_width(self) -> int:
        """D: 64 for every published size but vit-huge (80)."""
        return self.width // self.heads


# VideoMAE modeling_finetune.py:375-434; `nano` is the embedded demonstration backbone; both forms of CLIP are ours.
SIZES: dict[str, VitConfig] = {
    "nano": VitConfig(192, 6, 3, frames=8, size=48, patch=8),
    "vit-tiny": VitConfig(192, 12, 3),
    "vit-small": VitConfig(384, 12, 6),
    "vit-base": VitConfig(768, 12, 12),
    "vit-large": VitConfig(1024, 24, 16),
    "vit-huge": VitConfig(1280, 32, 16),
    "clip-vit-base": VitConfig(768, 12, 12, eps=1e-5, family="clip"),
    "clip-vit-base-per-frame": VitConfig(768, 12, 12, frames=8, tubelet=1, eps=1e-5, family="clip", per_frame=True),
}


def size_by_name(name: str) -> VitConfig:
    """Look up a size; raises ConfigError naming the known ones."""
    if name not in SIZES:
        raise ConfigError(f"there is no backbone size {name!r}", fix=f"choose one of {', '.join(SIZES)}")
    return SIZES[name]


class Attention(nn.Module):
    """Multi-head self-attention whose keys and values can be extended, within each of `steps` parts of the tokens."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.steps = config.heads, config.steps
        self.scale = config.head_width**-0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        # A bias on every key changes nothing, unless keys without it stand beside them: constants do.
        self.k_bias = nn.Parameter(torch.zeros(width)) if config.family == "clip" else None
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    @property
    def key_bias(self) -> Tensor:
        """The keys' bias; VideoMAE's is zero."""
        return torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias

    def apart(self, x_BNC: Tensor) -> Tensor:
        """Tokens `[B, N, C]` as `[B * steps, N / steps, C]`: a row of the batch for what attends to itself alone."""
        return x_BNC if self.steps == 1 else x_BNC.reshape(len(x_BNC) * self.steps, -1, x_BNC.shape[2])

    def together(self, x_BNC: Tensor) -> Tensor:
        """What `apart` gave, as it was."""
        return x_BNC if self.steps == 1 else x_BNC.reshape(len(x_BNC) // self.steps, -1, x_BNC.shape[2])

    def project(self, x_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[B, H, N, D]` of normalised tokens, the video's set `apart`."""
        bias = torch.cat([self.q_bias, self.key_bias, self.v_bias])
        query, key, value = self.split(F.linear(x_BNC, self.qkv.weight, bias), 3)
        return query, key, value

    def split(self, joint_BNC: Tensor, parts: int) -> Tensor:
        """Projections that lie side by side, `[B, N, parts * C]`, as `[parts, B, H, N, D]`."""
        batch, tokens, _ = joint_BNC.shape
        return joint_BNC.reshape(batch, tokens, parts, self.heads, -1).permute(2, 0, 3, 1, 4)

    def forward(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """Attend; `extra` keys and values (and queries) stand after the video's own."""
        return self.attend(*self.project(self.apart(x_BNC)), extra)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """The output projection of softmax(q k) v, `[B, N, C]`, from what `project` gives."""
        if extra is not None and self.steps > 1 and len(extra.key) > 1:  # a clip's own, for each of its steps
            extra = ExtraKV(*(part.repeat_interleave(self.steps, 0) for part in extra if part is not None))
        only_prompts = extra is not None and extra.query is None and only_prompts_train((query, key, value), *extra[:2])
        if extra is not None:
            shape = (key.shape[0], self.heads, -1, -1)
            # Prompts that train are float32 under autocast too: joined as they are, everything would become float32.
            key = torch.cat([key, extra.key.to(key.dtype).expand(shape)], dim=2)
            value = torch.cat([value, extra.value.to(value.dtype).expand(shape)], dim=2)
            if extra.query is not None:
                query = torch.cat([query, extra.query.expand(shape)], dim=2)
        # The scale goes on the query before the product: TensorRT's condition for a fused attention.
        query = query * self.scale
        if extra is not None and only_prompts:
            mixed_BHND = attend_constant_rows(query, key, value, extra.key, extra.value)
        else:
            mixed_BHND = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return self.together(self.proj(mixed_BHND.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = LayerNorm(width, eps=config.eps)
        self.attn = Attention(config)
        self.norm2 = LayerNorm(width, eps=config.eps)
        self.fc1 = nn.Linear(width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, width)
        self.activation = ACTIVATIONS[config.family]

    def forward(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        x_BNC = self.attended(x_BNC, extra)
        return x_BNC + self.mlp(x_BNC)

    def attended(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """The first half, residual included."""
        return x_BNC + self.attn(self.norm1(x_BNC), extra)

    def mlp(self, x_BNC: Tensor) -> Tensor:
        """The second half, norm included, residual not."""
        return self.fc2(self.activation(self.fc1(self.norm2(x_BNC))))


class Vit(nn.Module):
    """Video ViT without a head: clips in, tokens out.

    Args:
        config: the sizes, usually `SIZES[name]`.

    Raises:
        ConfigError: an unknown family, or the per-frame form of one that has no class token.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        if config.family not in ACTIVATIONS or (config.per_frame and config.family != "clip"):
            form = "per-frame" if config.per_frame else "joint"
            raise ConfigError(f"there is no {form} form of the family {config.family!r}", fix="take videomae or clip")
        self.config = config
        kernel = (config.tubelet, config.patch, config.patch)
        self.patch = nn.Conv3d(3, config.width, kernel, stride=kernel)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm_pre = LayerNorm(config.width, eps=config.eps) if config.family == "clip" else nn.Identity()
        self.apply(initialise)
        if config.family == "clip":  # a class token lies in its position
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, config.tokens, config.width), std=0.02))
        else:  # not a weight: VideoMAE keeps the table out of its checkpoints too
            self.register_buffer("positions", sincos_positions(config.tokens, config.width), persistent=False)

    def block(self, index: int) -> Block:
        """One block by its index, 0-based."""
        block = self.blocks[index]
        assert isinstance(block, Block)
        return block

    def embed(self, clip_BCTHW: Tensor) -> Tensor:
        """Patch embedding plus positions; tokens run over time, then height, then width. Returns `[B, N, C]`.

        Per frame the class token of each time step stands before its patches.
        """
        x_BNC = self.patch(clip_BCTHW).flatten(2).transpose(1, 2)
        if self.config.per_frame:
            x_BNC = behind_class_tokens(x_BNC, self.config.steps)
        return self.norm_pre(x_BNC + self.positions)

    def run_blocks(
        self, x_BNC: Tensor, extra: Mapping[int, ExtraKV] | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Run blocks `start` to `stop` (exclusive) on tokens; `extra` maps a block to its extra keys and values.

        Behind the last block stands `read_out`.
        """
        stop = len(self.blocks) if stop is None else stop
        for index in range(start, stop):
            x_BNC = self.block(index)(x_BNC, (extra or {}).get(index))
        return self.read_out(x_BNC) if start < stop == len(self.blocks) else x_BNC

    def read_out(self, x_BNC: Tensor) -> Tensor:
        """The rows that the head averages: the class tokens of the per-frame form, else all."""
        return x_BNC[:, :: x_BNC.shape[1] // self.config.steps] if self.config.per_frame else x_BNC

    def forward(self, clip_BCTHW: Tensor, extra: Mapping[int, ExtraKV] | None = None) -> Tensor:
        return self.run_blocks(self.embed(clip_BCTHW), extra)


class Head(nn.Module):
    """Mean over the rows that are read, LayerNorm, linear classifier; float32 at least, so that logits are never half.

    Initialisation: VideoMAE `modeling_finetune.py:254-258`, normal 0.02 times `init_scale`.
    """

    def __init__(self, width: int, classes: int, eps: float = 1e-6, init_scale: float = 0.001) -> None:
        super().__init__()
        self.norm = LayerNorm(width, eps=eps)
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        with torch.no_grad():
            self.linear.weight.mul_(init_scale)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Returns logits `[B, classes]`."""
        dtype = torch.promote_types(x_BNC.dtype, torch.float32)
        return self.linear(self.norm(x_BNC.to(dtype).mean(dim=1)))

    def folded(self) -> Head:
        """The head after training: norm and linear classifier alone."""
        return self
