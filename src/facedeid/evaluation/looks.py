"""How real the faces of a method look: distances of `realism`, with features kept on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facedeid.errors import OptionError
from facedeid.evaluation import realism
from facedeid.evaluation.embedding import Reporter
from facedeid.evaluation.fingerprints import code, digest, recognizer_digest
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.realism import Features, Realism, Sample, features_of, reference_rows
from facedeid.evaluation.releases import Releases
from facedeid.evaluation.shelf import Shelf
from facedeid.evaluation.subjects import Subjects
from facedeid.evaluation.views import Untouched, Views
from facedeid.models import Models
from facedeid.weights import locate
from facedeid.weights.local import sha256_of

__all__ = ["loaded", "look_real"]

MOST, MOST_REFERENCE, LEAST_REFERENCE = 1000, 3000, 50
"""Released faces and faces of the reference at most, and those that a reference should have."""


def loaded(names: Sequence[str], models: Models) -> dict[str, Features]:
    """Features by the texts that ask for them (`features_of`), each once.

    Raises:
        OptionError: unknown name or option, or two of one name.
        WeightsError: weights are missing or do not fit.
    """
    found: dict[str, Features] = {}
    for text in dict.fromkeys(names):
        features = features_of(text, models)
        if any(features.name == each.name for each in found.values()):
            raise OptionError(
                f"--realism: two features are called {features.name}; tables could not tell them "
                "apart"
            )
        found[text] = features
    return found


def look_real(
    untouched: Untouched,
    releases: Sequence[Releases],
    models: Models,
    subjects: Subjects,
    chosen: Mapping[str, Features],
    *,
    seed: int,
    report: Reporter,
) -> dict[str, dict[str, Realism | str]]:
    """Distances of every method's faces to photos of other people.

    Args:
        untouched: the photos as they are.
        releases: the methods.
        models: where recognisers come from.
        subjects: what is released.
        chosen: features (`loaded`).
        seed: of the kernel distance.
        report: told about progress.

    Returns:
        Features -> method, or one of `realism.REFERENCES` -> distances, or why there are none.
    """
    if not chosen:
        return {}
    keys, others = _sides(untouched.originals, subjects)
    untouched.originals.faces.flush()
    found: dict[str, dict[str, Realism | str]] = {}
    for text, features in chosen.items():
        if min(len(keys), len(others)) < 2:
            found[features.name] = {"untouched": "fewer than two faces of two sets of people"}
            continue
        folder = f"features-{digest(text, _weights(text, models), code(realism))}"
        reference = _sample(features, untouched, others, folder, report)
        pictures = (_picture(features, untouched, key) for key in keys)
        report(f"{features.name}: JPEG and blur for comparison")(0, 0)
        rows: dict[str, Realism | str] = {}
        rows |= reference_rows(features, pictures, reference, seed=seed)
        for each in releases:
            sample = _sample(features, each, keys, folder, report)
            known = features.recognizer is not None and each.white_box(features.recognizer)
            rows[each.label] = replace(
                realism.realism(sample, reference, seed=seed), white_box=known
            )
        found[features.name] = rows
    return found


def _sides(originals: Originals, subjects: Subjects) -> tuple[list[str], list[str]]:
    """Photos that are released, and photos of other people."""
    dataset = originals.dataset
    who = dataset.identities or {key: key for key in dataset.keys}
    shown = {who[key] for key in subjects.unique}
    keys, people = list(subjects.unique), list(dict.fromkeys(who[key] for key in subjects.unique))
    groups: dict[str, list[str]] = {}
    for key in dataset.keys:
        if who[key] not in shown:
            groups.setdefault(who[key], []).append(key)
    turns = (key for turn in zip_longest(*groups.values()) for key in turn if key is not None)
    others = list(islice(_with_face(originals, turns), MOST_REFERENCE))
    if len(others) < LEAST_REFERENCE:  # nearly all people are released: half of them must serve
        first = set(people[: (len(people) + 1) // 2])
        others = [key for key in keys if who[key] not in first][:MOST_REFERENCE]
        keys = [key for key in keys if who[key] in first]
    return keys[:MOST], others


def _with_face(originals: Originals, keys: Iterator[str]) -> Iterator[str]:
    return (key for key in keys if originals.face(key) is not None)


def _weights(text: str, models: Models) -> str:
    """Hash of the network that a name of features stands for."""
    kind, _, rest = text.partition(":")
    if kind == "squeezenet":
        return sha256_of(Path(rest) if rest else locate("lpips_squeeze_backbone"))
    return recognizer_digest(models.recognizer(rest if kind == "embedding" else text))


def _picture(features: Features, views: Views, key: str) -> Tensor:
    face = views.originals.face(key)
    if face is None:
        raise OptionError(f"{key}: there is no face in it")
    return features.picture(views.photo(key), face)


@torch.no_grad()
def _sample(
    features: Features, views: Views, keys: Sequence[str], folder: str, report: Reporter
) -> Sample:
    """Features of photos, those on disk among them."""
    progress = report(f"{views.label}: features of {features.name}")
    shelf: Shelf | None = None
    rows: list[NDArray[Any]] = []
    for done, key in enumerate(keys, 1):
        row = None if shelf is None else shelf.get(views.name(key))
        if row is None:
            row = features.extract(_picture(features, views, key)[None]).cpu().numpy()[0]
        if shelf is None:
            shelf = Shelf(views.folder / folder, len(row))
        if views.name(key) not in shelf:
            shelf.put(views.name(key), row)
        rows.append(row)
        progress(done, len(keys))
    if shelf is not None:
        shelf.flush()
    return Sample(features.name, np.stack(rows).astype(np.float64))
