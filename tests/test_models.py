"""Recognisers against dlib itself, and their warps against each other."""

from dataclasses import replace

import dlib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facedeid.errors import OptionError, WeightsError
from facedeid.faces import align, detect, frame
from facedeid.models import ARCFACE_CROP, DLIB_CROP, Models
from facedeid.nets.dlib_resnet import DlibFaceNet, state_from_dat
from facedeid.weights import dlib_model_path

Array = NDArray[np.uint8]
DAT = "dlib_face_recognition_resnet_model_v1.dat"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models()


def test_descriptors_equal_those_of_dlib(astronaut: Array, hopper: Array) -> None:
    reference = dlib.face_recognition_model_v1(str(dlib_model_path(DAT)))
    predictor = dlib.shape_predictor(str(dlib_model_path("shape_predictor_5_face_landmarks.dat")))
    net = DlibFaceNet().eval()
    net.load_state_dict(state_from_dat(dlib_model_path(DAT).read_bytes()))
    compared = 0
    for photo in (astronaut, hopper):
        for box in dlib.get_frontal_face_detector()(photo, 1):
            chip = dlib.get_face_chip(photo, predictor(photo, box), 150, 0.25)
            wanted = np.array(reference.compute_face_descriptor(chip))
            with torch.inference_mode():
                batch = torch.from_numpy(chip.copy()).permute(2, 0, 1)[None].float()
                got = net(batch)[0].numpy()
            np.testing.assert_allclose(got, wanted, atol=1e-5)
            compared += 1
    assert compared >= 2


def test_a_photo_is_cut_out_as_dlib_cuts_it(astronaut: Array, models: Models) -> None:
    reference = dlib.face_recognition_model_v1(str(dlib_model_path(DAT)))
    predictor = dlib.shape_predictor(str(dlib_model_path("shape_predictor_68_face_landmarks.dat")))
    shape = predictor(astronaut, dlib.rectangle(175, 76, 265, 166))
    points = np.array([[p.x, p.y] for p in shape.parts()], float)
    ours = models.recognizer("dlib").embed_photo(astronaut, [points])[0].numpy()
    theirs = np.array(reference.compute_face_descriptor(astronaut, shape))
    # another set of landmarks goes into dlib's own chip; the same person is far below 0.6
    assert np.linalg.norm(ours - theirs) < 0.25


def test_chips_are_those_of_dlib(astronaut: Array, hopper: Array) -> None:
    predictor = dlib.shape_predictor(str(dlib_model_path("shape_predictor_68_face_landmarks.dat")))
    boxes = (dlib.rectangle(175, 76, 265, 166), dlib.get_frontal_face_detector()(hopper)[0])
    for photo, box in zip((astronaut, hopper), boxes, strict=True):
        parts = predictor(photo, box).parts()
        points = np.array([[p.x, p.y] for p in parts], float)
        five = dlib.full_object_detection(box, [parts[group[0]] for group in DLIB_CROP.groups])
        theirs = dlib.get_face_chip(photo, five, 150, 0.25).astype(float)
        off = {shift: _difference(photo, points, theirs, shift) for shift in (-0.5, 0, 0.5)}
        assert off[0] < 5  # dlib shrinks large faces in another way
        assert off[0] < 0.7 * min(off[-0.5], off[0.5])


def _difference(photo: Array, points: NDArray[np.float64], theirs: Array, shift: float) -> float:
    """Mean, in grey levels, from dlib's chip to ours, moved by part of a pixel."""
    moved = replace(
        DLIB_CROP, template=tuple((x + shift, y + shift) for x, y in DLIB_CROP.template)
    )
    ours = moved.chips_from_photo(photo, [points])[0].permute(1, 2, 0).numpy()
    return float(np.abs(ours - theirs).mean())


