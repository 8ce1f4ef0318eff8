"""One photo from end to end, judged from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import facedeid
from facedeid import imaging
from facedeid.errors import NoFaceError, OptionError, OutputError, UnprotectedError
from facedeid.faces import detect
from facedeid.methods import METHODS, Deidentified, Method, create
from facedeid.methods.classical import Blur, Mask, Noise
from facedeid.models import Models
from facedeid.pipeline import Protected, Settings, protect, protect_file, protect_photo

Array = NDArray[np.uint8]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


@pytest.fixture(scope="module")
def pixelated(hopper: Array, models: Models) -> Protected:
    return protect(hopper, "pixelate", models=models)


def test_a_face_is_protected(pixelated: Protected, hopper: Array) -> None:
    report = pixelated.report
    assert report.status == "protected"
    assert (report.width, report.height) == (512, 600)
    (face,) = report.faces
    assert face.outcome in ("not-matched", "not-detected")
    assert face.method == "Pixelate(cells=None, cluster=None)"
    assert face.verdict is not None
    assert {m.recognizer for m in face.verdict.matches} >= {"dlib"}
    assert all(m.distance >= m.threshold and not m.matched for m in face.verdict.matches)
    assert set(report.seconds) >= {"detect", "align", "method", "paste", "write", "verify"}


def test_pixels_away_from_the_face_are_identical(pixelated: Protected, hopper: Array) -> None:
    left, top, right, bottom = pixelated.report.faces[0].box
    changed = (pixelated.image != hopper).any(-1)
    rows, columns = np.nonzero(changed)
    side = right - left
    assert changed.mean() > 0.02
    assert left - side / 2 < columns.min() < columns.max() < right + side / 2
    assert top - side < rows.min() < rows.max() < bottom + side / 2


def test_the_eyes_and_mouth_are_gone(pixelated: Protected, hopper: Array) -> None:
    face = max(detect(hopper), key=lambda f: f.score)
    for group in (slice(36, 42), slice(42, 48), slice(48, 60), slice(17, 27), slice(0, 17, 4)):
        points = face.landmarks[group].round().astype(int)
        inner = ((points - points.mean(0)) * 0.8 + points.mean(0)).round().astype(int)
        assert (pixelated.image[inner[:, 1], inner[:, 0]] != hopper[inner[:, 1], inner[:, 0]]).any()


def test_a_face_that_is_still_matched_is_not_released(hopper: Array, models: Models) -> None:
    with pytest.raises(UnprotectedError, match=r"still recognisable.*face 0.*not released"):
        protect(hopper, Blur(sigma=0.001), models=models)


@pytest.mark.parametrize(
    ("policy", "status", "released"),
    [
        ("fail", "withheld", False),
        ("skip", "skipped", False),
        ("release", "released-unprotected", True),
        ("blur", "protected", True),
    ],
)
def test_what_happens_to_an_unprotected_face_is_the_users_choice(
    hopper: Array, models: Models, policy: str, status: str, released: bool
) -> None:
    settings = Settings(method=Blur(sigma=0.001), on_unprotected=policy)  # type: ignore[arg-type]
    result = protect_photo(imaging.from_array(hopper), settings, models)
    assert result.report.status == status
    assert (result.photo is not None) is released
    (face,) = result.report.faces
    assert face.fallback is (policy == "blur")
    assert (face.outcome == "matched") is (policy != "blur")
    if policy == "blur":
        assert face.method == "Blur(sigma=0.35)"
        assert np.abs(result.image.astype(int) - hopper).max() > 50


@dataclass(frozen=True, kw_only=True)
class _Lottery(Method):
    """Does nothing at first, and blurs from the draw whose number is under the bar."""

    name: ClassVar[str] = "lottery"
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""

    @property
    def again(self):
        return (self,) * 40

    def apply(self, faces, models, *, random, landmarks):
        draws = [float(torch.rand(1, generator=g)) for g in random]
        blurred = Blur(sigma=0.35)(faces, models, random=random, landmarks=landmarks).faces
        chosen = torch.tensor(draws)[:, None, None, None] < 0.7
        return Deidentified(torch.where(chosen, blurred, faces), ({"draw": draws[0]},))


def test_another_draw_is_tried_before_a_photo_is_withheld(hopper: Array, models: Models) -> None:
    for on_unprotected in ("fail", "release"):
        result = protect(hopper, _Lottery(), models=models, seed=3, on_unprotected=on_unprotected)
        (face,) = result.report.faces
        assert result.report.status == "protected"
        assert face.attempts > 1
        assert face.facts["draw"] < 0.7
        assert not face.fallback
    with pytest.raises(UnprotectedError):
        protect(hopper, Noise(sigma=1), models=models, seed=3)  # has one draw only


@dataclass(frozen=True, kw_only=True)
class _Staircase(Blur):
    """Blurs more the second and the third time."""

    name: ClassVar[str] = "staircase"

    @property
    def again(self):
        return _Staircase(sigma=0.002), _Staircase(sigma=0.35)


def test_a_stronger_method_is_tried_before_a_photo_is_withheld(
    hopper: Array, models: Models
) -> None:
    result = protect(hopper, _Staircase(sigma=0.001), models=models)
    (face,) = result.report.faces
    assert result.report.status == "protected"
    assert (face.attempts, face.fallback) == (3, False)
    assert face.method == "_Staircase(sigma=0.35)"


def test_without_a_wish_a_face_is_embedded_with_another(hopper: Array, models: Models) -> None:
    result = protect(hopper, models=models, seed=0)
    (face,) = result.report.faces
    assert result.report.status == "protected"
    assert face.method is not None
    assert face.method.startswith("FeatureEmbedding(")
    assert face.verdict is not None
    assert face.verdict.detected


def test_a_method_that_knew_every_judge_proves_nothing(hopper: Array, models: Models) -> None:
    class Insider(Blur):
        @property
        def surrogates(self) -> tuple[str, ...]:
            return tuple(r.name for r in models.recognizers())

    settings = Settings(method=Insider(sigma=0.3))
    result = protect_photo(imaging.from_array(hopper), settings, models)
    assert result.report.faces[0].outcome == "unverified"
    assert result.report.status == "withheld"
    assert result.photo is None


def test_no_face(models: Models) -> None:
    empty = np.full((200, 300, 3), 127, np.uint8)
    with pytest.raises(NoFaceError, match="no face was found"):
        protect(empty, models=models)
    copied = protect(empty, models=models, on_no_face="copy")
    assert copied.report.status == "copied"
    assert copied.report.message.endswith("written anew with no face changed")
    assert np.array_equal(copied.image, empty)
    skipped = protect(empty, models=models, on_no_face="skip")
    assert skipped.photo is None
    with pytest.raises(UnprotectedError):
        _ = skipped.image


def test_nobody_selected_is_not_the_same_as_nobody_there(hopper: Array, models: Models) -> None:
    photo = imaging.from_array(hopper)
    nobody = Settings(only=("7",), on_no_face="copy")
    result = protect_photo(photo, nobody, models)
    assert result.report.status == "none-selected"
    assert result.photo is None
    everybody = protect_photo(photo, Settings(keep=("0",)), models)
    assert everybody.report.status == "kept"
    assert everybody.report.message.endswith("written anew with no face changed")
    assert np.array_equal(everybody.image, hopper)
    assert [f.outcome for f in everybody.report.faces] == ["kept"]
    assert everybody.report.unused == ()
    assert result.report.unused == ("--only 7 names no face; faces found: 1, numbered from 0",)
    some = protect(hopper, "mask", models=models, keep=("7", "0,0,5,5")).report
    assert [text.split(";")[0] for text in some.unused] == [
        "--keep 7 names no face",
        "--keep 0,0,5,5 names no face",
    ]


def test_faces_may_come_from_the_caller(hopper: Array, models: Models) -> None:
    face = max(detect(hopper), key=lambda f: f.score)
    result = protect(hopper, "mask", faces=[face], models=models)
    assert len(result.report.faces) == 1
    assert protect(hopper, "mask", faces=[], models=models, on_no_face="skip").photo is None


def test_a_reference_photo_may_be_an_animation(
    hopper: Array, models: Models, tmp_path: Path
) -> None:
    moving = tmp_path / "moving.gif"
    first = Image.fromarray(hopper)
    first.save(moving, save_all=True, append_images=[first.rotate(5)])
    result = protect(hopper, "mask", models=models, keep=(str(moving),), first_frame=True)
    assert result.report.status == "kept"


def test_faces_that_lie_beside_the_photo_are_refused(hopper: Array, models: Models) -> None:
    faces = detect(hopper)
    with pytest.raises(OptionError, match="lies outside the photo"):
        protect(hopper[:100, :100].copy(), "mask", faces=faces, models=models)


def test_two_people_and_a_choice(
    hopper: Array, astronaut: Array, models: Models, tmp_path: Path
) -> None:
    both = np.zeros((600, 1024, 3), np.uint8)
    both[:, :512] = hopper
    both[:512, 512:] = astronaut
    found = detect(both)
    grace = min(range(len(found)), key=lambda i: abs(sum(found[i].box[::2]) / 2 - 256))
    reference = tmp_path / "grace.png"
    Image.fromarray(np.ascontiguousarray(hopper[:, ::-1])).save(reference)
    for keep in (str(grace), "0,0,512,600", str(reference)):
        result = protect(both, "mask", models=models, keep=(keep,))
        outcomes = {f.index: f.outcome for f in result.report.faces}
        assert outcomes.pop(grace) == "kept"
        assert set(outcomes.values()) <= {"not-matched", "not-detected"}
        assert np.array_equal(result.image[:, :500], both[:, :500])
        assert not np.array_equal(result.image[:, 512:], both[:, 512:])
        flipped = protect(both, "mask", models=models, only=(keep,))
        assert np.array_equal(flipped.image[:, 520:], both[:, 520:])
        assert not np.array_equal(flipped.image[:, :500], both[:, :500])
    with pytest.raises(OptionError, match="cannot tell which face"):
        protect(both, models=models, keep=("someone.jpg",))
    with pytest.raises(OptionError, match="exclude each other"):
        protect(both, models=models, keep=("0",), only=("1",))


@pytest.mark.parametrize("form", ["grey", "rgba", "deep", "float", "pil"])
def test_arrays_of_all_kinds_come_back_as_they_were(
    hopper: Array, models: Models, form: str
) -> None:
    given = {
        "grey": hopper.mean(-1).astype(np.uint8),
        "rgba": np.dstack([hopper, np.arange(600 * 512).reshape(600, 512) % 251]).astype(np.uint8),
        "deep": (hopper.astype(np.uint16) * 257 + 3).clip(0, 65535).astype(np.uint16),
        "float": (hopper / 255).astype(np.float32),
        "pil": Image.fromarray(hopper),
    }[form]
    result = protect(given, "pixelate", models=models)
    wanted = np.asarray(given)
    assert result.image.shape == wanted.shape
    assert result.image.dtype == wanted.dtype
    assert np.array_equal(result.image[:40], wanted[:40])
    same = result.image == wanted
    assert 0.5 < same.mean() < 0.99
    if form == "rgba":
        assert np.array_equal(result.image[..., 3], wanted[..., 3])


def test_a_seed_repeats_and_its_absence_does_not(hopper: Array, models: Models) -> None:
    def noisy(seed: int | None) -> Array:
        return protect(hopper, "noise", models=models, seed=seed, on_unprotected="release").image

    assert np.array_equal(noisy(5), noisy(5))
    assert not np.array_equal(noisy(5), noisy(6))
    assert not np.array_equal(noisy(None), noisy(None))


def test_a_file_appears_whole_or_not_at_all(
    hopper_path: Path, models: Models, tmp_path: Path
) -> None:
    before = hopper_path.read_bytes()
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    settings = Settings(method=create("pixelate"))
    result = protect_file(hopper_path, good, settings, models)
    assert result.report.status == "protected"
    assert np.array_equal(result.image, imaging.read(good).rgb)  # what is reported is the file
    with Image.open(good) as written, Image.open(hopper_path) as original:
        assert written.size == original.size
        assert written.format == "JPEG"
        assert written.quantization == original.quantization
    weak = Settings(method=Blur(sigma=0.001))
    assert protect_file(hopper_path, bad, weak, models).photo is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.jpg"]
    with pytest.raises(OutputError):
        protect_file(hopper_path, hopper_path, settings, models, replace=True)
    with pytest.raises(OutputError):
        protect_file(hopper_path, good, settings, models)
    assert hopper_path.read_bytes() == before


@pytest.mark.parametrize(
    ("opacity", "status"), [("colour", "withheld"), ("even", "protected"), ("cut out", "protected")]
)
def test_a_face_that_shows_in_the_opacity_is_not_released(
    opacity: str, status: str, hopper: Array, models: Models
) -> None:
    if opacity == "colour":  # what is dark is opaque, so the opacity alone shows the face on white
        alpha = 1 - hopper.min(2) / 255
        shares = np.maximum(alpha, 1e-3)[..., None]
        colours = np.clip((hopper - 255 * (1 - shares)) / shares, 0, 255)
    else:
        rows, columns = np.mgrid[: hopper.shape[0], : hopper.shape[1]]
        outside = np.hypot(rows / 600 - 0.4, columns / 512 - 0.5)
        alpha = np.clip((0.45 - outside) * 50, 0, 1) if opacity == "cut out" else 0.8 + 0 * outside
        colours = hopper
    photo = np.dstack([colours, 255 * alpha]).round().astype(np.uint8)
    settings = Settings(method=create("mask"))
    result = protect_photo(imaging.from_array(photo), settings, models)
    assert result.report.status == status


def test_opacity_may_come_back_from_the_file_with_soft_edges(hopper: Array, models: Models) -> None:
    opaque = np.hypot(*(np.mgrid[:600, :512] - np.array([240, 256])[:, None, None])) < 220
    photo = imaging.from_array(np.dstack([hopper, np.where(opaque, 255, 0).astype(np.uint8)]))
    assert not photo.translucent

    @contextmanager
    def lossy(candidate: imaging.Photo) -> Iterator[imaging.Photo]:
        values = candidate.to_array()
        values[..., 3] = np.where(opaque, 250, 3)
        yield imaging.from_array(values)

    result = protect_photo(photo, Settings(method=create("mask")), models, stage=lossy)
    assert result.report.status == "protected"


def test_what_is_verified_is_the_file(
    hopper_path: Path, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that quietly puts the original there does not get past the verification."""
    original = imaging.read(hopper_path)
    encode = imaging.writing.encode  # type: ignore[attr-defined]
    monkeypatch.setattr(
        imaging.writing,  # type: ignore[attr-defined]
        "encode",
        lambda photo, *a, **k: encode(original, *a, **k),
    )
    result = protect_file(hopper_path, tmp_path / "out.jpg", Settings(), models)
    assert result.report.status == "withheld"
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_exist(hopper: Array) -> None:
    with pytest.raises(OptionError, match="no option strengh"):
        protect(hopper, strengh=3)
    with pytest.raises(OptionError, match="on_unprotected must be one of fail, blur"):
        protect(hopper, on_unprotected="shrug")
    with pytest.raises(OptionError, match="10 pixels or more"):
        protect(hopper, min_face=0)
    with pytest.raises(OptionError, match="unknown detector 'eyes'"):
        protect(hopper, detector="eyes")
    with pytest.raises(OptionError, match="a tuple of texts"):
        protect(hopper, keep="10")
    with pytest.raises(OptionError, match="a name or more"):
        protect(hopper, recognizers=())
    with pytest.raises(OptionError, match="faces_from_boxes"):
        protect(hopper, faces=[(1, 2, 3, 4)])  # type: ignore[list-item]
    with pytest.raises(OptionError, match="a whole number"):
        protect(hopper, min_face=24.0)
    with pytest.raises(OptionError, match="detector must be a text"):
        protect(hopper, detector=Path("yunet.onnx"))
    with pytest.raises(OptionError, match="subject must be a name"):
        protect(hopper, subject=5)
    for wrong in (None, Mask):
        with pytest.raises(OptionError, match="method must be a name or a Method"):
            protect(hopper, wrong)  # type: ignore[arg-type]


def test_the_front_door_is_the_pipeline(hopper: Array) -> None:
    assert facedeid.protect is protect
    assert set(facedeid.METHODS) == set(METHODS)
    assert torch.is_grad_enabled()
