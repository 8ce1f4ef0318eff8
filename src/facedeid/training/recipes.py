"""The recipes by name, and how their hyper-parameters are set from text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from facedeid.errors import TrainingError
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


def configured(name: str, settings: Sequence[str] = ()) -> AnyRecipe:
    """A recipe, with `name=value` settings (values as JSON, or a bare word) over its defaults.

    Raises:
        TrainingError: no such recipe or setting, or a value of the wrong type.
    """
    if name not in RECIPES:
        raise TrainingError(f"no recipe is called {name!r}; there are: {', '.join(RECIPES)}")
    recipe = RECIPES[name]()
    defaults = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in defaults:
            raise TrainingError(
                f"--set {setting}: write name=value; {name} has {', '.join(sorted(defaults))}"
            )
        changes[key] = _value(setting, text, defaults[key])
    return replace(recipe, **changes)


def _value(setting: str, text: str, default: Any) -> Any:
    if isinstance(default, str) and not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise TrainingError(f"--set {setting}: {text!r} is not a number or a list") from None
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise TrainingError(f"--set {setting}: expected {type(default).__name__}, as {default!r}")
    return value
