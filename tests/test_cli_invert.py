"""`facedeid invert` as a user types it."""

import numpy as np
from PIL import Image


def test_photo_reconstruction_and_difference_in_a_row(typed, hopper_path, tmp_path):
    picture = tmp_path / "inverted.png"
    code, text = typed("invert", hopper_path, "-o", picture, "--refine", 2)
    assert code == 0, text
    assert "SSIM" in text
    assert "distance facedeid-mobile" in text
    pixels = np.asarray(Image.open(picture)).astype(float)
    assert pixels.shape == (128, 3 * 128, 3)
    photo, made, difference = np.split(pixels, 3, 1)
    assert np.abs(np.abs(made - photo).clip(0, 127.5) * 2 - difference).max() <= 3
    code, text = typed("invert", hopper_path, "-o", picture)
    assert code == 1
    assert "exists" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inverted.png"]


def test_what_cannot_be_inverted(typed, hopper_path, tmp_path):
    blank = tmp_path / "blank.png"
    Image.new("RGB", (200, 200), "grey").save(blank)
    for arguments, status, complaint in (
        ((blank, "-o", tmp_path / "a.png"), 4, "no face"),
        ((tmp_path / "none.jpg", "-o", tmp_path / "a.png"), 1, "none.jpg"),
        (("-o", tmp_path / "a.png", "--", "-dash.jpg"), 1, "-dash.jpg: cannot be read"),
        ((hopper_path, "-o", tmp_path / "no" / "a.png"), 1, "no such folder"),
        ((hopper_path, "-o", tmp_path / "a.txt"), 1, "write a .png"),
        ((hopper_path, "-o", tmp_path / f"{'a' * 300}.png"), 1, "long"),
        ((hopper_path, "-o", tmp_path / "a.png", "--pair", "other"), 2, "no pair is called"),
    ):
        code, text = typed("invert", *arguments)
        assert code == status
        assert complaint in " ".join(text.split())
    assert [p.name for p in tmp_path.iterdir()] == ["blank.png"]
