import importlib.util
import io
import itertools
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
from PIL import Image
from skimage import data

from facedeid.errors import OptionError, OutputError
from facedeid.evaluation import grids, plots
from facedeid.evaluation.drawing import spread
from facedeid.evaluation.tables import Estimate

CURVES = {"dlib": [0.5, 0.7, 0.8], "mobile": np.array([0.2, 0.25, 0.3, 0.9])}
NAMES = (*CURVES, "$a_b$ & <c>")


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines}


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def labels(figure):
    """Boxes in pixels of the labels beside the axes, and of the axes."""
    figure.draw_without_rendering()
    extent = matplotlib.text.Text.get_window_extent  # an annotation's own includes its leader
    return [extent(text) for text in figure.axes[0].texts], figure.axes[0].bbox


def test_cmc_holds_the_curves_and_dashes_white_boxes():
    figure = plots.cmc(CURVES, white_box=["mobile"])
    drawn = lines(figure)
    assert list(drawn) == ["dlib", "mobile"]
    for label, rates in CURVES.items():
        np.testing.assert_array_equal(drawn[label].get_xdata(), np.arange(1, len(rates) + 1))
        np.testing.assert_array_equal(drawn[label].get_ydata(), rates)
    assert (drawn["dlib"].get_linestyle(), drawn["mobile"].get_linestyle()) == ("-", "--")
    assert "mobile (white-box)" in words(figure)
    assert "dlib" in words(figure)


def test_curves_look_different_from_each_other():
    drawn = lines(plots.cmc({str(i): [i / 30, 1] for i in range(30)})).values()
    looks = {(line.get_color(), line.get_marker()) for line in drawn}
    assert len(looks) == 30


@pytest.mark.parametrize("number", [3, 12, 40])
def test_labels_keep_off_the_data_and_each_other(number):
    curves = {
        f"method-{i}:radius={i}, recogniser {i}": [0.1, 0.99 + i / 10_000] for i in range(number)
    }
    boxes, axes = labels(plots.cmc(curves))
    assert len(boxes) == number
    assert all(box.x0 > axes.x1 for box in boxes)
    ordered = sorted(boxes, key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 for a, b in itertools.pairwise(ordered))
    assert ordered[0].y0 > 0
    assert all(box.x1 <= 800 for box in boxes)


def test_spread_moves_no_label_that_has_room():
    assert spread([0.9, 0.5, 0.1], [0.1, 0.1, 0.1]) == [0.9, 0.5, 0.1]
    places = spread([1, 1, 0.98, 0, 0], [0.1] * 5)
    assert all(a - b > 0.0999 for a, b in itertools.pairwise(places))
    assert 0.0499 < places[-1] < places[0] < 0.9501


@pytest.mark.parametrize("curve", [[], [[0.1, 0.2]], 0.5])
def test_curves_have_a_rate_per_rank(curve):
    with pytest.raises(OptionError, match="rate per rank"):
        plots.cmc({"dlib": curve})


def test_sweep_draws_values_and_intervals_and_leaves_gaps():
    cells = [Estimate(0.2, 0.1, 0.4, 50), None, "no face found", 0.8]
    figure = plots.sweep(
        "ε", [0.1, 1, 10, 100], {"dlib": cells}, quantity="ASR", log=True, white_box=["dlib"]
    )
    axes, line = figure.axes[0], lines(figure)["dlib"]
    assert axes.get_xscale() == "log"
    np.testing.assert_array_equal(line.get_ydata(), [0.2, np.nan, np.nan, 0.8])
    assert line.get_linestyle() == "--"
    band = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert {(0.1, 0.1), (0.1, 0.4)} <= set(map(tuple, band))
    assert axes.get_ylim() == (-0.02, 1.02)
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["ε", "ASR"]
    free = plots.sweep("radius", [2, 4], {"PSNR": [30, 40]}, quantity="dB")
    assert free.axes[0].get_xscale() == "linear"
    assert free.axes[0].get_ylim()[0] > 20


@pytest.mark.parametrize(
    ("x", "log", "place"),
    [([1, 10, math.inf], True, 100), ([math.inf, 2, 4], False, 6), ([6, math.inf], True, 60)],
)
def test_infinity_stands_at_the_right(x, log, place, tmp_path):
    figure = plots.sweep("ε", x, {"dlib": [0.1] * len(x)}, quantity="ASR", log=log)
    drawn = lines(figure)["dlib"].get_xdata()
    assert drawn[x.index(math.inf)] == pytest.approx(place)
    ticks = dict(zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True))
    assert [label.get_text() for at, label in ticks.items() if at == pytest.approx(place)] == ["∞"]
    assert plots.save(figure, tmp_path, "sweep").is_file()


