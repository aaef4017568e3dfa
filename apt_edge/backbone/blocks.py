"""Blocks that do more than the backbone's own, exact and in as few products as possible; `forms` puts them in place.

Shapes: B batch, N video tokens, T further tokens, H heads, D head width, C width, A width of a bottleneck.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_edge.backbone.vit import Block, ExtraKV
from apt_edge.errors import PackError


class Bottleneck(nn.Module):
    """Two linear layers, C to A and back; what stands between them is the user's.

    The first starts as PyTorch starts a linear layer's weight (kaiming-uniform, a = sqrt 5), everything else at 0.
    """

    def __init__(self, width: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=bias)
        self.up = nn.Linear(rank, width, bias=bias)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            if tensor is not None:
                nn.init.zeros_(tensor)


class ChangedBlock(Block):
    """A block made of the parts of another one."""

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        self.activation = block.activation
        for name, part in block.named_children():
            self.add_module(name, part)


class ParallelBlock(ChangedBlock):
    """A ReLU bottleneck on the residual stream beside the MLP, its second layer merged into the MLP's.

    fc2 a(fc1 LN2 x) + U ReLU(D x + d) + u = [fc2 U] [a(fc1 LN2 x) ; ReLU(D x + d)] + (b2 + u), a the MLP's activation.
    """

    def __init__(self, block: Block, branch: Bottleneck) -> None:
        super().__init__(block)
        self.down = branch.down
        self.fc2 = summed(block.fc2, branch.up)

    def mlp(self, x_BNC: Tensor) -> Tensor:
        """The second half with the branch, residual not."""
        hidden_BNM = torch.cat([self.activation(self.fc1(self.norm2(x_BNC))), F.relu(self.down(x_BNC))], dim=2)
        return self.fc2(hidden_BNM)


class TemporalAdapter(nn.Module):
    """C to A, a filter of three time steps in each channel, back to C; nothing nonlinear, outside the clip zeros.

    The filter and all biases start at 0.

    Args:
        width: C.
        bottleneck: A.
        frames: how many time steps the tokens have; they run over time first.
    """

    def __init__(self, width: int, bottleneck: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.down = nn.Linear(width, bottleneck)
        # Height and width are one axis: the filter does not look along them.
        self.conv = nn.Conv2d(bottleneck, bottleneck, (3, 1), padding=(1, 0), groups=bottleneck)
        self.up = nn.Linear(bottleneck, width)
        for tensor in (self.down.bias, self.conv.weight, self.conv.bias, self.up.bias):
            assert tensor is not None
            nn.init.zeros_(tensor)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """What is added to the residual stream."""
        grid_BATS = self.down(x_BNC).transpose(1, 2).unflatten(2, (self.frames, -1))
        return self.up(self.conv(grid_BATS).flatten(2).transpose(1, 2))


class TemporalBlock(ChangedBlock):
    """Temporal adapters on the residual stream before the attention, before the MLP, or both."""

    def __init__(self, block: Block, before_attn: TemporalAdapter | None, before_mlp: TemporalAdapter | None) -> None:
        super().__init__(block)
        self.before_attn, self.before_mlp = before_attn, before_mlp

    def attended(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """The first half with what stands before each half."""
        if self.before_attn is not None:
            x_BNC = x_BNC + self.before_attn(x_BNC)
        x_BNC = super().attended(x_BNC, extra)
        return x_BNC if self.before_mlp is None else x_BNC + self.before_mlp(x_BNC)


class SerialProjection(nn.Module):
    """The attention's output projection followed by z + U GELU(D z + d) + u, in two products instead of three.

    [z ; a] = [W ; D W] m + [b ; D b + d] is one product; the result is z + U GELU(a) + u.
    """

    def __init__(self, proj: nn.Linear, branch: Bottleneck) -> None:
        super().__init__()
        down, self.up = branch.down, branch.up
        self.joint = joined(proj, down.weight @ proj.weight, down.weight @ proj.bias + down.bias)

    def forward(self, mixed_BNC: Tensor) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        z_BNC, a_BNA = self.joint(mixed_BNC).split((self.up.out_features, self.up.in_features), dim=2)
        return z_BNC + self.up(F.gelu(a_BNA))


class EnteringBlock(ChangedBlock):
    """T constant tokens join the video's rows here: their queries, keys and values are constants too.

    N rows come in, N + T go out; the T stand last.
    """

    def __init__(self, block: Block, tokens_TC: Tensor) -> None:
        super().__init__(block)
        query, key, value = block.attn.project(block.norm1(tokens_TC[None]))
        for name, tensor in {"tokens": tokens_TC[None], "query": query, "key": key, "value": value}.items():
            self.register_buffer(name, tensor.contiguous())

    def attended(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """The first half: N rows come in, N + T go out."""
        if extra is not None:
            raise PackError(
                "tokens enter a block that has constant keys and values as well", fix="write the pack again"
            )
        own = ExtraKV(*(self.get_buffer(name) for name in ExtraKV._fields))
        rows_BNC = torch.cat([x_BNC, self.get_buffer("tokens").expand(len(x_BNC), -1, -1)], dim=1)
        return rows_BNC + self.attn(self.norm1(x_BNC), own)


class LeavingBlock(ChangedBlock):
    """The rows after the first N are read for the last time: they have keys and values and nothing else."""

    def __init__(self, block: Block, video_tokens: int) -> None:
        super().__init__(block)
        self.video_tokens = video_tokens

    def attended(self, x_BNC: Tensor, extra: ExtraKV | None = None) -> Tensor:
        """The first half: N + T rows come in, N go out."""
        attn, normed_BNC = self.attn, self.norm1(x_BNC)
        width = x_BNC.shape[2]
        (query,) = attn.split(F.linear(normed_BNC[:, : self.video_tokens], attn.qkv.weight[:width], attn.q_bias), 1)
        bias = torch.cat([attn.key_bias, attn.v_bias])
        key, value = attn.split(F.linear(normed_BNC, attn.qkv.weight[width:], bias), 2)
        return x_BNC[:, : self.video_tokens] + attn.attend(query, key, value, extra)


def joined(first: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    """`first` with more rows: another linear layer of the same input, its outputs behind."""
    return _linear(torch.cat([first.weight, weight]), torch.cat([first.bias, bias]))


def summed(first: nn.Linear, other: nn.Linear) -> nn.Linear:
    """`first` with more columns: the sum of both layers, the inputs of `other` behind."""
    return _linear(torch.cat([first.weight, other.weight], dim=1), first.bias + other.bias)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer
