"""FSAP: adversarial perturbation of a face's code in the latent space of a generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facedeid.faces import feature_masks
from facedeid.inversion import Detail, Inverted, Spared, invert, refined, tuned
from facedeid.landmarks import BROWS, NOSE
from facedeid.losses import displacement, mse, ssim
from facedeid.methods.adversarial import Adversarial, check_gradients, together
from facedeid.methods.base import Deidentified, number, word
from facedeid.methods.retouching import marks
from facedeid.models import Recognizer
from facedeid.nets.pullback import Pullback, pullback
from facedeid.nets.speed import fast_bf16
from facedeid.optimize import Problem, State, descend

if TYPE_CHECKING:
    from facedeid.models import Models
    from facedeid.nets.landmark_net import LandmarkNet
    from facedeid.nets.lpips import Lpips
    from facedeid.nets.style_pair import LatentPair

__all__ = ["Fsap", "Perturbation", "Steps", "perturb"]

Mode = Literal["bi-loss", "id-only"]
Space = Literal["likely", "all"]


@dataclass(frozen=True)
class Likeness:
    """Who is asked whether a face is still the same: L_I = 1 - cos (eq. 3), per recogniser.

    Vectors are centred first where a recogniser's share a large common part (dlib's: two people
    have cosine 0.8): on the mean of the synthetic identities that ship.
    """

    recognizer: Recognizer
    centre: Tensor | float

    @classmethod
    def of(cls, recognizer: Recognizer, models: "Models") -> "Likeness":
        """As it is for unit vectors, centred otherwise.

        Raises:
            OptionError: a Euclidean recogniser of which the bank has no features.
        """
        if recognizer.spec.metric == "cosine":
            return cls(recognizer, 0.0)
        return cls(recognizer, models.identities(recognizer.name).mean(0))

    def unit(self, faces: Tensor, landmarks: Tensor) -> Tensor:
        """Faces N×3×s×s -> unit vectors N×D."""
        return F.normalize(self.recognizer.embed(faces, landmarks) - self.centre)


@dataclass(frozen=True)
class Steps:
    """Algorithm 1's rule: λ_I·sign(∂L_I) every 1 + k steps, else -λ_p·Σ sign(∂L).

    The problem has taken the signs of the attribute losses already. `decay` is the momentum of
    the identity steps, which the paper does not have.
    """

    identity: float
    attributes: float
    inner: int
    decay: float = 0.0

    def start(self, x: Tensor) -> State:
        """No momentum."""
        return (torch.zeros_like(x),)

    def step(self, gradient: Tensor, state: State, i: int) -> tuple[Tensor, State]:
        """See the class."""
        (momentum,) = state
        if i % (1 + self.inner):
            return -self.attributes * gradient, (momentum.expand_as(gradient),)
        size = gradient.abs().mean((2, 3), keepdim=True).clamp_min(1e-12)
        momentum = self.decay * momentum + gradient / size
        return -self.identity * momentum.sign(), (momentum,)


@dataclass
class Perturbation(Problem):
    """Codes on their way: gradients of L_I, or the three signs of the attribute losses together."""

    pair: "LatentPair"
    found: Inverted
    own: Sequence[Tensor]
    judges: Sequence[Likeness]
    distance: "Lpips"
    tau: float
    inner: int
    detail: Detail
    residue: float = 1.0
    """Share kept of what the generator could not draw (with detail "kept")."""
    space: Space = "all"
    """`likely`: codes stay where the pair's prior finds faces."""
    landmarks: "LandmarkNet | None" = None
    """Places the landmarks whose displacement is one more attribute loss."""
    expression: float = 1.0
    """What its sign weighs beside those of the others."""
    marks: float = 0.0
    """The same for what shows that a face was made (`facedeid.methods.retouching`); 0: no loss."""
    bf16: bool = False
    """Decode in bfloat16: about twice as fast where the machine has it (`nets.speed`)."""
    history: list[list[tuple[float, float]]] = field(init=False)
    """Per face, L_I and the attribute loss of every outer step."""
    best: Tensor = field(init=False)
    farthest: Tensor = field(init=False)
    """L_I of `best`."""
    placed: Tensor = field(init=False)
    """Landmarks of the faces as they were, where the network is given."""
    features: Sequence[Tensor] = field(init=False)
    """Of the faces as they were, for the perceptual distance."""
    kept: Tensor = field(init=False)
    """Where edges are missed if they fade: brows and nose, N×1×s×s. Not folds or frames, which
    would be made up for by dark patches."""
    generator: Pullback = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.found.codes)
        self.history = [[] for _ in range(count)]
        self.best = self.found.codes.clone()
        self.farthest = torch.full((count,), -1.0, device=self.best.device)
        self.generator = pullback(self.pair, bf16=self.bf16)
        with torch.no_grad():
            self.features = self.distance.maps(self.found.cover)
            if self.landmarks is not None:
                self.placed = self.landmarks(self.found.cover)
        if self.marks:
            side, parts = self.found.cover.shape[-1], (BROWS[:5], BROWS[5:], NOSE)
            soft = feature_masks(self.found.landmarks, side, parts, 3 * side / 128)
            self.kept = (3 * soft).clamp(0, 1).to(self.found.cover)

    def apart(self, shown: Tensor, rows: Tensor) -> Tensor:
        """L_I per recogniser and face, K×N."""
        points = self.found.landmarks[rows.to(self.found.landmarks.device)]
        pairs = zip(self.judges, self.own, strict=True)
        return torch.stack([1 - (j.unit(shown, points) * own[rows]).sum(1) for j, own in pairs])

    def attributes(self, shown: Tensor, rows: Tensor) -> list[Tensor]:
        """Eq. 4: MSE, perceptual distance, 1 - SSIM, each N; how far landmarks move; marks."""
        cover = self.found.cover[rows]
        losses = [
            mse(shown, cover),
            self.distance.between(self.distance.maps(shown), [x[rows] for x in self.features]),
            1 - ssim(shown, cover),
        ]
        if self.landmarks is not None:
            moved = displacement(self.placed[rows], self.landmarks(shown), shown.shape[-1])
            losses.append(moved.mean(1) / 256)
        if self.marks:
            losses.append(marks(cover, shown.float(), self.kept[rows]))
        return losses

    def gradients(self, x: Tensor, rows: Tensor, i: int) -> Tensor:
        """1×N×L×D. One decoding; its gradients are pulled back from the pixels together."""
        part = self.found.rows(rows)
        made, known = self.generator.decode(x)
        with torch.enable_grad():
            leaf = made.requires_grad_()
            placed = part.registered(leaf, self.detail, self.residue)
            shown = part.shown(placed, self.detail, self.residue)
            if i % (1 + self.inner) == 0:
                apart = self.apart(shown, rows)
                self._note(x, shown.detach(), apart.detach().amin(0), rows)
                slopes = torch.autograd.grad(-apart.mean(0).sum(), leaf)
                return self.generator.pull(known, torch.stack(slopes))
            losses: list[Tensor] = []
            seen = shown.detach().requires_grad_()
            for loss in self.attributes(seen, rows):
                (pixels,) = torch.autograd.grad(loss.sum(), seen)
                losses += torch.autograd.grad(shown, leaf, pixels, retain_graph=True)
        signs = self.generator.pull(known, torch.stack(losses)).sign()
        beyond = [self.expression] * (self.landmarks is not None) + [self.marks] * (self.marks > 0)
        weights = x.new_tensor([1, 1, 1, *beyond])
        return torch.einsum("k,knld->nld", weights, signs)[None]

    @torch.no_grad()
    def _note(self, x: Tensor, shown: Tensor, apart: Tensor, rows: Tensor) -> None:
        """History, and the best code so far: the first that passes τ, else the farthest."""
        losses = torch.stack(self.attributes(shown, rows)).sum(0)
        for row, far, loss in zip(rows.tolist(), apart.tolist(), losses.tolist(), strict=True):
            self.history[row].append((round(far, 4), round(loss, 4)))
        better = apart > self.farthest[rows]
        self.best[rows[better]] = x[better]
        self.farthest[rows[better]] = apart[better]

    def project(self, x: Tensor, rows: Tensor) -> Tensor:
        """Codes K×N×L×D to `space`."""
        if self.space == "all":
            return x
        return torch.stack([self.pair.likely(codes, self.found.codes[rows]) for codes in x])

    def finished(self, x: Tensor, rows: Tensor, i: int) -> Tensor | None:
        """Whom every recogniser sees farther than τ from itself (asked after outer steps)."""
        return None if i % (1 + self.inner) else self.farthest[rows] > self.tau


