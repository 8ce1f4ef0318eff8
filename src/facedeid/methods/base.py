"""What a method is: a value that holds hyper-parameters; networks come when it is called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.nets.residual import tint

if TYPE_CHECKING:
    from facedeid.models import Models

__all__ = ["Deidentified", "Method", "Region", "number", "toned", "word"]

Region = Literal["face", "box", "ellipse"]

COLOURLESS = 0.02
"""Mean distance of a pixel's values from their mean, of -1..1, below which a face is grey."""


def number(name: str, value: float, low: float, high: float) -> None:
    """Check an option's range.

    Raises:
        OptionError: it lies outside, or is no number.
    """
    if not low <= value <= high:
        raise OptionError(f"{name} must lie between {low:g} and {high:g}, got {value:g}")


def word(name: str, value: str, kind: Any) -> None:
    """Check an option against the words of its type, a `Literal`.

    Raises:
        OptionError: it is none of them.
    """
    if value not in get_args(kind):
        raise OptionError(f"{name} must be {' or '.join(get_args(kind))}, got {value!r}")


@dataclass(frozen=True)
class Deidentified:
    """Faces after a method: N×3×S×S RGB in [-1, 1], and per face what the method has to say."""

    faces: Tensor
    facts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods.

    Subclasses are frozen dataclasses whose fields are JSON values, so that a method prints,
    compares, travels to worker processes and goes into the report without further code. They
    implement `apply`; callers call the method itself, which checks what goes in and comes out.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `facedeid methods`."""
    source: ClassVar[str]
    """The paper, or "classical"."""
    frame: ClassVar[int | None] = 256
    """Side of the aligned crops that the method wants; None: any, so the photo's own scale."""

    @property
    def carry(self) -> Literal["replace", "change"]:
        """How a result reaches the photo: `change` adds what the method changed (and so keeps
        detail finer than its frame); `replace` puts its pixels there (methods that destroy detail).
        """
        return "change"

    @property
    def region(self) -> Region:
        """What of the crop goes into the photo: the face's outline, or a box or an ellipse."""
        return "face"

    @property
    def surrogates(self) -> tuple[str, ...]:
        """Recognisers the method was trained or optimised against: they are no evidence for it."""
        return ()

    @property
    def varies(self) -> bool:
        """Whether other random numbers give another result."""
        return True

    @property
    def again(self) -> "tuple[Method, ...]":
        """What is tried, one after the other, on a face that is still matched: the method itself
        where another draw may do, or a stronger one.
        """
        return ()

    @property
    def cost(self) -> float | None:
        """ε that a release of a face spends of its person's budget; None: there is no budget."""
        return None

    @property
    def seedable(self) -> bool:
        """Whether results may be made repeatable by a seed."""
        return True

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before relying on these parameters."""
        return ()

    def ready(self, models: "Models") -> None:
        """Raise what would keep the method from running, before anything is charged or written.

        Raises:
            FacedeidError: something is not installed, or an option does not suit the models.
        """

    def apply(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None,
    ) -> Deidentified:
        """De-identify a checked batch; see `__call__`."""
        raise NotImplementedError

    def __call__(
        self,
        faces: Tensor,
        models: "Models",
        *,
        random: Sequence[torch.Generator],
        landmarks: Tensor | None = None,
    ) -> Deidentified:
        """De-identify aligned faces.

        Args:
            faces: tensor N×3×S×S float32, RGB in [-1, 1], in the canonical (FFHQ) frame; never
                written to.
            models: where networks come from.
            random: one generator per face (`facedeid.random.stream`).
            landmarks: N×68×2 in pixels of the frame, for methods that use them.

        Returns:
            As many faces of the same shape, in [-1, 1], with one mapping of facts per face. What
            changes a face without colours has none either.

        Raises:
            OptionError: the batch has the wrong shape, type or range.
        """
        self._check_input(faces, random, landmarks)
        if not len(faces):
            return Deidentified(faces.clone(), ())
        result = self.apply(faces, models, random=random, landmarks=landmarks)
        if result.faces.shape != faces.shape or len(result.facts) != len(faces):
            raise RuntimeError(f"{self.name} changed the shape of its batch: a bug in the method")
        if not torch.isfinite(result.faces).all():
            raise RuntimeError(f"{self.name} produced values that are not finite")
        made = result.faces.clamp(-1, 1)
        if self.carry == "change":
            made = toned(made, faces)
        return Deidentified(made, result.facts)

    def _check_input(
        self, faces: Tensor, random: Sequence[torch.Generator], landmarks: Tensor | None
    ) -> None:
        if not torch.is_tensor(faces):
            raise OptionError(
                f"faces must be a torch tensor (torch.from_numpy), got {type(faces).__name__}"
            )
        if faces.ndim != 4 or faces.shape[1] != 3 or faces.shape[2] != faces.shape[3]:
            raise OptionError(f"faces must be N×3×S×S, got {tuple(faces.shape)}")
        if self.frame is not None and faces.shape[2] != self.frame:
            raise OptionError(f"{self.name} works at {self.frame} px, got {faces.shape[2]}")
        if faces.dtype != torch.float32:
            raise OptionError(f"faces must be float32, got {faces.dtype}")
        if len(faces) and not (faces.amin() >= -1.0001 and faces.amax() <= 1.0001):
            raise OptionError("faces must lie in [-1, 1]")  # and be numbers
        if len(random) != len(faces):
            raise OptionError(f"{len(faces)} faces need as many generators, got {len(random)}")
        if landmarks is not None and tuple(landmarks.shape) != (len(faces), 68, 2):
            raise OptionError(f"landmarks must be N×68×2, got {tuple(landmarks.shape)}")
        if landmarks is not None and not torch.isfinite(landmarks).all():
            raise OptionError("landmarks must be finite numbers")

    def options(self) -> dict[str, Any]:
        """The hyper-parameters, JSON-ready."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def toned(made: Tensor, faces: Tensor) -> Tensor:
    """Faces without colours, within what JPEG does to grey, change in brightness only: N×3×S×S."""
    grey = (tint(faces).abs().flatten(1).mean(1) < COLOURLESS)[:, None, None, None]
    brightness = (made - faces).mean(1, keepdim=True)
    return torch.where(grey, (faces + brightness).clamp(-1, 1), made)
