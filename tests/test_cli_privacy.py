"""Budgets, draws and sensitivity as a user types them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from facedeid import imaging
from facedeid.faces import align, detect, frame
from facedeid.models import Models
from facedeid.privacy import Ledger, empirical


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "budget.sqlite"


def test_a_budget_is_set_spent_shown_refused_and_reset(typed, hopper_path, tmp_path, ledger):
    file = ("--ledger", ledger)
    assert typed("budget", "show", *file)[0] == 0  # empty, and no file is made
    assert not ledger.exists()
    assert typed("budget", "set", "7", "grace", *file)[0] == 0
    protect = ["protect", hopper_path, "-m", "identity-dp", "--epsilon", "6", "--subject", "grace"]
    protect += [*file, "--on-unprotected", "release"]
    code, text = typed(*protect, "-o", tmp_path / "one")
    assert code == 0
    assert "at most ε = 6 of one person" in text
    assert "ε covers the identity vector" in text  # said before anything is done
    code, text = typed(*protect, "-o", tmp_path / "two")
    assert code == 1
    assert "the budget of grace is spent: 6 of 7 is used and a release needs 6" in text
    assert not list((tmp_path / "two").glob("*.jpg"))
    code, text = typed("budget", "show", "grace", *file)
    assert code == 0
    assert [word for word in ("grace", "6", "1", "7") if word not in text] == []
    assert typed("budget", "reset", "grace", *file)[0] == 0
    assert Ledger(ledger).accounts("grace")[0].spent == 0
    assert "grace" in typed("budget", *file)[1]
    assert typed("budget", "set", "none", "grace", *file)[0] == 0
    assert Ledger(ledger).accounts("grace") == []
    assert typed("budget", "set", "5", *file)[0] == 0
    assert "that of all others, 5, holds" in typed("budget", "set", "none", "grace", *file)[1]


def test_a_ledger_that_cannot_be_looked_at(typed, tmp_path):
    code, text = typed("budget", "show", "--ledger", tmp_path / (300 * "x"))
    assert code == 1
    assert "cannot be opened" in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("budget", "set", "much"), "must be a number or none"),
        (("budget", "set", "nan"), "from 0 up"),
        (("budget", "set", "20", ""), "it is empty"),
        (("budget", "reset"), "or --all"),
        (("budget", "show", "nobody"), "knows nobody called 'nobody'"),
        (("budget", "reset", "nobody"), "knows nobody called 'nobody'"),
        (("budget", "--ledger", "{photo}", "show"), "give --ledger after the command: budget show"),
        (("protect", "{photo}", "-m", "identity-dp", "--seed", "1"), "takes no seed"),
        (("protect", "{photo}", "-m", "identity-dp", "--epsilon", "0"), "epsilon must be positive"),
        (("protect", "{photo}", "-m", "identity-dp", "--epsilon", "1e-9"), "1e-06 or more"),
        (("protect", "{photo}", "-m", f"identity-dp:epsilon=1{400 * '0'}"), "must be float"),
        (("protect", "{photo}", "-m", "feature-embedding:identity=99999"), "must lie between 0"),
        (("protect", "{photo}", "-m", "blur", "--epsilon", "3"), "no option 'epsilon'"),
        (("protect", "{photo}", "-m", "identity-dp", "--subject", "*"), "subject must be"),
    ],
)
def test_wrong_words_are_explained(words, complaint, typed, hopper_path, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEDEID_LEDGER", str(tmp_path / "none.sqlite"))
    words = [word.format(photo=hopper_path) for word in words]
    extra = ["-o", tmp_path / "out"] if words[0] == "protect" else []
    code, text = typed(*words, *extra)
    assert code == 2
    assert complaint in text
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_a_file_that_is_no_ledger_is_told_before_anything_is_done(typed, hopper_path, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("no ledger " * 100)
    words = ("protect", hopper_path, "-m", "identity-dp", "--ledger", other, "-o", tmp_path / "out")
    code, text = typed(*words)
    assert code == 1
    assert "notes.txt" in text
    assert not (tmp_path / "out").exists()
    assert other.read_text() == "no ledger " * 100


def test_several_draws_and_their_contact_sheet(typed, hopper_path, tmp_path, ledger):
    out = tmp_path / "out"
    command = ["protect", hopper_path, "-m", "identity-dp", "--draws", "2", "--ledger", ledger]
    code, text = typed(*command, "-o", out, "--on-unprotected", "release")
    assert code == 0
    assert "at most ε = 12 of one person" in text
    assert (out / "contact-sheets" / f"{hopper_path.name}.jpg").is_file()
    for draw in ("draw-1", "draw-2"):
        assert (out / draw / hopper_path.name).is_file()
    again = [*command, "-o", out, "--on-unprotected", "release", "--resume"]
    assert typed(*again)[0] == 0
    assert sum(a.spent for a in Ledger(ledger).accounts()) == 12  # nothing was done again


def test_a_sensitivity_that_could_not_be_written_is_not_measured(typed, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "wall.png")
    code, text = typed("sensitivity", tmp_path / "wall.png", "-o", tmp_path / "no" / "x.json")
    assert code == 1
    assert "no such folder" in text


def test_sensitivity_is_measured_and_labelled(typed, hopper_path, astronaut, tmp_path):
    folder = tmp_path / "reference"
    folder.mkdir()
    shutil.copy(hopper_path, folder / "grace.jpg")
    Image.fromarray(astronaut).save(folder / "eileen.png")
    (folder / "broken.png").write_bytes(b"no picture")
    beside = tmp_path / "facedeid-out"  # nothing is written, so nothing can collide
    beside.mkdir()
    shutil.copy(hopper_path, beside / "grace.jpg")
    target = tmp_path / "sensitivity.json"
    code, text = typed("sensitivity", folder, "-o", target)
    assert code == 0
    assert "2 faces" in text
    assert "no guarantee" in text
    found = json.loads(target.read_text())
    assert typed("sensitivity", folder / "grace.jpg", beside / "grace.jpg")[0] == 0
    assert 2 < found["empirical_sensitivity"] < found["bounded_sensitivity"]
    assert f"measured={found['empirical_sensitivity']:.6g}" in text
    code, text = typed("sensitivity", folder, "-o", target)
    assert code == 1
    assert "exists" in text
    Image.fromarray(np.full((90, 90, 3), 99, np.uint8)).save(tmp_path / "wall.png")
    code, text = typed("sensitivity", tmp_path / "wall.png")
    assert code == 4
    assert "two at least" in text


def test_the_measured_sensitivity_covers_what_is_released(typed, hopper_path, astronaut, tmp_path):
    """It is that of the vectors that identity-dp adds noise to, and not rounded down."""
    folder = tmp_path / "reference"
    folder.mkdir()
    shutil.copy(hopper_path, folder / "grace.jpg")
    Image.fromarray(astronaut).save(folder / "eileen.png")
    code, text = typed("sensitivity", folder, "-o", tmp_path / "out.json")
    assert code == 0
    models, units = Models(), []
    for path in folder.iterdir():
        rgb = imaging.read(path).rgb8
        for face in detect(rgb):
            place = frame(face)
            points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None]
            vector = models.recognizer("dlib").embed(align(rgb, place)[None], points)
            units.append(models.identity.unit(vector))
    exact = empirical(torch.cat(units)).value
    measured = json.loads((tmp_path / "out.json").read_text())["empirical_sensitivity"]
    printed = float(text.split("measured=")[1])
    assert exact <= printed == measured <= exact * (1 + 1e-5)


def test_one_face_in_one_photo(typed, hopper_path, astronaut, tmp_path, ledger):
    two = np.concatenate([np.asarray(Image.open(hopper_path).convert("RGB"))] * 2, 1)
    Image.fromarray(two).save(tmp_path / "two.png")
    assert "2 faces in 1 photo\n" in typed("sensitivity", tmp_path / "two.png")[1]
    plan = ("-o", tmp_path / "out", "--plan", tmp_path / "plan.json")
    assert "1 face in 1 photo; nothing has" in typed("protect", hopper_path, *plan)[1]
    Ledger(ledger).spend({"grace": 1})
    assert "1 release forgotten" in typed("budget", "reset", "grace", "--ledger", ledger)[1]
