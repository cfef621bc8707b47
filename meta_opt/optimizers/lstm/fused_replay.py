"""The replay of a coordinatewise LSTM through ``nn.LSTM``, which is one fused operation for all T steps on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_NUM_KEPT = 12  # numbers that the way back needs per coordinate, step, layer and unit, roughly
_NAMES = ("weight_ih", "weight_hh", "bias_ih")


def coordinates_at_once(num_steps: int, num_layers: int, hidden_size: int, num_bytes: int) -> int:
    """How many coordinates can be replayed at once with ``num_bytes`` for what the way back needs."""
    return max(1, num_bytes // (4 * _NUM_KEPT * num_steps * num_layers * hidden_size))


def lstm_grads(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output_weight: Tensor,
    output_bias: Tensor,
    inputs: Tensor,
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    coefficients: Tensor,
    update: Callable[[Tensor], Tensor],
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Gradients of Σ_τ ⟨c_τ, g_τ⟩, where g_τ is the update at step τ.

    Args:
        weights: Per layer [4H, width + H]; rows: input, forget and output gate, candidate.
        biases: Per layer [4H, 1].
        output_weight: [R, H].
        output_bias: [R, 1].
        inputs: [T, n, F].
        hidden: h_0 per layer, [H, n].
        cell: c_0 per layer, [H, n].
        coefficients: c_τ, [T, n].
        update: Makes the updates, [T, n], of the outputs, [R, T, n].

    Returns:
        Gradients of weights, biases, output weight and output bias.
    """
    size = output_weight.shape[1]
    # Made without numbers: nn.LSTM would draw them from the global generator.
    lstm = nn.LSTM(inputs.shape[-1], size, num_layers=len(weights), device="meta", dtype=inputs.dtype)
    lstm.to_empty(device=inputs.device)
    input_gate, forget, output, candidate = torch.arange(4 * size, device=inputs.device).split(size)
    theirs = torch.cat([input_gate, forget, candidate, output])  # PyTorch's order of the gates; swapping is its inverse
    with torch.no_grad():
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            getattr(lstm, f"weight_ih_l{layer}").copy_(weight[theirs, :-size])
            getattr(lstm, f"weight_hh_l{layer}").copy_(weight[theirs, -size:])
            getattr(lstm, f"bias_ih_l{layer}").copy_(bias[theirs, 0])
            getattr(lstm, f"bias_hh_l{layer}").zero_()
    head = [output_weight.detach().requires_grad_(), output_bias.detach().requires_grad_()]
    with torch.enable_grad():
        state = (torch.stack([*hidden]).transpose(1, 2).contiguous(), torch.stack([*cell]).transpose(1, 2).contiguous())
        out = torch.nn.functional.linear(lstm(inputs, state)[0], head[0], head[1][:, 0])  # [T, n, R]
        of_layers = [getattr(lstm, f"{name}_l{i}") for i in range(len(weights)) for name in _NAMES]
        grads = torch.autograd.grad((update(out.movedim(-1, 0)) * coefficients).sum(), [*of_layers, *head])
    ours = torch.argsort(theirs)
    per_layer = [grads[i : i + len(_NAMES)] for i in range(0, len(of_layers), len(_NAMES))]
    return (
        [torch.cat([below, before], dim=1)[ours] for below, before, _ in per_layer],
        [bias[ours].unsqueeze(1) for _, _, bias in per_layer],
        grads[-2],
        grads[-1],
    )
