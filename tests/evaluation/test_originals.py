from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation_photos import SIDE, usual_landmarks
from facedeid.evaluation import originals as module
from facedeid.evaluation.datasets import load
from facedeid.evaluation.fingerprints import recognizer_digest
from facedeid.evaluation.originals import Originals, face_of_row, face_row, found, usual_face
from facedeid.evaluation.shelf import Shelf


def faces_equal(one, two):
    np.testing.assert_array_equal(one.landmarks, two.landmarks)
    assert (one.box, one.score, one.detector) == (two.box, two.score, two.detector)
    assert one.landmarks_from == two.landmarks_from


def forbid(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("searched again")

    monkeypatch.setattr(module, "detect", fail)


def test_aligned_photos_have_the_face_where_it_is_expected(known):
    dataset, originals = known
    for key in dataset.keys:
        face = originals.face(key)
        assert found(face)
        off = np.linalg.norm(face.landmarks - usual_landmarks(), axis=1).mean()
        assert off < 0.08 * SIDE


def test_where_none_is_found_lfw_has_it_in_the_middle_and_others_have_none(lfw, models, tmp_path):
    key = "Ann_A/Ann_A_0001.jpg"
    Image.new("RGB", (SIDE, SIDE), "teal").save(lfw / key)
    face = Originals(load(f"lfw:{lfw}"), models, tmp_path / "a").face(key)
    assert not found(face)
    assert face.landmarks_from == "box"
    np.testing.assert_allclose(face.landmarks, usual_landmarks())
    left, top, right, bottom = face.box
    inside = face.landmarks[36:48]
    assert left < inside[:, 0].min() < inside[:, 0].max() < right
    assert top < inside[:, 1].min() < face.landmarks[8, 1] < bottom + 0.1 * SIDE
    others = Originals(load(f"people:{lfw}"), models, tmp_path / "b")
    assert others.face(key) is None
    assert found(others.face("Ann_A/Ann_A_0002.jpg"))
    mobile = models.recognizer("facedeid-mobile")
    assert others.embeddings(mobile, [key]).isnan().all()


def test_of_two_faces_the_middle_one_in_lfw_and_the_larger_one_elsewhere(
    lfw, models, tmp_path, astronaut, known
):
    dataset, _ = known
    wide = np.full((SIDE, 690, 3), 128, np.uint8)
    wide[:, 440:] = dataset.read("Bea_B/Bea_B_0001.jpg")
    small = np.asarray(Image.fromarray(dataset.read(dataset.keys[0])).resize((180, 180)))
    wide[35:215, 255:435] = small
    key = "Ann_A/Ann_A_0001.jpg"
    Image.fromarray(wide).save(lfw / key, quality=98)
    larger = Originals(load(f"people:{lfw}"), models, tmp_path / "a").face(key)
    assert larger.landmarks[:, 0].mean() > 500
    middle = Originals(load(f"lfw:{lfw}"), models, tmp_path / "a").face(key)
    assert found(middle)
    assert 300 < middle.landmarks[:, 0].mean() < 390


def test_a_bystander_is_not_taken_for_the_person(lfw, models, tmp_path, known):
    dataset, _ = known
    aside = np.full((SIDE, 500, 3), 128, np.uint8)
    aside[:, :250] = dataset.read("Bea_B/Bea_B_0001.jpg")
    key = "Ann_A/Ann_A_0001.jpg"
    Image.fromarray(aside).save(lfw / key, quality=98)
    assert found(Originals(load(f"people:{lfw}"), models, tmp_path / "a").face(key))
    face = Originals(load(f"lfw:{lfw}"), models, tmp_path / "a").face(key)
    assert not found(face)
    off = face.landmarks.mean(0) - usual_landmarks().mean(0)
    np.testing.assert_allclose(off, (125, 0), atol=1e-9)


def test_what_was_found_is_kept(lfw, models, tmp_path, monkeypatch):
    dataset = load(f"lfw:{lfw}")
    first = Originals(dataset, models, tmp_path / "cache")
    first.prepare(dataset.keys[:2])
    forbid(monkeypatch)
    second = Originals(dataset, models, tmp_path / "cache")
    faces_equal(second.face(dataset.keys[0]), first.face(dataset.keys[0]))
    with pytest.raises(AssertionError, match="searched again"):
        second.face(dataset.keys[2])
    Image.fromarray(255 - dataset.read(dataset.keys[1])).save(lfw / dataset.keys[1])
    changed = Originals(load(f"lfw:{lfw}"), models, tmp_path / "cache")
    changed.face(dataset.keys[0])
    with pytest.raises(AssertionError, match="searched again"):
        changed.face(dataset.keys[1])


def test_other_settings_never_take_it(lfw, models, tmp_path, monkeypatch):
    dataset = load(f"lfw:{lfw}")
    Originals(dataset, models, tmp_path / "cache").prepare(dataset.keys[:1])
    forbid(monkeypatch)
    for other in (
        Originals(dataset, models, tmp_path / "cache", detector="cnn"),
        Originals(load(f"people:{lfw}"), models, tmp_path / "cache"),
    ):
        with pytest.raises(AssertionError, match="searched again"):
            other.face(dataset.keys[0])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 what is this", None])
def test_a_damaged_file_is_dropped(lfw, models, tmp_path, damage):
    dataset = load(f"lfw:{lfw}")
    first = Originals(dataset, models, tmp_path / "cache")
    first.prepare(dataset.keys[:1])
    (file,) = (tmp_path / "cache").rglob("rows-*.npz")
    whole = file.read_bytes()
    if damage is None:  # one number, somewhere in the rows
        place = whole.index(np.float64(first.face(dataset.keys[0]).box[0]).tobytes())
        damage = whole[:place] + b"\x01" + whole[place + 1 :]
    file.write_bytes(damage)
    second = Originals(dataset, models, tmp_path / "cache")
    assert len(second.faces.seconds([second.name(dataset.keys[0])])) == 0
    second.prepare(dataset.keys[:1])
    faces_equal(second.face(dataset.keys[0]), first.face(dataset.keys[0]))


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError])
def test_whatever_damage_leads_to(tmp_path, monkeypatch, error):
    shelf = Shelf(tmp_path, 2)
    shelf.put("a", [1, 2])
    shelf.flush()

    def damaged(*_, **__):
        raise error("compression type 9")

    monkeypatch.setattr(np, "load", damaged)
    assert "a" not in Shelf(tmp_path, 2)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_now_is_kept(tmp_path, monkeypatch):
    shelf = Shelf(tmp_path, 1)
    for number in range(10):
        shelf.put(str(number), [number])
        shelf.flush()
    usual, locked = Path.read_bytes, sorted(tmp_path.glob("*.npz"))[4]

    def read(path):
        if path == locked:
            raise PermissionError
        return usual(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert len(Shelf(tmp_path, 1)._rows) == 9
    assert sum(1 for _ in tmp_path.iterdir()) == 2  # those that were read have become one
    monkeypatch.undo()
    assert len(Shelf(tmp_path, 1)._rows) == 10


def test_embeddings_are_those_of_the_photo_and_kept(known, models, tmp_path, monkeypatch):
    dataset, originals = known
    dlib = models.recognizer("dlib")
    keys = [dataset.keys[i] for i in (5, 0, 5)]
    vectors = originals.embeddings(dlib, keys)
    wanted = [
        dlib.embed_photo(dataset.read(key), [originals.face(key).landmarks])[0] for key in keys
    ]
    torch.testing.assert_close(vectors, torch.stack(wanted), atol=1e-4, rtol=0)
    again = Originals(dataset, models, originals.folder)

    def fail(_):
        raise AssertionError("embedded again")

    monkeypatch.setattr(dlib, "embed_chips", fail)
    torch.testing.assert_close(again.embeddings(dlib, keys), vectors, atol=0, rtol=0)


def test_a_recogniser_is_known_by_what_it_computes(models):
    usual = recognizer_digest(models.recognizer("dlib"))
    assert recognizer_digest(models.recognizer("dlib?threshold=0.5")) == usual
    mobile = models.recognizer("facedeid-mobile")
    assert recognizer_digest(mobile) != usual
    assert recognizer_digest(models.recognizer("facedeid-mobile?crop=psp")) != recognizer_digest(
        mobile
    )


def test_an_unreadable_photo_counts_as_one_without_a_face(lfw, models, tmp_path):
    key = "Ann_A/Ann_A_0001.jpg"
    (lfw / key).write_bytes((lfw / key).read_bytes()[:700])
    originals = Originals(load(f"lfw:{lfw}"), models, tmp_path)
    originals.prepare([key])
    assert originals.face(key) is None
    assert key in originals.unreadable


def test_rows_hold_faces(known):
    dataset, originals = known
    face = originals.face(dataset.keys[0])
    faces_equal(face_of_row(face_row(face)), face)
    faces_equal(
        face_of_row(face_row(usual_face(dataset.read(dataset.keys[0])))),
        usual_face(dataset.read(dataset.keys[0])),
    )
    assert face_of_row(face_row(None)) is None


def test_many_small_files_become_one(tmp_path):
    for number in range(12):
        shelf = Shelf(tmp_path, 2)
        shelf.put(f"row {number}", [number, 1], seconds=number)
        shelf.flush()
    merged = Shelf(tmp_path, 2)
    assert len(list(tmp_path.glob("rows-*"))) < 12
    names = [f"row {number}" for number in range(12)]
    np.testing.assert_array_equal(merged.rows(names)[:, 0], range(12))
    assert merged.seconds(names) == list(range(12))
    assert Shelf(tmp_path, 3).get("row 1") is None  # other rows than were asked for
