import shutil

import pytest

from evaluation_photos import make
from facedeid.evaluation.datasets import load
from facedeid.evaluation.originals import Originals
from facedeid.models import Models


@pytest.fixture(scope="session")
def lfw_made(tmp_path_factory, astronaut, hopper):
    return make(tmp_path_factory.mktemp("data") / "lfw", {"Ann_A": astronaut, "Bea_B": hopper})


@pytest.fixture
def lfw(lfw_made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(lfw_made, tmp_path / "lfw")


@pytest.fixture(scope="session")
def models():
    return Models()


@pytest.fixture(scope="session")
def known(lfw_made, models, tmp_path_factory):
    """Data set and originals whose faces are found once for all tests; nobody changes them."""
    dataset = load(f"lfw:{lfw_made}")
    originals = Originals(dataset, models, tmp_path_factory.mktemp("cache"))
    originals.prepare(dataset.keys)
    return dataset, originals
