"""The same attention for the first prompted block of a training step: its video rows are constants, its prompts train.

Nothing below that block is trained, so of its attention's gradient only the prompts' columns are asked for. Autograd
would take it for every query, key and value: 5 N (N + T) C multiply-accumulates where 4 N T C are enough.

    out = softmax(q [K ; K_p]^T) [V ; V_p],  P = exp(q K_p^T - lse)  (the prompts' columns of the softmax)
    dV_p = P^T g,  dK_p = (P * (g V_p^T - rowsum(g * out)))^T q

Shapes: B batch, H heads, N video tokens, T prompt tokens, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def only_prompts_train(own: tuple[Tensor, Tensor, Tensor], prompt_key: Tensor, prompt_value: Tensor) -> bool:
    """Whether gradients are wanted for the prompts alone, where `attend_constant_rows` runs: on a CPU, not in half.

    Args:
        own: the video's queries, keys and values.
        prompt_key, prompt_value: the prompts'.
    """
    wanted = torch.is_grad_enabled() and (prompt_key.requires_grad or prompt_value.requires_grad)
    runs = own[0].device.type == "cpu" and all(
        tensor.dtype == own[0].dtype and tensor.dtype in (torch.float32, torch.float64)
        for tensor in (*own, prompt_key, prompt_value)
    )
    return wanted and runs and not any(tensor.requires_grad for tensor in own)


def attend_constant_rows(query: Tensor, key: Tensor, value: Tensor, prompt_key: Tensor, prompt_value: Tensor) -> Tensor:
    """softmax(q k^T) v, differentiable in the prompts alone.

    Args:
        query: scaled, `[B, H, N, D]`.
        key, value: the video's and then the prompts', `[B, H, N + T, D]`; taken as constants.
        prompt_key, prompt_value: the prompts once more, `[1|B, 1|H, T, D]`: what the gradient goes to.
    """
    mixed: Tensor = _ConstantRows.apply(query, key.detach(), value.detach(), prompt_key, prompt_value)
    return mixed


class _ConstantRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prompt_key: Tensor, prompt_value: Tensor
    ) -> Tensor:
        # What F.scaled_dot_product_attention calls on a CPU; it alone returns the logarithm of the softmax's sums.
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out_BHND, lse_BHN = kernel(query, key, value, scale=1.0)
        ctx.save_for_backward(query, out_BHND, lse_BHN, prompt_key, prompt_value)
        return out_BHND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHND: Tensor) -> tuple[Tensor | None, ...]:
        query, out_BHND, lse_BHN, prompt_key, prompt_value = ctx.saved_tensors
        weights_BHNT = (query @ prompt_key.transpose(2, 3)).sub_(lse_BHN[..., None]).exp_()
        grad_value = weights_BHNT.transpose(2, 3) @ grad_BHND
        logits_BHNT = grad_BHND @ prompt_value.transpose(2, 3)
        logits_BHNT.sub_((grad_BHND * out_BHND).sum(-1, keepdim=True)).mul_(weights_BHNT)
        grad_key = logits_BHNT.transpose(2, 3) @ query
        return None, None, None, grad_key.sum_to_size(prompt_key.shape), grad_value.sum_to_size(prompt_value.shape)
