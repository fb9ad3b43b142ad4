"""KL: how far a tagger's view of generated sound is from its view of real sound."""

from __future__ import annotations

import numpy as np

from anechoic.errors import BadSetting
from anechoic.metrics.inputs import Array, Floats, same_length
from anechoic_lab.metrics.inputs import rows, same_width

EPS = 1e-6  # as AudioGen and AudioLDM's evaluation have it
SUM = 1e-3  # what half precision loses of a sum of 1


def kl_per_pair(reference: Array, generated: Array, *, eps: float = EPS) -> Floats:
    """KL(reference || generated) of each pair of clips, in nats.

        KL_i = sum_c p_ic * log( p_ic / (q_ic + eps) ),   p of the real clip, q of the generated

    The direction: the real clip is the truth, the generated one its model, so a class that is
    missed costs much and one that is invented little. `eps` is added to q and q is not
    renormalised, as published; with C classes a value can thus be under 0 by log(1 + C * eps).

    Args:
        reference: class probabilities [n, c] of the real clips: the softmax of a tagger's logits.
        generated: the same of the clips generated from their captions, in the same order.
        eps: 0 gives the divergence itself.

    Returns:
        [n]; the paper's figure is the mean (`kl_paired`).

    Raises:
        BadSetting: rows that are not probabilities, different shapes, or an infinite divergence.

    Source: Kreuk et al., 2022 (AudioGen, arXiv:2209.15352); Yang et al., 2022 (arXiv:2207.09983).

    >>> kl_per_pair(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]]), eps=0)
    array([0.14384104, 0.69314718])
    """
    p, q = _probabilities(reference, generated)
    same_length(p, q, "reference clips", "generated clips")
    return _divergence(p, q, eps)


def kl_paired(reference: Array, generated: Array, *, eps: float = EPS) -> float:
    """Mean of `kl_per_pair`: what audio papers call KL.

    >>> round(kl_paired(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])), 5)
    0.14384
    """
    return float(kl_per_pair(reference, generated, eps=eps).mean())


def kl_of_means(reference: Array, generated: Array, *, eps: float = EPS) -> float:
    """KL(mean of the reference || mean of the generated), in nats, for clips that are not paired.

    It compares how often each class occurs, whatever the prompts; never more than `kl_paired`.

    Args:
        reference, generated: class probabilities [n, c] and [m, c].
        eps: as in `kl_per_pair`.

    Raises:
        BadSetting: as `kl_per_pair`, except that n and m may differ.

    >>> kl_of_means(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.5, 0.5]]), eps=0)
    0.0
    """
    p, q = _probabilities(reference, generated)
    return float(_divergence(p.mean(0, keepdims=True), q.mean(0, keepdims=True), eps)[0])


def _divergence(p: Floats, q: Floats, eps: float) -> Floats:
    from scipy.special import rel_entr

    if not 0 <= eps < 1:
        raise BadSetting(f"expected eps in 0 to 1, got {eps:g}; give 1e-6, as published")
    result: Floats = rel_entr(p, q + eps).sum(1)
    if not np.isfinite(result).all():
        raise BadSetting(
            "expected probabilities over 0 wherever the reference has them, got a 0 and with it an "
            "infinite KL; give an eps, as 1e-6"
        )
    return result


def _probabilities(reference: Array, generated: Array) -> tuple[Floats, Floats]:
    checked = []
    for x, what in ((reference, "reference"), (generated, "generated")):
        p = rows(x, f"{what} class probabilities")
        if (p < 0).any() or (abs(p.sum(1) - 1) > SUM).any():
            raise BadSetting(
                f"expected {what} class probabilities that sum to 1, got rows that sum to "
                f"{p.sum(1).min():g} to {p.sum(1).max():g}, from {p.min():g} up; give the softmax "
                "of the tagger's logits"
            )
        checked.append(p)
    same_width(checked[0], checked[1], "reference", "generated probabilities")
    return checked[0], checked[1]