def perturb(problem: Perturbation, rule: Steps, iterations: int) -> tuple[Tensor, Tensor]:
    """Algorithm 1 on a batch, faces that are done left out: codes N×L×D and who converged, N.

    One more look than `iterations` outer steps, at what the last of them made.
    """
    descend(problem, rule, problem.found.codes, iterations * (1 + problem.inner) + 1)
    return problem.best, problem.farthest > problem.tau


@dataclass(frozen=True, kw_only=True)
class Fsap(Adversarial):
    """Xue et al. 2022, eq. 3-8 and algorithm 1.

    The face's W+ code moves by `identity_step` along the signs of the gradient of the identity
    loss, then `inner` times back by `attribute_step` along those of MSE, perceptual distance
    (facedeid-lpips) and 1 - SSIM, `iterations` times at most, until every recogniser puts the face
    farther than `tau` (1 - cosine) from itself. `mode` "id-only" leaves the attributes alone.

    Beyond the paper: `space` "likely" takes every step to where the pair's prior finds faces
    (`StylePair.likely`), so that it becomes somebody else instead of a pattern that one recogniser
    misreads; `registered` warps what is generated so that features stay where the photo has them
    (`facedeid.registration`), and `expression` weighs a fourth attribute loss, how far landmarks
    still move (0: without), `marks` a fifth, what shows that a face was made (0: without, 2 looks
    better and was measured on few photos); `detail` "kept" (see `facedeid.inversion`) with the
    share `residue` of what the generator cannot draw (less looks softer and hides more), and with
    it `tone`, which keeps the photo's light and skin tone, and `spared`, the features that stay the
    photo's ("none": everything within the face is changed); `momentum`, several recognisers,
    `refine` steps of latent optimisation and `tune` of pivotal tuning before, `pair` "psp" for the
    published networks, which have no prior (all of W+ is open there). Step sizes are in units of
    the codes; the defaults suit "likely". The paper's setting: iterations 100, inner 6,
    identity_step 0.02, attribute_step 0.008, expression 0, registered False, space "all", detail
    "none".
    """

    name: ClassVar[str] = "fsap"
    summary: ClassVar[str] = "moves the face's code in a generator's latent space"
    source: ClassVar[str] = "Xue et al. 2022"
    tau: float = 1.0
    iterations: int = 20
    inner: int = 2
    identity_step: float = 0.6
    attribute_step: float = 0.03
    mode: Mode = "bi-loss"
    momentum: float = 0.0
    detail: Detail = "kept"
    residue: float = 0.1
    space: Space = "likely"
    expression: float = 1.0
    marks: float = 0.0
    registered: bool = True
    tone: bool = True
    spared: Spared = "forehead-eyes-mouth"
    refine: int = 0
    tune: int = 0
    pair: str = "facedeid"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("tau", self.tau, 0, 2)
        number("iterations", self.iterations, 1, 10_000)
        number("inner", self.inner, 0, 100)
        number("identity_step", self.identity_step, 0, 10)
        number("attribute_step", self.attribute_step, 0, 10)
        number("expression", self.expression, 0, 100)
        number("marks", self.marks, 0, 100)
        number("residue", self.residue, 0, 1)
        number("momentum", self.momentum, 0, 1)
        number("refine", self.refine, 0, 100_000)
        number("tune", self.tune, 0, 100_000)
        word("mode", self.mode, Mode)
        word("detail", self.detail, Detail)
        word("space", self.space, Space)
        word("spared", self.spared, Spared)

    @property
    def varies(self) -> bool:
        """It draws nothing."""
        return False

    @property
    def carry(self) -> Literal["replace", "change"]:
        """What the generator cannot draw stays, unless the paper's way is asked for."""
        return "replace" if self.detail == "none" else "change"

    @property
    def again(self) -> tuple["Fsap", ...]:
        """Once and twice farther, for judges that `recognizers` did not stand for."""
        return tuple(
            replace(
                self,
                tau=round(min(2.0, self.tau + 0.1 * n), 4),
                identity_step=round(min(10.0, self.identity_step * (1 + 0.6 * n)), 4),
            )
            for n in (1, 2)
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the threshold is worth for others."""
        known = ", ".join(self.surrogates)
        return (f"{self.name} stops once {known} sees somebody else; others may not yet",)

    def ready(self, models: "Models") -> None:
        """The recognisers are here and can be asked, and so is the pair."""
        self._judges(models)
        models.pair(self.pair)

    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """Perturb, `together`."""
        made: list[Tensor] = []
        facts: list[Mapping[str, Any]] = []
        for part in together(len(faces), models):
            points = None if landmarks is None else landmarks[part]
            done, said = self._perturbed(faces[part].to(models.device), points, models)
            made.append(done.to(faces.device))
            facts.extend(said)
        return Deidentified(torch.cat(made), tuple(facts))

    def _judges(self, models: "Models") -> list[Likeness]:
        recognizers = models.recognizers(self.recognizers)
        for recognizer in recognizers:
            check_gradients(recognizer)
        return [Likeness.of(recognizer, models) for recognizer in recognizers]

    def _perturbed(
        self, faces: Tensor, landmarks: Tensor | None, models: "Models"
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        judges = self._judges(models)
        pair, found = self._inverted(faces, landmarks, models)
        with torch.no_grad():
            own = [j.unit(found.cover, found.landmarks) for j in judges]
            start = [
                1 - (j.unit(found.shown(found.base, "none"), found.landmarks) * o).sum(1)
                for j, o in zip(judges, own, strict=True)
            ]
        inner = self.inner if self.mode == "bi-loss" else 0
        problem = Perturbation(
            pair,
            found,
            own,
            judges,
            models.perceptual,
            self.tau,
            inner,
            self.detail,
            self.residue,
            self.space,
            models.landmarks if self.expression else None,
            self.expression,
            self.marks,
            fast_bf16(models.device.type),
        )
        rule = Steps(self.identity_step, self.attribute_step, inner, self.momentum)
        codes, converged = perturb(problem, rule, self.iterations)
        with torch.no_grad():
            # in float32, as `base` is: an unchanged code changes nothing
            made = found.registered(pair.decode(codes), self.detail, self.residue)
            result = found.full(faces, made, self.detail, self.residue)
        facts = [
            {
                "converged": bool(converged[n]),
                "steps": len(problem.history[n]) - 1,
                "identity_loss": round(problem.farthest[n].item(), 4),
                "identity_loss_of_reconstruction": round(torch.stack(start)[:, n].amin().item(), 4),
                "history": problem.history[n],
            }
            for n in range(len(faces))
        ]
        return result, facts

    def _inverted(
        self, faces: Tensor, landmarks: Tensor | None, models: "Models"
    ) -> tuple["LatentPair", Inverted]:
        pair = models.pair(self.pair)
        network = models.landmarks if self.registered else None
        found = invert(pair, faces, landmarks, network, tone=self.tone, spared=self.spared)
        if self.refine:
            found = refined(pair, found, models.perceptual, steps=self.refine)
        if self.tune:
            return tuned(pair, found, models.perceptual, steps=self.tune)
        return pair, found
