"""The loss formulas in plain torch: features [B, D], logits [B, C], labels [B] to scalar losses.

Half-precision inputs are computed in float32; float64 stays float64 (for gradcheck).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def separation_loss_reference(
    features: Tensor, labels: Tensor, *, temperature: float = 0.07, empty_anchors: str = "drop"
) -> Tensor:
    """Eq. 6: batch supervised-contrastive loss, one view, anchors without a positive left out.

    L_sep(i) = -1/|P(i)| sum_{p in P(i)} log( exp(z_i.z_p/tau) / sum_{a != i} exp(z_i.z_a/tau) )
    """
    z = _at_least_float32(features)
    batch = z.shape[0]
    if batch < 2:  # no other item: A(i) is empty and Eq. 6 has no term
        return (z * 0.0).sum()
    similarity = z @ z.T / temperature  # [B, B]
    itself = torch.eye(batch, dtype=torch.bool, device=z.device)
    log_denominator = similarity.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    log_probability = similarity - log_denominator
    positive = (labels[:, None] == labels[None, :]) & ~itself
    positives = positive.sum(dim=1)
    per_anchor = -(log_probability * positive).sum(dim=1) / positives.clamp(min=1)
    if empty_anchors == "zero":
        return per_anchor.sum() / batch
    return per_anchor.sum() / (positives > 0).sum().clamp(min=1)


def margin_loss_reference(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    margins: Tensor | None = None,
    bias: Tensor | None = None,
    inverse_temperature: Tensor | None = None,
    scale: float = 1.0,
    focal_gamma: float = 0.0,
    focal_weighting: str = "outside",
    reduction: str = "weighted_mean",
) -> Tensor:
    """Weighted adjusted cross-entropy and focal loss in one formula (the README has the named ones).

    u_ic = scale (logit_ic / T_c - margin_c [c = y_i]) + bias_c
    l_i = -log softmax(u_i)[y_i],  w_i = class_weights[y_i]
    outside: f_i = w_i (1 - e^-l_i)^gamma l_i        inside: v_i = w_i l_i, f_i = (1 - e^-v_i)^gamma v_i
    weighted_mean: sum f / sum w                     batch: sum f / B
    """
    u = _at_least_float32(logits)
    if inverse_temperature is not None:
        u = u * inverse_temperature.to(u.dtype)
    index = labels.long()[:, None]
    if margins is not None:
        u = u - torch.zeros_like(u).scatter(1, index, margins.to(u.dtype)[labels.long()][:, None])
    u = u * scale
    if bias is not None:
        u = u + bias.to(u.dtype)
    loss = u.logsumexp(dim=1) - u.gather(1, index).squeeze(1)  # [B], >= 0 up to rounding
    weight = torch.ones_like(loss) if class_weights is None else class_weights.to(u.dtype)[labels.long()]
    weighted = weight * loss
    if focal_gamma > 0:
        inner = weighted if focal_weighting == "inside" else loss
        # 1 - e^-l by expm1; the clamp keeps the power's gradient finite where p = 1 and gamma < 1
        weighted = (-torch.expm1(-inner)).clamp(min=torch.finfo(u.dtype).tiny) ** focal_gamma * weighted
    return weighted.sum() / (weight.sum() if reduction == "weighted_mean" else weight.numel())
