import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from facedeid.errors import OptionError, PhotoError
from facedeid.evaluation.datasets import Pair, load
from facedeid.evaluation.shelf import cache_of


def test_lfw_is_the_photos_that_the_pairs_name(lfw):
    Image.new("RGB", (9, 9)).save(lfw / "Ann_A" / "Ann_A_0009.jpg")  # no pair names it
    dataset = load(f"lfw:{lfw}")
    assert dataset.name == "lfw"
    assert dataset.keys == tuple(
        f"{who}/{who}_{i:04d}.jpg" for who in ("Ann_A", "Bea_B") for i in (1, 2, 3, 4)
    )
    assert dataset.identities["Bea_B/Bea_B_0002.jpg"] == "Bea_B"
    assert dataset.pairs[0] == Pair("Ann_A/Ann_A_0001.jpg", "Ann_A/Ann_A_0002.jpg", True, 0)
    assert dataset.pairs[-1] == Pair("Ann_A/Ann_A_0003.jpg", "Bea_B/Bea_B_0004.jpg", False, 1)
    assert [pair.fold for pair in dataset.pairs] == [0] * 12 + [1] * 12
    assert dataset.folds == 2
    assert len(dataset.genuine()) == len(dataset.impostor()) == 12
    assert dataset.genuine(3) == dataset.pairs[:3]
    written = np.asarray(Image.open(lfw / dataset.keys[5]))
    np.testing.assert_array_equal(dataset.read(dataset.keys[5]), written)
    assert "8 photos of 2 people, 12 genuine and 12 impostor pairs" in dataset.summary


def test_lfw_wherever_the_photos_and_the_pairs_lie(lfw, tmp_path):
    usual = load(f"lfw:{lfw}")
    moved = tmp_path / "other" / "images"
    shutil.copytree(lfw, moved / "deep")
    (moved / "deep" / "pairs.txt").rename(moved.parent / "pairs.txt")
    nested = load(f"lfw:{moved}")  # pairs beside, photos deeper
    with tarfile.open(tmp_path / "other" / "lfw.tar", "w") as archive:
        archive.add(lfw, "lfw")
    packed = load(f"lfw:{tmp_path / 'other' / 'lfw.tar'}")
    far = tmp_path / "far" / "lfw.tar"
    far.parent.mkdir()
    shutil.copy(tmp_path / "other" / "lfw.tar", far)
    with pytest.raises(OptionError, match=r"no pairs\.txt beside it"):  # one in it is not read
        load(f"lfw:{far}")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(tmp_path / "other" / "lfw.tar", alone)
    shutil.copy(lfw / "pairs.txt", alone)
    inside = load(f"lfw:{alone}")  # a folder that holds the archive
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "photos").symlink_to(moved)
    (moved.parent / "pairs.txt").rename(tmp_path / "linked" / "pairs.txt")
    linked = load(f"lfw:{tmp_path / 'linked' / 'photos'}")  # pairs beside the link
    for other in (nested, packed, inside, linked):
        assert (other.keys, other.pairs) == (usual.keys, usual.pairs)
        np.testing.assert_array_equal(other.read(other.keys[3]), usual.read(usual.keys[3]))
        assert other.stamp(other.keys[3]) == usual.stamp(usual.keys[3])


def test_lfw_in_two_versions(lfw, tmp_path):
    one = load(f"lfw:{lfw}")
    both = tmp_path / "both"
    for name in ("aligned", "raw"):
        shutil.copytree(lfw, both / name)
    shutil.copy(lfw / "pairs.txt", both)
    with tarfile.open(tmp_path / "both.tar", "w") as archive:
        archive.add(both / "aligned", "aligned")
        archive.add(both / "raw", "raw")
    shutil.copy(lfw / "pairs.txt", tmp_path)
    for place in (both, tmp_path / "both.tar"):
        with pytest.raises(OptionError, match=r"\.jpg lies there twice: .*aligned.* and .*raw"):
            load(f"lfw:{place}")
    cache_of(both)  # in the folder of LFW itself it does no harm
    for path in (both / "raw").rglob("*.jpg"):
        path.rename(path.with_name("other.jpg"))  # which no pair names
    assert load(f"lfw:{both}").keys == one.keys


