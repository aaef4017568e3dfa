"""The frozen video transformer: VideoMAE's ViT with ONE attention and ONE socket for extra keys and values.

Shapes: B batch, N video tokens, T prompt tokens, H heads, D head width, C width (C = H * D).
Architecture: VideoMAE `modeling_finetune.py` (14ef8d8) - Conv3d tubelets, fixed sin-cos positions over the flat token
index, pre-norm blocks, q and v bias, zero k bias, erf GELU, LayerNorm eps 1e-6, no class token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.constant_rows import attend_constant_rows, only_prompts_train
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
    def tokens(self) -> int:
        """Video tokens N."""
        time, height, width = self.grid
        return time * height * width

    @property
    def head_width(self) -> int:
        """D: 64 for every published size but vit-huge (80)."""
        return self.width // self.heads


# VideoMAE modeling_finetune.py:375-434; `nano` is the embedded demonstration backbone.
SIZES: dict[str, VitConfig] = {
    "nano": VitConfig(192, 6, 3, frames=8, size=48, patch=8),
    "vit-tiny": VitConfig(192, 12, 3),
    "vit-small": VitConfig(384, 12, 6),
    "vit-base": VitConfig(768, 12, 12),
    "vit-large": VitConfig(1024, 24, 16),
    "vit-huge": VitConfig(1280, 32, 16),
}


def size_by_name(name: str) -> VitConfig:
    """Look up a size; raises ConfigError naming the known ones."""
    if name not in SIZES:
        raise ConfigError(f"there is no backbone size {name!r}", fix=f"choose one of {', '.join(SIZES)}")
    return SIZES[name]


class LayerNorm(nn.LayerNorm):
    """LayerNorm in float32 at least, whatever the stream's precision: x^2 overflows in float16 at |x| = 256."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention whose keys and values can be extended."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def project(self, x_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[B, H, N, D]` of normalised tokens; the key bias is zero."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        query, key, value = self.split(F.linear(x_BNC, self.qkv.weight, bias), 3)
        return query, key, value

    def split(self, joint_BNC: Tensor, parts: int) -> Tensor:
        """Projections that lie side by side, `[B, N, parts * C]`, as `[parts, B, H, N, D]`."""
        batch, tokens, _ = joint_BNC.shape
        return joint_BNC.reshape(batch, tokens, parts, self.heads, -1).permute(2, 0, 3, 1, 4)

    def forward(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """Attend; `extra` keys and values (and queries) stand after the video's own."""
        return self.attend(*self.project(x_BNC), extra)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """The output projection of softmax(q k) v, from what `project` gives."""
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
        return self.proj(mixed_BHND.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = LayerNorm(width, eps=config.eps)
        self.attn = Attention(width, config.heads)
        self.norm2 = LayerNorm(width, eps=config.eps)
        self.fc1 = nn.Linear(width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, width)

    def forward(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        x_BNC = self.attended(x_BNC, extra)
        return x_BNC + self.mlp(x_BNC)

    def attended(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """The first half, residual included."""
        return x_BNC + self.attn(self.norm1(x_BNC), extra)

    def mlp(self, x_BNC: Tensor) -> Tensor:
        """The second half, norm included, residual not."""
        return self.fc2(F.gelu(self.fc1(self.norm2(x_BNC))))


class Vit(nn.Module):
    """Video ViT without a head: clips in, tokens out.

    Args:
        config: the sizes, usually `SIZES[name]`.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        kernel = (config.tubelet, config.patch, config.patch)
        self.patch = nn.Conv3d(3, config.width, kernel, stride=kernel)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        # Not a weight: VideoMAE keeps the table out of its checkpoints too.
        self.register_buffer("positions", sincos_positions(config.tokens, config.width), persistent=False)
        self.apply(_initialise)

    def block(self, index: int) -> Block:
        """One block by its index, 0-based."""
        block = self.blocks[index]
        assert isinstance(block, Block)
        return block

    def embed(self, clip_BCTHW: Tensor) -> Tensor:
        """Patch embedding plus positions; tokens run over time, then height, then width. Returns `[B, N, C]`."""
        return self.patch(clip_BCTHW).flatten(2).transpose(1, 2) + self.positions

    def run_blocks(
        self, x_BNC: Tensor, extra: Mapping[int, ExtraKV] | None = None, start: int = 0, stop: int | None = None
    ) -> Tensor:
        """Run blocks `start` to `stop` (exclusive) on tokens; `extra` maps a block to its extra keys and values."""
        for index in range(start, len(self.blocks) if stop is None else stop):
            x_BNC = self.block(index)(x_BNC, (extra or {}).get(index))
        return x_BNC

    def forward(self, clip_BCTHW: Tensor, extra: Mapping[int, ExtraKV] | None = None) -> Tensor:
        return self.run_blocks(self.embed(clip_BCTHW), extra)


class Head(nn.Module):
    """Mean over the video tokens, LayerNorm, linear classifier; float32 at least, so that logits are never half.

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


def sincos_positions(tokens: int, width: int) -> Tensor:
    """Fixed 1-D sin-cos table `[1, N, C]`: even channels sine, odd cosine (VideoMAE modeling_finetune.py:174-184)."""
    channel = torch.arange(width, dtype=torch.float64)
    rate = torch.pow(10000, 2 * torch.div(channel, 2, rounding_mode="floor") / width)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] / rate
    angle[:, 0::2], angle[:, 1::2] = angle[:, 0::2].sin(), angle[:, 1::2].cos()
    return angle.float()[None]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
