import io
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

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


def test_photos_that_are_too_large_or_none(tmp_path):
    (tmp_path / "large").mkdir()
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", size), (b"IDAT", zlib.compress(bytes(4000))), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + content))
        data += struct.pack(">I", len(content)) + kind + content + check
    (tmp_path / "large/huge.png").write_bytes(data)
    with pytest.raises(TrainingError, match=r"huge\.png is not a readable photo: .*pixels"):
        load_faces([tmp_path / "large"], size=32)
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


@pytest.fixture
def named(photos, tmp_path):
    """`faces.v2/` and `faces.v2.tar.gz` with identities beside them, and those of `faces/`."""
    shutil.copytree(photos, tmp_path / "faces.v2")
    with tarfile.open(tmp_path / "faces.v2.tar.gz", "w:gz") as tar:
        tar.add(photos, ".")
    stems = [p.stem for p in photos.iterdir()]
    for name, person in (("faces", "other"), ("faces.v2", "one")):
        rows = "".join(f"{stem},{person}\n" for stem in stems)
        text = "name,identity\n" + rows
        (tmp_path / f"{name}_identities.csv").write_text(text, "utf-8-sig")  # as Excel writes it
    return tmp_path


@pytest.mark.parametrize("source", ["faces.v2", "faces.v2.tar.gz", "faces.v2/../faces.v2"])
def test_identities_lie_beside_a_source_of_any_name(source, named):
    assert set(load_faces([named / source], size=32).keys) == {"one"}


def test_identities_lie_beside_the_folder_that_one_is_in(named, monkeypatch):
    monkeypatch.chdir(named / "faces.v2")
    assert set(load_faces([Path()], size=32).keys) == {"one"}


def test_identities_of_nobody_there_are_refused(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "faces")
    rows = "".join(f"{path.name},x\n" for path in photos.iterdir())  # with their suffix
    (tmp_path / "faces_identities.csv").write_text("name,identity\n" + rows)
    with pytest.raises(TrainingError, match=r"without their suffix, such as astronaut0\.7"):
        load_faces([tmp_path / "faces"], size=32)


@pytest.mark.parametrize(
    ("names", "points", "message"),
    [
        (np.array("a"), np.zeros((1, 68, 2)), "for N names"),
        (np.array(["a", "b"]), np.stack([np.zeros((68, 2)), np.full((68, 2), np.nan)]), "of b"),
    ],
)
def test_landmarks_must_be_numbers_by_name(names, points, message, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "faces")
    np.savez(tmp_path / "faces_landmarks.npz", names=names, points=points)
    with pytest.raises(TrainingError, match=message):
        load_faces([tmp_path / "faces"], size=32)


@pytest.mark.parametrize(("at", "value"), [(10, 99), (8, 1), (6, 200)])
def test_landmarks_in_an_archive_of_another_kind(at, value, photos, tmp_path):
    """Compression method, encryption, version: what damage looks like to zipfile."""
    shutil.copytree(photos, tmp_path / "faces")
    data = bytearray((photos.parent / "faces_landmarks.npz").read_bytes())
    data[data.index(b"PK\1\2") + at] = value
    (tmp_path / "faces_landmarks.npz").write_bytes(data)
    with pytest.raises(TrainingError, match=r"faces_landmarks\.npz is not a file of landmarks"):
        load_faces([tmp_path / "faces"], size=96)


def test_a_damaged_xz_archive(photos, tmp_path):
    archive = tmp_path / "faces.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        file.add(photos, "faces")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 255
    archive.write_bytes(data)
    with pytest.raises(TrainingError, match=r"faces\.tar\.xz is not a readable tar archive"):
        load_faces([archive], size=96)


def test_what_macos_puts_beside_photos_is_passed_over(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "faces")
    (tmp_path / "faces" / "._hopper1.0.png").write_bytes(b"\0\5\x16\7 no photo")
    tar = archive(tmp_path / "faces", tmp_path / "faces.tar")
    for source in (tmp_path / "faces", tar):
        assert len(load_faces([source], size=32)) == 16


def test_photos_are_seen_as_they_are_shown(tmp_path):
    ramp = np.linspace(0, 60_000, 32).astype(np.uint16)[:, None].repeat(32, 1)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    turned, eight = Image.Exif(), (ramp >> 8).astype(np.uint8)
    turned[0x112] = 6
    Image.fromarray(eight).save(tmp_path / "turned.jpg", exif=turned, quality=98)
    deep, upright = load_faces([tmp_path], size=32).images.float()
    assert np.abs(deep[0].numpy() - ramp / 257).max() < 1
    assert np.abs(upright[0].numpy() - np.rot90(eight, -1)).max() < 5


def test_photos_that_are_not_cut_out_yet_are_sent_to_the_docs(tmp_path):
    (tmp_path / "wide.png").write_bytes(wide())
    with pytest.raises(TrainingError, match=r"wide\.png is 40×30.*docs/training_recipes\.md"):
        load_faces([tmp_path], size=32)
