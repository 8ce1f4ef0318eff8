"""The Laplace mechanism on a vector, with the sensitivity it assumes.

Wen et al., "IdentityDP", Neurocomputing 2022, section 3.3: M(X) = r(X) + Lap(Δf / ε) per
coordinate, Δf = max ||r(X) - r(X')||_1 over all faces X, X'. ε is the total for the vector. The
noise comes from OpenDP, because naive floating-point samplers break the guarantee (Mironov 2012).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from facedeid.errors import OptionError, PrivacyError

__all__ = ["Laplace", "SeededLaplace", "Sensitivity", "bounded", "empirical"]

Ball = Literal["l1", "l2"]

SLACK = 1e-9
"""Relative: what rounding may add to the norm of a clipped vector, to a sensitivity, to a scale."""


@dataclass(frozen=True)
class Sensitivity:
    """How far in L1 two faces' vectors can lie apart, and why that is so."""

    value: float
    """Δf."""
    kind: Literal["bounded", "empirical"]
    coordinate: float
    """How far one coordinate can move."""
    ball: Ball | None = None
    """The unit ball to which vectors are clipped; None: they are not."""

    def clip(self, vectors: Tensor) -> Tensor:
        """N×D vectors as float64, those outside of the ball scaled down to its surface."""
        vectors = vectors.double()
        if self.ball is None:
            return vectors
        order = 1 if self.ball == "l1" else 2
        norms = torch.linalg.vector_norm(vectors, ord=order, dim=1, keepdim=True)
        clipped: Tensor = vectors / norms.clamp_min(1)
        return clipped

    def __str__(self) -> str:
        """For reports."""
        if self.kind == "empirical":
            return f"empirical, {self.value:.6g} over a reference set: no guarantee outside of it"
        return f"bounded, {self.value:.6g} for vectors in the unit {str(self.ball).upper()} ball"


def bounded(dim: int, ball: Ball = "l2") -> Sensitivity:
    """The analytic constant: the diameter in L1 of a unit ball in `dim` dimensions.

    2·sqrt(dim) for the L2 ball (the two ends of a diagonal), 2 for the L1 ball. It holds for every
    face, whatever the recogniser makes of it, because vectors outside are clipped.

    Raises:
        OptionError: no such ball.
    """
    if ball not in ("l1", "l2"):
        raise OptionError(f"the ball must be l1 or l2, got {ball!r}")
    widest = 2 * math.sqrt(dim) if ball == "l2" else 2.0
    return Sensitivity(widest * (1 + SLACK), "bounded", 2 * (1 + SLACK), ball)


def empirical(vectors: Tensor) -> Sensitivity:
    """The paper's: the largest L1 distance between two of the reference vectors N×D.

    Not a guarantee for a face outside of the reference set.

    Raises:
        OptionError: fewer than two vectors.
    """
    if len(vectors) < 2:
        raise OptionError(f"a sensitivity needs two faces at least, got {len(vectors)}")
    vectors = vectors.double()
    widest = max(float(torch.cdist(part, vectors, p=1).max()) for part in torch.split(vectors, 256))
    span = float((vectors.amax(0) - vectors.amin(0)).max())
    return Sensitivity(widest * (1 + SLACK), "empirical", span, None)


@dataclass(frozen=True)
class Laplace:
    """Noise from OpenDP's vetted sampler; takes no seed.

    `epsilon` is the budget of one release of the whole vector; infinite: no noise, no privacy.

    Raises:
        OptionError: epsilon is not positive.
    """

    epsilon: float
    sensitivity: Sensitivity
    dim: int

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise OptionError(f"epsilon must be positive, got {self.epsilon:g}")

    @property
    def private(self) -> bool:
        """Whether the release has any guarantee."""
        return math.isfinite(self.epsilon)

    @property
    def scale(self) -> float:
        """b of the Laplace noise: Δf / ε."""
        return self.sensitivity.value / self.epsilon * (1 + SLACK)

    @property
    def per_coordinate(self) -> float:
        """ε of one coordinate alone: what it can move, over the scale.

        The paper's text speaks of noise per coordinate; those budgets do not add up to the total,
        because no two vectors differ by the most in every coordinate at once.
        """
        return self.sensitivity.coordinate / self.scale if self.scale else math.inf

    def ready(self) -> None:
        """Raise what would keep `release` from drawing noise."""
        if self.private:
            self._measurement()

    def release(self, vectors: Tensor) -> Tensor:
        """N×D vectors, clipped, with noise: float64 on the CPU, each row a release of its own.

        Raises:
            OptionError: vectors of another length, or not finite.
            PrivacyError: OpenDP is not installed, or its own account exceeds epsilon.
        """
        clipped = self._checked(vectors)
        if not self.private:
            return clipped
        measure = self._measurement()
        return torch.tensor([measure(row) for row in clipped.tolist()], dtype=torch.float64)

    def _checked(self, vectors: Tensor) -> Tensor:
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise OptionError(f"vectors must be N×{self.dim}, got {tuple(vectors.shape)}")
        if not torch.isfinite(vectors).all():
            raise OptionError("vectors must be finite")
        return self.sensitivity.clip(vectors.detach().cpu())

    def _measurement(self) -> Any:
        try:
            from opendp import domains, metrics
            from opendp.measurements import make_laplace
            from opendp.mod import enable_features
        except ImportError:
            raise PrivacyError(
                "identity-dp takes its noise from OpenDP, which is not installed: "
                "pip install 'facedeid[privacy]'"
            ) from None
        enable_features("contrib")
        domain = domains.vector_domain(domains.atom_domain(T=float, nan=False), size=self.dim)
        measurement = make_laplace(domain, metrics.l1_distance(T=float), scale=self.scale)
        cost = measurement.map(self.sensitivity.value)  # type: ignore[no-untyped-call]
        if cost > self.epsilon:
            raise PrivacyError(
                f"a release would cost ε = {cost:.12g}, more than {self.epsilon:.12g}: nothing was "
                "released; choose a smaller epsilon"
            )
        return measurement


@dataclass(frozen=True)
class SeededLaplace(Laplace):
    """NOT PRIVATE: noise from a generator with a known state, for tests and repeatable studies."""

    random: tuple[torch.Generator, ...] = ()

    @property
    def private(self) -> bool:
        """Never."""
        return False

    def release(self, vectors: Tensor) -> Tensor:
        """As `Laplace.release`, row i with noise from generator i."""
        clipped = self._checked(vectors)
        rows = []
        for _, generator in zip(clipped, self.random, strict=True):
            uniform = torch.rand(self.dim, generator=generator, dtype=torch.float64) - 0.5
            rows.append(-uniform.sign() * torch.log1p(-2 * uniform.abs()))
        return clipped + self.scale * torch.stack(rows) if rows else clipped