def test_the_study_of_latent_methods_finds_its_sweeps():
    path = Path(__file__).parents[2] / "tools" / "latent_study.py"
    spec = importlib.util.spec_from_file_location("latent_study", path)
    study = importlib.util.module_from_spec(spec)
    sys.modules["latent_study"] = study  # its dataclasses look it up
    spec.loader.exec_module(study)
    together = [f"fsap:identity_step={v},attribute_step={v},iterations=9" for v in ("0.1", "0.04")]
    grid = [f"fsap:tau={a},inner={b}" for a in (0.1, 0.2) for b in (1, 2)]
    found = study.sweeps([*together, "blur:sigma=0.2", *grid, "blur:sigma=-1e-1", "mask", "fsap"])
    assert found == [
        study.Sweep(
            "fsap:iterations=9", ("identity_step", "attribute_step"), ((0.04, 1), (0.1, 0))
        ),
        study.Sweep("blur", ("sigma",), ((-0.1, 7), (0.2, 2))),
    ]


def test_sweeps_that_cannot_be_drawn_are_refused():
    with pytest.raises(OptionError, match="above 0"):
        plots.sweep("ε", [0, 1], {"dlib": [1, 2]}, quantity="ASR", log=True)
    with pytest.raises(OptionError, match="1 values for 2"):
        plots.sweep("ε", [1, 2], {"dlib": [1]}, quantity="ASR")


def test_privacy_utility_has_points_with_error_bars():
    points = {"blur": [(0.3, 0.9, 0.85, 0.95), (0.4, 1.0, 0.97, 1.0)], "mask": []}
    figure = plots.privacy_utility(points, change="LPIPS")
    blur, mask = figure.axes[0].containers
    np.testing.assert_array_equal(blur.lines[0].get_xydata(), [(0.3, 0.9), (0.4, 1.0)])
    (bars,) = blur.lines[2]
    np.testing.assert_allclose(bars.get_segments()[0], [(0.3, 0.85), (0.3, 0.95)])
    assert not len(mask.lines[0].get_xdata())
    assert {"blur", "mask"} <= {text.get_text() for text in figure.legends[0].get_texts()}
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().x0 >= figure.axes[0].bbox.x1
    assert "LPIPS" in figure.axes[0].get_xlabel()


def test_a_long_legend_stays_on_the_figure():
    points = {f"method {i}, with options": [(0.1, 0.2, 0.1, 0.3)] for i in range(40)}
    figure = plots.privacy_utility(points, change="LPIPS")
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y0 > 0


def test_outcomes_are_stacked_to_one():
    counts = {"matched": 30, "not-matched": 60, "not-detected": 210}
    figure = plots.outcomes(
        {"blur": {"dlib": counts, "mobile": {"matched": 0.5, "not-matched": 1.5}}}
    )
    bars = [bar for group in figure.axes[0].containers for bar in group]
    spans = [(round(bar.get_x(), 9), round(bar.get_width(), 9)) for bar in bars]
    assert spans[:3] == [(0, 0.2), (0.2, 0.7), (0.9, 0.1)]
    assert spans[3:] == [(0, 0.75), (0.75, 0), (0.75, 0.25)]
    assert {"20%", "70%", "10%", "75%", "25%", "blur", "dlib", "mobile"} <= set(words(figure))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        name for name, _ in plots.OUTCOMES.values()
    ]


@pytest.mark.parametrize("counts", [{}, {"matched": 0}, {"matched": 1, "lost": 2}])
def test_outcomes_of_other_names_are_refused(counts):
    with pytest.raises(OptionError, match="outcomes of blur, dlib"):
        plots.outcomes({"blur": {"dlib": counts}})


def test_histograms_state_what_the_threshold_accepts():
    distances = {"genuine": [0.1, 0.2, 0.3, 0.9], "impostor": [0.7, 0.8, np.nan], "none": []}
    figure = plots.histograms(distances, threshold=0.6, recognizer="dlib")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "genuine\nn = 4, accepted: 75.0%",
        "impostor\nn = 2, accepted: 0.0%",
        "none\nn = 0, accepted: none",
    ]
    assert list(figure.axes[0].lines[-1].get_xdata()) == [0.6, 0.6]
    assert any("threshold 0.600" in text for text in words(figure))
    with pytest.raises(OptionError, match="no distance"):
        plots.histograms({"genuine": [np.nan]}, threshold=0.6, recognizer="dlib")


