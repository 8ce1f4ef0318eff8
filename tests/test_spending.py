"""A release is charged before anything is drawn or written, to the right people."""

import errno
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facedeid
from facedeid import imaging
from facedeid.batch import protect_folder
from facedeid.errors import OptionError, OutputError, PrivacyError
from facedeid.methods import parse
from facedeid.models import Models
from facedeid.pipeline import Settings, protect_file
from facedeid.privacy import Ledger

METHOD = "identity-dp:epsilon=3"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "budget.sqlite")


@pytest.fixture
def album(astronaut, hopper, tmp_path):
    for person, photo in (("eileen", astronaut), ("grace", hopper)):
        (tmp_path / "in" / person).mkdir(parents=True)
        Image.fromarray(photo).save(tmp_path / "in" / person / "one.png")
    shutil.copy(tmp_path / "in/grace/one.png", tmp_path / "in/grace/two.png")
    return tmp_path / "in"


def spent(ledger):
    return {account.subject: account.spent for account in ledger.accounts()}


def test_without_a_subject_releases_of_the_same_photo_add_up(hopper, astronaut, ledger):
    for photo in (hopper, hopper, astronaut):
        result = facedeid.protect(photo, METHOD, ledger=str(ledger.path), on_unprotected="release")
    assert sorted(spent(ledger).values()) == [3, 6]
    assert all(name.startswith("photo-") for name in spent(ledger))
    assert list(result.report.charges.values()) == [3]


def test_a_spent_budget_is_refused_before_anything_is_written(album, ledger, tmp_path):
    ledger.set_limit("grace", 3)
    run = protect_folder(
        album,
        tmp_path / "out",
        METHOD,
        subject="folder",
        ledger=str(ledger.path),
        on_unprotected="release",
    )
    assert spent(ledger) == {"eileen": 3, "grace": 3}
    assert run.counts["error"] == 1
    refused = next(item for item in run.done if item.status == "error")
    assert refused.photo == "grace/two.png"
    assert "the budget of grace is spent: 3 of 3" in refused.record["message"]
    assert not (tmp_path / "out/grace/two.png").exists()
    assert (tmp_path / "out/grace/one.png").exists()
    record = next(item.record for item in run.done if item.photo == "grace/one.png")
    assert record["charges"] == {"grace": 3}
    lines = (tmp_path / "out/facedeid-report.jsonl").read_text().splitlines()
    assert "covers the identity vector" in json.loads(lines[0])["method"]["warnings"][0]
    page = (tmp_path / "out/facedeid-report.html").read_text()
    assert "spent ε 3 of grace" in page
    assert "covers the identity vector" in page


def test_faces_of_one_photo_compose_in_parallel(hopper, ledger):
    two = np.concatenate([hopper, hopper[:, ::-1]], 1)
    result = facedeid.protect(
        two, METHOD, subject="outing", ledger=str(ledger.path), on_unprotected="release"
    )
    assert len(result.report.faces) == 2
    assert spent(ledger) == {"outing": 3}


def test_clusters_follow_the_face(hopper, astronaut, ledger):
    options = {"subject": "cluster", "ledger": str(ledger.path), "on_unprotected": "release"}
    facedeid.protect(hopper, METHOD, **options)
    facedeid.protect(hopper[:, ::-1].copy(), METHOD, **options)
    facedeid.protect(astronaut, METHOD, **options)
    assert spent(ledger) == {"face-1": 6, "face-2": 3}
    twice = np.concatenate([hopper, hopper[:, ::-1]], 1)  # one person, twice in one photo
    facedeid.protect(twice, METHOD, **options)
    assert spent(ledger) == {"face-1": 12, "face-2": 3}


def test_a_photo_without_a_face_and_other_methods_cost_nothing(hopper, ledger):
    facedeid.protect(hopper, "blur", ledger=str(ledger.path), on_unprotected="release")
    empty = np.full((200, 200, 3), 128, np.uint8)
    facedeid.protect(empty, METHOD, ledger=str(ledger.path), on_no_face="skip")
    assert not ledger.path.exists()


def test_a_limit_stops_the_library_too(hopper, ledger):
    ledger.set_limit("grace", 1)
    with pytest.raises(PrivacyError, match="grace"):
        facedeid.protect(hopper, METHOD, subject="grace", ledger=str(ledger.path))
    assert ledger.accounts("grace")[0].spent == 0


def test_subjects_that_make_no_sense(hopper, ledger):
    with pytest.raises(OptionError, match="lie in a folder"):
        facedeid.protect(hopper, METHOD, subject="folder", ledger=str(ledger.path))
    for subject in ("", "*"):
        with pytest.raises(OptionError, match="subject must be"):
            Settings(subject=subject)