def test_lfw_that_is_not_whole(lfw):
    (lfw / "Bea_B" / "Bea_B_0003.jpg").unlink()
    with pytest.raises(OptionError, match=r"1 of 8 photos .* missing, for instance Bea_B/Bea_B_00"):
        load(f"lfw:{lfw}")
    (lfw / "pairs.txt").unlink()
    with pytest.raises(OptionError, match=r"no pairs\.txt"):
        load(f"lfw:{lfw}")
    with pytest.raises(OptionError, match="does not exist"):
        load(f"lfw:{lfw / 'nowhere'}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2\t6\nAnn_A\t1\t2\n", "1 pairs; its first line announces 24"),
        ("Ann_A\t1\tx\n", "line 1: not a pair: Ann_A 1 x"),
        ("1\nAnn_A\t1\t2\nAnn_A\n", "line 3: not a pair"),
        ("\n", "names no pairs"),
        ("Ann_A\t1\tBea_B\t2\n", "names no pair of one person"),
        ("Ann_A\t1\t2\nAnn_A\t1\t01\n", "line 2: a photo with itself: Ann_A 1 01"),
        ("Ann_A\t1\t2\nAnn_A\t1\tAnn_A\t2\n", "line 2: one person as two"),
    ],
)
def test_lfw_with_pairs_that_make_no_sense(lfw, text, reason):
    (lfw / "pairs.txt").write_text(text)
    with pytest.raises(OptionError, match=reason):
        load(f"lfw:{lfw}")


def test_an_archive_that_is_none(lfw):
    (lfw / "lfw.tar").write_bytes(b"no archive")
    for folder in ("Ann_A", "Bea_B"):
        shutil.rmtree(lfw / folder)
    with pytest.raises(OptionError, match=r"lfw\.tar is neither a folder nor a plain \.tar"):
        load(f"lfw:{lfw}")


@pytest.mark.parametrize("number", ["²", "٣", "9" * 5000, "-1"])
def test_pairs_are_numbered_with_plain_numbers(lfw, number):
    (lfw / "pairs.txt").write_text(f"Ann_A\t1\t2\nAnn_A {number} 3\n", "utf-8")
    with pytest.raises(OptionError, match=r"pairs\.txt, line 2: not a pair"):
        load(f"lfw:{lfw}")
    (lfw / "pairs.txt").write_text(f"1 {number}\nAnn_A 1 3\n", "utf-8")
    with pytest.raises(OptionError, match=r"pairs\.txt, line 1: not a pair"):
        load(f"lfw:{lfw}")


@pytest.mark.parametrize("text", ["~nosuchuser/x", "photos:~nosuchuser/x"])
def test_homes_of_nobody(text):
    with pytest.raises(OptionError, match="~nosuchuser/x: there is no home folder"):
        load(text)


def test_folders_that_are_no_data(lfw):
    (lfw / "pairs.txt").unlink()
    for name in ("out/cache/a.jpg", "out/b.jpg", "out/b/c.jpg"):
        (lfw / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lfw / "Ann_A" / "Ann_A_0001.jpg", lfw / name)
    away = [lfw / "nowhere", lfw / "out", lfw.parent]
    for text in (str(lfw), f"people:{lfw}"):
        dataset = load(text, away)
        assert set(dataset.identities.values()) == {"Ann_A", "Bea_B"}
    assert len(load(f"photos:{lfw}", away).keys) == 8
    assert len(load(f"photos:{lfw}", [lfw / "out" / "b"]).keys) == 10
    with pytest.raises(OptionError, match="keeps its own pictures"):
        load(f"photos:{lfw}", [lfw])


def test_what_an_earlier_evaluation_made_is_no_data(lfw):
    (lfw / "pairs.txt").unlink()
    names = ("out/plots/grid.jpg", "out/cache/x.jpg", "out/mine.jpg", "shared/a/y.jpg")
    for name in (*names, "Ann_A/plots/z.jpg", "plots/own.jpg"):
        (lfw / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lfw / "Ann_A" / "Ann_A_0001.jpg", lfw / name)
    (lfw / "out" / "evaluation.json").write_text("{}")
    cache_of(lfw / "shared")
    kept = {key for key in load(f"photos:{lfw}").keys if not key.startswith(("Ann_A/A", "Bea_B"))}
    assert kept == {"out/mine.jpg", "Ann_A/plots/z.jpg", "plots/own.jpg"}
    (lfw / "evaluation.json").write_text("{}")  # of an evaluation into the folder itself
    assert "plots/own.jpg" not in load(f"photos:{lfw}").keys
    with pytest.raises(OptionError, match="shared is the cache of an evaluation"):
        load(f"photos:{lfw / 'shared'}")


