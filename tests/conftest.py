"""Real faces for all tests: the portraits that come with scikit-image and matplotlib."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported: on CPUs with AVX-512, oneDNN's backward pass of convolutions with very
# few channels, which only tests have, writes past its memory (seen with torch 2.13).
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import matplotlib as mpl
import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

from facedeid.cli import main
from facedeid.faces import detection

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def _the_same_pixels_are_searched_once() -> Iterator[None]:
    """dlib's detectors give the same for the same pixels, and took half of the suite's time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_hog", "_find_cnn"):
            patch.setattr(detection, name, _remembered(getattr(detection, name)))
        yield


def _remembered(find: Callable[..., NDArray[np.float64]]) -> Callable[..., NDArray[np.float64]]:
    known: dict[object, NDArray[np.float64]] = {}

    def found(pixels: NDArray[np.uint8], *more: float) -> NDArray[np.float64]:
        key = (hashlib.sha256(np.ascontiguousarray(pixels)).digest(), pixels.shape, *more)
        if key not in known:
            known[key] = find(pixels, *more)
        return known[key].copy()

    return found


@pytest.fixture(autouse=True)
def _no_budget_of_the_user(tmp_path_factory, monkeypatch) -> None:
    """Releases in tests are charged to nobody."""
    monkeypatch.setenv("FACEDEID_LEDGER", str(tmp_path_factory.getbasetemp() / "budget.sqlite"))


@pytest.fixture(scope="session")
def astronaut() -> NDArray[np.uint8]:
    """512×512 RGB; the face is about 90 px wide, at 175,76 to 266,167."""
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def hopper_path() -> Path:
    return Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="session")
def hopper(hopper_path: Path) -> NDArray[np.uint8]:
    """600×512 RGB; one large face."""
    return np.asarray(Image.open(hopper_path).convert("RGB"))


@pytest.fixture
def typed(capsys):
    """What a user types after `facedeid`: exit status, and all that is printed."""

    def run(*arguments):
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run
