"""The smallest step that meets several linear constraints: a small quadratic programme."""

from __future__ import annotations

import torch
from torch import Tensor

from anechoic.errors import GuardError

SOFTENING = 1e-10  # lets contradictory constraints be exceeded, at a price; in units of the step


@torch.no_grad()
def smallest_step(values: Tensor, gradients: Tensor, limits: Tensor) -> Tensor:
    """The smallest step d of each sample after which all its linearised values are in the limits.

        min |d|^2   such that   values_k + <gradients_k, d> <= limits_k   for all k

    The dual is a least-squares problem in non-negative multipliers, of the size of the Gram
    matrix of the gradients. It is solved in float64, on the CPU. A sample whose values are all in
    their limits gets zero, bit for bit.

    Constraints that contradict each other are exceeded by as little as possible: by the least sum
    of the squares of the distances to their half-spaces. A constraint whose gradient is zero
    cannot be met by any step, so it is left out.

    Args:
        values: [b, k].
        gradients: [b, k, n].
        limits: [b, k], or one that broadcasts to it.

    Returns:
        Steps [b, n], in the dtype and on the device of the gradients. They are as long as it
        takes: near a zero of the gradients, very long.

    Raises:
        GuardError: a value, gradient or limit that is NaN, or an infinite gradient or excess.

    Source: Lawson and Hanson, 1974, Solving Least Squares Problems, chapter 23.

    >>> smallest_step(torch.tensor([[0.9]]), torch.tensor([[[3.0, 4.0]]]), torch.tensor([[0.4]]))
    tensor([[-0.0600, -0.0800]])
    """
    from scipy.optimize import nnls

    excess = (values.double() - limits.double()).cpu()
    wide = gradients.double()
    norms = torch.linalg.vector_norm(wide, dim=2, keepdim=True)
    if not (torch.isfinite(excess) | (excess < 0)).all() or not torch.isfinite(norms).all():
        raise GuardError(
            "a constraint of the guidance is not finite, so it cannot be met; run the model in a "
            "wider number format (fp32 or bf16)"
        )
    usable = norms > torch.finfo(gradients.dtype).tiny
    normals = torch.where(usable, wide / norms, 0.0)
    distances = torch.where(usable[..., 0].cpu(), excess / norms[..., 0].cpu(), -torch.inf)
    lengths = torch.zeros_like(excess)  # of the part of the step along each normal
    gram = (normals @ normals.mT).cpu()
    for row in (distances > 0).any(1).nonzero()[:, 0].tolist():
        some = torch.isfinite(distances[row]).nonzero()[:, 0]
        matrix = gram[row][some][:, some] + SOFTENING * torch.eye(len(some), dtype=gram.dtype)
        root = torch.linalg.cholesky(matrix)
        target = torch.linalg.solve_triangular(root, distances[row][some, None], upper=False)
        lengths[row, some] = torch.from_numpy(nnls(root.mT.numpy(), target[:, 0].numpy())[0])
    step = -(lengths[:, None].to(normals) @ normals)[:, 0]
    largest = torch.finfo(gradients.dtype).max
    return step.clamp(-largest, largest).to(gradients.dtype)