def test_draws_lie_side_by_side_and_cost_each(album, ledger, tmp_path):
    run = protect_folder(
        album / "grace" / "one.png",
        tmp_path / "out",
        METHOD,
        draws=3,
        subject="grace",
        ledger=str(ledger.path),
        on_unprotected="release",
    )
    assert spent(ledger) == {"grace": 9}
    assert sorted(item.photo for item in run.done) == [f"draw-{i}/one.png" for i in (1, 2, 3)]
    draws = [np.asarray(Image.open(tmp_path / f"out/draw-{i}/one.png")) for i in (1, 2, 3)]
    assert not np.array_equal(draws[0], draws[1])
    with Image.open(tmp_path / "out/contact-sheets/one.png.jpg") as sheet:
        assert sheet.height == 320
        assert sheet.width > 2.9 * 320 * draws[0].shape[1] / draws[0].shape[0]


def test_draws_that_make_no_sense(album, tmp_path):
    with pytest.raises(OptionError, match="--draws must be"):
        protect_folder(album, tmp_path / "out", METHOD, draws=0)


@pytest.mark.parametrize("width", [40, 4000])
def test_sheets_of_panoramas_are_made_smaller(width, tmp_path):
    Image.new("RGB", (width, 60), "red").save(tmp_path / "wide.png")
    options = {"draws": 4, "on_no_face": "copy", "min_face": 60}
    protect_folder(tmp_path / "wide.png", tmp_path / "out", "blur", **options)
    with Image.open(tmp_path / "out/contact-sheets/wide.png.jpg") as sheet:
        assert sheet.width <= 65_500
        assert sheet.height == (320 if width == 40 else round(60 * (65_500 // 4 - 8) / 4000))


def test_sheets_are_never_written_over_what_is_not_theirs(album, tmp_path):
    original = tmp_path / "out/contact-sheets/one.png.jpg"
    original.parent.mkdir(parents=True)
    Image.new("RGB", (40, 40), "blue").save(original)
    before, options = original.read_bytes(), {"draws": 2, "on_no_face": "copy"}
    one = album / "grace/one.png"
    with pytest.raises(OutputError, match="one of the originals"):
        protect_folder([one, original], tmp_path / "out", "blur", **options)
    for more in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match="contact-sheets"):
            protect_folder(one, tmp_path / "out", "blur", **options, **more)
    assert original.read_bytes() == before
    assert not (tmp_path / "out/draw-1").exists()


def test_a_sheet_goes_with_the_draws_that_it_showed(album, tmp_path):
    one, out = album / "grace/one.png", tmp_path / "out"
    protect_folder(one, out, "noise", draws=2, on_unprotected="release")
    assert (out / "contact-sheets/one.png.jpg").exists()
    protect_folder(one, out, "noise", draws=2, overwrite=True)
    assert not (out / "contact-sheets/one.png.jpg").exists()


def test_what_a_budget_was_spent_on_is_not_lost_to_a_refusal(album, ledger, tmp_path):
    ledger.set_limit("grace", 3)
    options = {"subject": "grace", "ledger": str(ledger.path), "on_unprotected": "release"}
    one, out = album / "grace/one.png", tmp_path / "out"
    (first,) = protect_folder(one, out, METHOD, **options).done
    paid = (out / "one.png").read_bytes()
    for _ in range(2):
        run = protect_folder(one, out, METHOD, overwrite=True, **options)
        assert run.counts == {"error": 1}
        record = run.done[0].record
        assert "an earlier run is still there" in record["message"]
        assert record["earlier"] is True
        assert record["faces"] == first.record["faces"] != []  # how it was verified
        assert record["sha256"] == first.record["sha256"]
    assert (out / "one.png").read_bytes() == paid
    assert spent(ledger) == {"grace": 3}


def test_a_paid_result_survives_a_source_that_broke_and_is_not_paid_twice(album, ledger, tmp_path):
    options = {"subject": "grace", "ledger": str(ledger.path), "on_unprotected": "release"}
    one, out = album / "grace/one.png", tmp_path / "out"
    protect_folder(one, out, METHOD, **options)
    paid = (out / "one.png").read_bytes()
    os.utime(one, (1, 1))  # as copying does
    run = protect_folder(one, out, METHOD, resume=True, **options)
    assert (run.resumed, spent(ledger)) == (1, {"grace": 3})
    one.write_bytes(b"half of it")
    run = protect_folder(one, out, METHOD, resume=True, **options)
    assert "still there" in run.done[0].record["message"]
    assert (out / "one.png").read_bytes() == paid
    assert spent(ledger) == {"grace": 3}


def test_an_earlier_result_that_became_a_folder_ends_one_photo(album, tmp_path):
    out = tmp_path / "out"
    protect_folder(album / "grace", out, "mask")
    (out / "one.png").unlink()
    (out / "one.png").mkdir()
    run = protect_folder(album / "grace", out, "mask", overwrite=True)
    assert run.counts == {"protected": 1, "error": 1}


def test_nothing_is_spent_where_the_noise_cannot_be_drawn(hopper, album, ledger, monkeypatch):
    options = {"ledger": str(ledger.path), "on_unprotected": "release"}
    monkeypatch.setitem(sys.modules, "opendp", None)
    with pytest.raises(PrivacyError, match="not installed"):
        facedeid.protect(hopper, METHOD, **options)
    with pytest.raises(PrivacyError, match="not installed"):
        protect_folder(album, album.parent / "out", METHOD, **options)
    assert not ledger.path.exists()
    assert not (album.parent / "out").exists()


def test_a_path_has_a_folder_in_the_library_too(album, ledger):
    options = {"subject": "folder", "ledger": str(ledger.path), "on_unprotected": "release"}
    result = facedeid.protect(album / "grace/one.png", METHOD, **options)
    assert spent(ledger) == {"grace": 3}
    assert "covers the identity vector" in result.report.warnings[0]


def test_faces_of_a_refused_photo_are_not_remembered(hopper, ledger):
    ledger.set_limit("*", 1)
    options = {"subject": "cluster", "ledger": str(ledger.path)}
    with pytest.raises(PrivacyError, match="face-1"):
        facedeid.protect(hopper, METHOD, **options)
    with sqlite3.connect(ledger.path) as file:
        assert file.execute("select count(*) from faces").fetchone() == (0,)


def test_nothing_is_charged_for_a_photo_whose_place_is_taken(album, ledger, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/one.png").write_bytes(b"somebody's only copy")
    options = {"subject": "grace", "ledger": str(ledger.path)}
    run = protect_folder(album / "grace/one.png", tmp_path / "out", METHOD, resume=True, **options)
    assert "exists already" in run.done[0].record["message"]
    assert spent(ledger) == {}


def test_nothing_is_charged_where_nobody_could_judge(hopper, ledger):
    options = {"subject": "grace", "ledger": str(ledger.path)}
    with pytest.raises(OptionError, match="no such operating point"):
        facedeid.protect(hopper, METHOD, require="far=1e-9", **options)
    assert spent(ledger) == {}


def test_what_was_charged_before_an_error_is_reported(album, ledger, tmp_path, monkeypatch, typed):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(Path, "replace", full)
    options = {"subject": "grace", "ledger": str(ledger.path), "on_unprotected": "release"}
    source = imaging.read(album / "grace/one.png")
    charged = {}
    with pytest.raises(OutputError, match="the disk is full"):
        protect_file(
            source.source.path,
            tmp_path / "one.png",
            Settings(method=parse(METHOD), **options),
            Models(),
            charged=charged,
        )
    assert charged == spent(ledger) == {"grace": 3}
    monkeypatch.undo()

    def broken(photo, *_, **__):
        raise MemoryError

    monkeypatch.setattr("facedeid.pipeline.perceptual_change", broken)
    run = protect_folder(album / "grace/one.png", tmp_path / "out", METHOD, **options)
    assert run.done[0].record["charges"] == {"grace": 3}
    assert spent(ledger) == {"grace": 6}


def test_a_linked_photo_is_charged_to_the_folder_of_the_link(album, ledger, tmp_path):
    store = tmp_path / "store/KEY-1"
    store.mkdir(parents=True)
    (album / "grace/two.png").rename(store / "two.png")  # as git-annex keeps photos
    (album / "grace/two.png").symlink_to(store / "two.png")
    (album / "hopper").symlink_to(album / "grace")
    options = {"subject": "folder", "ledger": str(ledger.path), "on_unprotected": "release"}
    protect_folder(album / "grace", tmp_path / "out", METHOD, **options)
    facedeid.protect(album / "hopper/two.png", METHOD, **options)  # the same folder
    assert spent(ledger) == {"grace": 9}


def test_a_folder_without_a_name_of_its_own(album, ledger):
    (album / "grace").rename(album / "*")
    options = {"subject": "folder", "ledger": str(ledger.path)}
    with pytest.raises(OptionError, match="with a name"):
        facedeid.protect(album / "*/one.png", METHOD, **options)
    assert not ledger.path.exists()


def test_a_refused_photo_keeps_its_sheet_and_its_warning(album, ledger, tmp_path):
    ledger.set_limit("grace", 6)
    options = {"subject": "grace", "ledger": str(ledger.path), "on_unprotected": "release"}
    out, sheet = tmp_path / "out", tmp_path / "out/contact-sheets/one.png.jpg"
    blurred = {"method": "noise:sigma=1", "draws": 2, "on_unprotected": "release"}
    run = protect_folder(album / "grace/one.png", out, **blurred)
    assert run.counts == {"released-unprotected": 2}
    ledger.spend({"grace": 6})
    for _ in range(2):
        run = protect_folder(
            album / "grace/one.png", out, METHOD, draws=2, overwrite=True, **options
        )
        assert run.counts == {"error": 2}
        assert sheet.exists()
        for item in run.done:
            assert item.record["released"]
            assert (out / item.photo).exists()
            assert "still there, and was RELEASED UNPROTECTED" in item.record["message"]