def test_embeddings_tell_people_apart(astronaut: Array, hopper: Array, models: Models) -> None:
    dlib_net = models.recognizer("dlib")
    collins = max(detect(astronaut), key=lambda f: f.score)
    grace = max(detect(hopper), key=lambda f: f.score)
    mirrored = np.ascontiguousarray(hopper[:, ::-1])
    again = max(detect(mirrored), key=lambda f: f.score)
    a, b, c = (
        dlib_net.embed_photo(photo, [face.landmarks])
        for photo, face in ((astronaut, collins), (hopper, grace), (mirrored, again))
    )
    threshold = dlib_net.threshold("library")
    assert dlib_net.distance(b, c).item() < threshold < dlib_net.distance(a, b).item()


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_the_frame_and_the_photo_give_the_same_embedding(
    hopper: Array, models: Models, size: int
) -> None:
    recognizer = models.recognizer("dlib")
    face = max(detect(hopper), key=lambda f: f.score)
    crop = frame(face, size)
    points = torch.from_numpy(crop.to_frame(face.landmarks))[None].float()
    inner = recognizer.embed(align(hopper, crop)[None], points)
    outer = recognizer.embed_photo(hopper, [face.landmarks])
    assert recognizer.distance(inner, outer).item() < 0.12


@pytest.mark.parametrize("name", ["dlib", "facedeid-mobile"])
def test_the_other_faces_of_a_batch_change_no_embedding(
    hopper: Array, models: Models, name: str
) -> None:
    """A turned head, whose points lie nearer together, is reduced by less than the other face."""
    recognizer = models.recognizer(name)
    face = max(detect(hopper), key=lambda f: f.score)
    crop = frame(face, 512)
    faces = align(hopper, crop)[None].repeat(2, 1, 1, 1)
    points = torch.from_numpy(crop.to_frame(face.landmarks))[None].float().repeat(2, 1, 1)
    points[1, :, 0] = points[1, :, 0] * 0.6 + 100
    together = recognizer.embed(faces, points)
    alone = torch.cat([recognizer.embed(faces[i : i + 1], points[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_gradients_reach_the_canonical_face(hopper: Array, models: Models) -> None:
    face = max(detect(hopper), key=lambda f: f.score)
    crop = align(hopper, frame(face))[None].requires_grad_()
    models.recognizer("dlib").embed(crop).square().sum().backward()
    assert crop.grad is not None
    inside = crop.grad[0, :, 96:200, 70:190].abs().mean()
    assert torch.isfinite(crop.grad).all()
    assert inside > 10 * crop.grad[0, :, :16].abs().mean()
    assert all(p.grad is None for p in models.recognizer("dlib").net.parameters())


@pytest.mark.parametrize("crop", [DLIB_CROP, ARCFACE_CROP])
def test_chips_put_the_landmarks_on_the_template(hopper: Array, crop: object) -> None:
    assert crop in (DLIB_CROP, ARCFACE_CROP)
    face = max(detect(hopper), key=lambda f: f.score)
    matrix = crop.matrices(face.landmarks[None])[0]  # type: ignore[attr-defined]
    points = np.stack([face.landmarks[list(g)].mean(0) for g in crop.groups])  # type: ignore[attr-defined]
    landed = points @ matrix[:, :2].T + matrix[:, 2]
    off = np.abs(landed - np.array(crop.template)).max()  # type: ignore[attr-defined]
    assert off < 0.06 * crop.size  # type: ignore[attr-defined]


def test_clear_errors(models: Models) -> None:
    with pytest.raises(OptionError, match="no recogniser is called 'nobody'; there are: dlib"):
        models.recognizer("nobody")
    with pytest.raises(OptionError, match="it has library, best, far=1e-3"):
        models.recognizer("dlib").threshold("far=0.5")
    for device in ("warp-drive", "mps", "meta"):
        with pytest.raises(OptionError, match=f"{device}: use cpu or cuda"):
            Models(device)
    for damaged in (b"", b"nonsense" * 100, dlib_model_path(DAT).read_bytes()[:100_000]):
        with pytest.raises(WeightsError, match="reinstall face_recognition_models"):
            state_from_dat(damaged)
    with pytest.raises(WeightsError, match="pip install face_recognition_models"):
        dlib_model_path("missing.dat")