def test_saved_figures_repeat_and_hold_no_date(tmp_path):
    for folder in ("a", "b"):
        figure = plots.cmc({name: [0.1, 0.9] for name in NAMES})
        path = plots.save(figure, tmp_path / folder, "cmc", svg=True)
        assert path == tmp_path / folder / "cmc.png"
    for name in ("cmc.png", "cmc.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "cmc.png") as picture:
        assert picture.width == 1200
        assert not {"Software", "Creation Time"} & picture.info.keys()
    svg = (tmp_path / "a" / "cmc.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "<dc:date>" not in svg
    plots.save(figure, tmp_path / "c", "cmc")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["cmc.png"]


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = plots.save(plots.cmc(CURVES), tmp_path, "cmc")
    before = path.read_bytes()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        plots.save(plots.cmc({"other": [0.3, 0.4]}), tmp_path, "cmc")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["cmc.png"]


def test_the_state_of_matplotlib_is_left_alone(tmp_path):
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    plots.save(plots.cmc(CURVES), tmp_path, "cmc")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend
    assert not matplotlib.pyplot.get_fignums()


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'facedeid\[evaluate\]'"):
        plots.cmc(CURVES)


# the picture grid


@pytest.fixture(scope="module")
def faces():
    before = data.astronaut()[20:180, 145:305].copy()
    return before, np.minimum(before.astype(int) + 5, 255).astype(np.uint8)


def cell(grid, row, column, side=160):
    step = side + grids.GAP
    top, left = grids.HEAD + step * row, grids.GAP + step * column
    return grid[top : top + side, left : left + side]


def test_the_grid_holds_originals_results_and_differences(faces):
    before, after = faces
    grid = picture = grids.picture_grid(
        [(before, {"a": after, "b": before}), (after, {"b": after})]
    )
    assert picture.dtype == np.uint8
    for column, expected in enumerate((before, after, None, before, np.full_like(before, 128))):
        if expected is not None:
            np.testing.assert_array_equal(cell(grid, 0, column), expected)
    change = cell(grid, 0, 2).astype(int)
    np.testing.assert_array_equal(change[before < 251], 128 + 5 * grids.GAIN)
    assert (cell(grid, 1, 1) == 255).all()
    np.testing.assert_array_equal(cell(grid, 1, 3), after)
    heads = grid[: grids.HEAD]
    assert (heads < 100).all(2).sum() > 100


def test_differences_are_centred_on_grey_and_clipped():
    before = np.array([[[100, 100, 100]]], np.uint8)
    for change, expected in ((0, 128), (3, 158), (-4, 88), (100, 255), (-100, 0)):
        after = (before.astype(int) + change).astype(np.uint8)
        assert (grids.signed_difference(before, after) == expected).all()


def test_pictures_of_other_shapes_are_fitted(faces):
    tall = np.zeros((200, 100, 3), np.uint8)
    grid = grids.picture_grid([(tall, {"a": tall})], side=80)
    square = cell(grid, 0, 0, 80)
    assert (square[:, 20:60] == 0).all()
    assert (square[:, :20] == 255).all()
    assert (square[:, 60:] == 255).all()


def test_long_heads_stay_in_their_columns(faces):
    before, after = faces
    grid = grids.picture_grid([(before, {"m" * 200: after, "b": after})])
    edge = grids.GAP + 3 * (160 + grids.GAP) - grids.GAP
    assert (grid[:24, edge : edge + grids.GAP] == 255).all()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(np.zeros((4, 4, 3), np.uint8), {"a": np.zeros((4, 5, 3), np.uint8)})],
        [(np.zeros((4, 4, 3), np.float32), {})],
        [(np.zeros((4, 4), np.uint8), {})],
    ],
)
def test_grids_that_cannot_be_made_are_refused(rows):
    with pytest.raises(OptionError):
        grids.picture_grid(rows)


def test_a_grid_file_is_private_and_marked(tmp_path, faces):
    grid = grids.picture_grid([(faces[0], {"a": faces[1]})])
    path = grids.write_grid(tmp_path / "grid.png", grid)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(path.read_bytes()))), grid)
    assert path.stat().st_mode & 0o077 == 0
    assert grids.identifies(path)
    assert not grids.identifies(plots.save(plots.cmc(CURVES), tmp_path, "cmc"))


def test_a_large_grid_is_known_as_one(tmp_path, faces, monkeypatch):
    path = grids.write_grid(tmp_path / "grid.png", grids.picture_grid([(faces[0], {})]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's, beyond which it refuses
    assert grids.identifies(path)
