"""The recipes by name, and how their hyper-parameters are set from text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from math import inf, isfinite
from typing import Any

from facedeid.errors import TrainingError
from facedeid.nets.private_encoder import STEADY
from facedeid.training.autoencoder import AutoencoderRecipe, EncoderRecipe, JointRecipe
from facedeid.training.embedding import EmbeddingRecipe
from facedeid.training.generator import GeneratorRecipe
from facedeid.training.hanawa import HanawaRecipe
from facedeid.training.identity import IdentityRecipe
from facedeid.training.landmarks import LandmarksRecipe
from facedeid.training.perceptual import PerceptualRecipe
from facedeid.training.private import PaperEncoderRecipe, PrivateEncoderRecipe
from facedeid.training.recognizer import RecognizerRecipe
from facedeid.training.wen import WenRecipe

__all__ = ["RECIPES", "AnyRecipe", "configured"]

AnyRecipe = (
    RecognizerRecipe
    | PerceptualRecipe
    | LandmarksRecipe
    | EmbeddingRecipe
    | HanawaRecipe
    | IdentityRecipe
    | AutoencoderRecipe
    | JointRecipe
    | GeneratorRecipe
    | EncoderRecipe
    | WenRecipe
    | PrivateEncoderRecipe
    | PaperEncoderRecipe
)

RECIPES: Mapping[str, type[AnyRecipe]] = {
    "recognizer": RecognizerRecipe,
    "perceptual": PerceptualRecipe,
    "landmarks": LandmarksRecipe,
    "feature-embedding": EmbeddingRecipe,
    "feature-embedding-paper": HanawaRecipe,
    "identity-dp": IdentityRecipe,
    "identity-dp-paper": WenRecipe,
    "autoencoder": AutoencoderRecipe,
    "joint": JointRecipe,
    "generator": GeneratorRecipe,
    "encoder": EncoderRecipe,
    "private-encoder": PrivateEncoderRecipe,
    "private-encoder-paper": PaperEncoderRecipe,
}
BOUNDS: Mapping[str, tuple[float, float]] = {
    "steps": (1, inf),
    "epochs": (1, inf),
    "batch": (1, inf),
    "lr": (0, inf),
    "weight_decay": (0, inf),
    "warmup": (0, inf),
    "decay_from": (0, 1),
    "ema": (0, 1),
    "adversary_from": (0, inf),
    "flat": (0, 1),
    "mixing": (0, 1),
    "r1": (0, inf),
    "real": (0, 1),
    "shrink": (0, inf),
    "together": (1, inf),
    "lookalikes": (1, inf),
    "levels": (2, 7),
    "steady": (0, STEADY),
    "bank": (1, inf),
    "crop": (32, 256),
    "changed": (1, inf),
    "horizon": (1, inf),
    "layers": (1, 12),
    "scales": (1, 8),
    "dim": (1, inf),
    "stem": (1, inf),
    "shard": (1, inf),
    "shards_first": (1, inf),
    "shards_last": (1, inf),
    "grow_every": (1, inf),
    "whiten_over": (1, inf),
    "beta": (-inf, 1),
}
"""Least and most of settings that any recipe may have."""


def configured(name: str, settings: Sequence[str] = ()) -> AnyRecipe:
    """A recipe, with `name=value` settings (values as JSON, or a bare word) over its defaults.

    Raises:
        TrainingError: no such recipe or setting, or a value of the wrong type or out of bounds.
    """
    if name not in RECIPES:
        raise TrainingError(f"no recipe is called {name!r}; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    idle: frozenset[str] = getattr(recipe, "idle", frozenset())
    defaults = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name not in idle}
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in defaults:
            raise TrainingError(
                f"--set {setting}: write name=value; {name} has {', '.join(sorted(defaults))}"
            )
        changes[key] = _value(setting, text, defaults[key])
        least, most = BOUNDS.get(key, (-inf, inf))
        if key in BOUNDS and not least <= changes[key] <= most:
            asked = [f"{least:g} at least"] * (least > -inf) + [f"{most:g} at most"] * (most < inf)
            raise TrainingError(f"--set {setting}: {', '.join(asked)}")
    return replace(recipe, **changes)


def _value(setting: str, text: str, default: Any) -> Any:
    if isinstance(default, str) and not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        raise TrainingError(f"--set {setting}: {text!r} is not a number or a list") from None
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_typed(setting, one, default[0], default) for one in value)
    return _typed(setting, value, default, default)


def _typed(setting: str, value: Any, like: Any, default: Any) -> Any:
    """A value, or an element of a list, of the type of another."""
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(like):
        what = "" if like is default else "a list of "
        raise TrainingError(
            f"--set {setting}: expected {what}{type(like).__name__}, as {default!r}"
        )
    if isinstance(value, float) and not isfinite(value):
        raise TrainingError(f"--set {setting}: {value} is not a finite number")
    return value
