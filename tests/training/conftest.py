"""A folder of aligned faces: two real portraits, their mirror images, in several lights."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facedeid.errors import OptionError
from facedeid.faces import align, detect, frame
from facedeid.models import Recognizer

RUNS = {"trained", "gan", "compact", "paper"}
"""Fixtures that are a whole small training run, of half a minute."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole runs are slow, but for those of the default method's recipe."""
    for item in items:
        ours = item.path.parent == Path(__file__).parent
        quick = item.path.name == "test_embedding_recipe.py"
        if ours and not quick and RUNS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def photos(tmp_path_factory, astronaut, hopper) -> Path:
    """16 photos, 96 px, `faces/*.png`, with `faces_landmarks.npz`; at least one is held out."""
    folder = tmp_path_factory.mktemp("training") / "faces"
    folder.mkdir()
    names, points = [], []
    for person, rgb in (("astronaut", astronaut), ("hopper", hopper)):
        face = detect(rgb)[0]
        place = frame(face, 96)
        crop = ((align(rgb, place).permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255)
        for gain in (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4):
            names.append(f"{person}{gain}")
            points.append(place.to_frame(face.landmarks))
            pixels = (crop * gain).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{names[-1]}.png")
    beside = folder.parent / "faces_landmarks.npz"
    np.savez(beside, names=np.array(names), points=np.array(points, np.float16))
    return folder


@pytest.fixture
def no_threshold(monkeypatch):
    """Recognisers of which no operating point is known, as IR-SE50."""

    def unknown(self, require="library"):
        raise OptionError("no such operating point")

    monkeypatch.setattr(Recognizer, "threshold", unknown)
