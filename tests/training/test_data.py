import io
import shutil
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from facedeid.errors import TrainingError
from facedeid.landmarks import MEAN_FACE
from facedeid.training.data import is_held_out, load_faces


def archive(folder, path):
    with tarfile.open(path, "w") as tar:
        for photo in sorted(folder.iterdir()):
            tar.add(photo, photo.name)
    return path


def test_folder_and_archive_hold_the_same(photos, tmp_path):
    tar = archive(photos, tmp_path / "faces.tar")
    shutil.copy(photos.parent / "faces_landmarks.npz", tmp_path)
    one, two = load_faces([photos], size=96), load_faces([tar], size=96)
    assert one.keys == two.keys
    assert len(one) == 16
    assert (one.images == two.images).all()
    assert (one.landmarks == two.landmarks).all()
    pixels = np.asarray(Image.open(photos / f"{one.keys[3]}.png")).transpose(2, 0, 1)
    assert (one.images[3].numpy() == pixels).all()


def test_landmarks_follow_the_size(photos):
    full, half = load_faces([photos], size=96), load_faces([photos], size=48)
    assert half.images.shape == (16, 3, 48, 48)
    np.testing.assert_allclose((full.landmarks + 0.5) / 2 - 0.5, half.landmarks, atol=1e-4)


def test_without_landmarks_those_of_the_mean_face(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "bare")
    faces = load_faces([tmp_path / "bare"], size=64)
    np.testing.assert_allclose(faces.landmarks[5], MEAN_FACE * 64, rtol=1e-6)


def test_people_are_held_out_whole(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "faces")
    stems = sorted(p.stem for p in photos.iterdir())
    rows = "".join(f"{stem},{'ab'[i % 2]}\n" for i, stem in enumerate(stems))
    (tmp_path / "faces_identities.csv").write_text("name,identity\n" + rows)
    faces = load_faces([tmp_path / "faces"], size=32)
    assert set(faces.keys) == {"a", "b"}
    assert faces.keys.count("a") == 8


def test_split_is_the_documented_hash(photos):
    faces = load_faces([photos], size=32)
    train, test = faces.part(held_out=False), faces.part(held_out=True)
    assert len(train) + len(test) == 16
    assert all(zlib.crc32(key.encode()) % 10 == 0 for key in test.keys)
    assert not set(train.keys) & set(test.keys)
    share = np.mean([is_held_out(str(i)) for i in range(3000)])
    assert 0.08 < share < 0.12


def test_limit_spreads_over_a_source(photos):
    keys = load_faces([photos, photos], size=32, limit=4).keys
    every = load_faces([photos], size=32).keys
    assert keys == every[::4] * 2


def test_says_what_is_wrong_with_the_data(photos, tmp_path):
    with pytest.raises(TrainingError, match="no training data"):
        load_faces([], size=32)
    with pytest.raises(TrainingError, match="does not exist"):
        load_faces([tmp_path / "nothing.tar"], size=32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="holds no photo"):
        load_faces([tmp_path / "empty"], size=32)
    whole = archive(photos, tmp_path / "faces.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(TrainingError, match=r"cut\.tar"):
        load_faces([tmp_path / "cut.tar"], size=32)
    (tmp_path / "text.tar").write_text("not an archive")
    with pytest.raises(TrainingError, match="not a readable tar"):
        load_faces([tmp_path / "text.tar"], size=32)


def test_says_which_photo_is_wrong(tmp_path):
    for name, data in (("broken.png", b"\x89PNG nonsense"), ("wide.png", wide())):
        folder = tmp_path / name[:4]
        folder.mkdir()
        (folder / name).write_bytes(data)
        with pytest.raises(TrainingError, match=name):
            load_faces([folder], size=32)


def wide() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def test_landmarks_must_fit(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "faces")
    beside = tmp_path / "faces_landmarks.npz"
    np.savez(beside, names=np.array(["other"]), points=np.zeros((1, 68, 2)))
    with pytest.raises(TrainingError, match="no landmarks of astronaut"):
        load_faces([tmp_path / "faces"], size=32)
    np.savez(beside, names=np.array(["other"]), points=np.zeros((1, 5, 2)))
    with pytest.raises(TrainingError, match="68"):
        load_faces([tmp_path / "faces"], size=32)
    (tmp_path / "faces_identities.csv").write_text("photo,person\n")
    beside.unlink()
    with pytest.raises(TrainingError, match="columns name and identity"):
        load_faces([tmp_path / "faces"], size=32)


def test_all_held_out_is_an_error(photos):
    faces = load_faces([photos], size=32).part(held_out=True)
    with pytest.raises(TrainingError, match="for training"):
        faces.part(held_out=False)


@pytest.mark.parametrize("size", [0, 60, 1000])
def test_landmarks_that_are_cut_off(size, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "faces")
    whole = (photos.parent / "faces_landmarks.npz").read_bytes()
    (tmp_path / "faces_landmarks.npz").write_bytes(whole[:size])
    with pytest.raises(TrainingError, match=r"faces_landmarks\.npz is not a file of landmarks"):
        load_faces([tmp_path / "faces"], size=32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name,identity\nastronaut0.7\n", "line 2 lacks"),
        (b"name,identity\nastronaut0.7,\n", "line 2 lacks"),
        ("name,identity\nastronaut0.7,Zo\u00eb\n".encode("latin-1"), "UTF-8"),
        (b"name,identity\na," + b"b" * 200_000, "not a readable CSV"),
    ],
)
def test_identities_must_be_readable(data, message, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "faces")
    (tmp_path / "faces_identities.csv").write_bytes(data)
    with pytest.raises(TrainingError, match=f"faces_identities.csv.*{message}"):
        load_faces([tmp_path / "faces"], size=32)


def test_photos_that_are_too_large_or_none(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(TrainingError, match=r"astronaut0\.7\.png is not a readable photo"):
        load_faces([photos], size=32)
    (tmp_path / "faces/folder.png").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"folder\.png cannot be read"):
        load_faces([tmp_path / "faces"], size=32)


@pytest.fixture
def twice(photos, tmp_path):
    """Two photos of the same name in different folders, and one of its own name."""
    for place, name in (("a", "hopper1.0"), ("b", "astronaut1.0"), ("b", "hopper1.1")):
        (tmp_path / "faces" / place).mkdir(parents=True, exist_ok=True)
        stem = "same" if name.endswith("1.0") else name
        shutil.copy(photos / f"{name}.png", tmp_path / "faces" / place / f"{stem}.png")
    return tmp_path / "faces"


def test_photos_of_the_same_name_are_different_people(twice, tmp_path):
    assert load_faces([twice], size=32).keys == ("a/same", "hopper1.1", "b/same")
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        tar.add(twice, ".")
    assert set(load_faces([tmp_path / "faces.tar"], size=32).keys) == {
        "a/same",
        "hopper1.1",
        "b/same",
    }


@pytest.mark.parametrize("beside", ["landmarks.npz", "identities.csv"])
def test_photos_of_the_same_name_have_no_landmarks_or_identities(beside, twice, tmp_path):
    if beside.endswith("csv"):
        (tmp_path / f"faces_{beside}").write_text("name,identity\nsame,x\n")
    else:
        names, points = np.array(["same", "hopper1.1"]), np.zeros((2, 68, 2))
        np.savez(tmp_path / f"faces_{beside}", names=names, points=points)
    with pytest.raises(TrainingError, match=r"a/same\.png and b/same\.png"):
        load_faces([twice], size=32)