def test_a_folder_per_person(lfw):
    (lfw / "pairs.txt").unlink()
    dataset = load(f"people:{lfw}")
    assert len(dataset.keys) == 8
    genuine = dataset.genuine()
    assert [(pair.first[-5:], pair.second[-5:]) for pair in genuine[:3]] == [
        ("1.jpg", "2.jpg"),
        ("2.jpg", "3.jpg"),
        ("3.jpg", "4.jpg"),
    ]
    impostor = dataset.impostor()
    assert len(impostor) == len(genuine) == 6
    assert len({(pair.first, pair.second) for pair in impostor}) == 6
    who = dataset.identities
    assert all(who[pair.first] != who[pair.second] for pair in impostor)
    assert load(f"people:{lfw}").pairs == dataset.pairs
    assert dataset.folds == 0
    assert dataset.people(4).keys() == {"Ann_A", "Bea_B"}
    assert dataset.people(5) == {}
    for path in lfw.rglob("*_000[234].jpg"):
        path.unlink()
    with pytest.raises(OptionError, match="no person has two photos"):
        load(f"people:{lfw}")


def test_impostor_pairs_are_different_ones_either_way_round(lfw):
    (lfw / "pairs.txt").unlink()
    rgb = np.asarray(Image.open(lfw / "Ann_A" / "Ann_A_0001.jpg"))
    for number in range(2, 13):
        Image.fromarray(rgb + np.uint8(number)).save(lfw / "Ann_A" / f"Ann_A_{number:04d}.jpg")
    for number in (2, 3, 4):
        (lfw / "Bea_B" / f"Bea_B_000{number}.jpg").unlink()
    impostor = load(f"people:{lfw}").impostor()
    assert len(impostor) == len({frozenset((pair.first, pair.second)) for pair in impostor}) == 11


def test_photos_beside_the_folders_of_people_are_told(lfw):
    (lfw / "pairs.txt").unlink()
    assert "left out" not in load(f"people:{lfw}").summary
    shutil.copy(lfw / "Ann_A" / "Ann_A_0001.jpg", lfw / "loose.jpg")
    dataset = load(f"people:{lfw}")
    assert "loose.jpg" not in dataset.keys
    assert "; 1 photo in no person's folder left out" in dataset.summary


def test_a_copy_of_a_photo_is_no_other_photo(lfw):
    (lfw / "pairs.txt").unlink()
    before = load(f"people:{lfw}")
    first = lfw / "Ann_A" / "Ann_A_0001.jpg"
    shutil.copy(first, lfw / "Ann_A" / "Ann_A_0001 (1).jpg")
    (lfw / "Ann_A" / "more").mkdir()
    shutil.copy(first, lfw / "Ann_A" / "more" / "x.jpg")
    shutil.copy(first, lfw / "Bea_B" / "Ann.jpg")  # perhaps she is on it too
    (lfw / "Ann_A" / "Ann_A_0002.jpg").write_bytes(b"?" * first.stat().st_size)
    found = load(f"people:{lfw}")
    assert set(found.keys) - set(before.keys) == {"Ann_A/Ann_A_0001 (1).jpg", "Bea_B/Ann.jpg"}
    assert set(before.keys) - set(found.keys) == {"Ann_A/Ann_A_0001.jpg"}
    for person in (lfw / "Ann_A", lfw / "Bea_B"):
        shutil.rmtree(person)
        (person / "a").mkdir(parents=True)
        (person / "1.jpg").write_bytes(b"the same")
        (person / "a" / "1.jpg").write_bytes(b"the same")
    with pytest.raises(OptionError, match="no person has two photos"):
        load(f"people:{lfw}")


def test_a_plain_folder(lfw):
    (lfw / ".hidden").mkdir()
    shutil.copy(lfw / "Ann_A" / "Ann_A_0001.jpg", lfw / ".hidden" / "x.jpg")
    dataset = load(f"photos:{lfw}")
    assert dataset.identities is None
    assert not dataset.pairs
    assert len(dataset.keys) == 8
    shutil.rmtree(lfw / "Ann_A")
    shutil.rmtree(lfw / "Bea_B")
    with pytest.raises(OptionError, match="no photos"):
        load(f"photos:{lfw}")
    with pytest.raises(OptionError, match="not a folder"):
        load(f"photos:{lfw / 'pairs.txt'}")


def test_a_bare_path_is_guessed(lfw):
    assert load(str(lfw)).name == "lfw"
    (lfw / "pairs.txt").unlink()
    assert load(str(lfw)).name == "people"
    shutil.copy(lfw / "Ann_A" / "Ann_A_0001.jpg", lfw / "x.jpg")
    assert load(str(lfw)).name == "photos"
    with pytest.raises(OptionError, match="no such kind; use lfw, people, photos"):
        load(f"lwf:{lfw}")


def test_damage_is_reported_with_the_photo_and_changes_are_seen(lfw):
    dataset = load(f"lfw:{lfw}")
    key = dataset.keys[0]
    before = dataset.stamp(key)
    (lfw / key).write_bytes((lfw / key).read_bytes()[:900])
    again = load(f"lfw:{lfw}")
    assert again.stamp(key) != before
    with pytest.raises(PhotoError, match=r"Ann_A_0001\.jpg"):
        again.read(key)
