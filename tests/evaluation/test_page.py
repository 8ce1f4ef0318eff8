import base64
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from skimage import data

from facedeid.errors import OptionError, OutputError
from facedeid.evaluation import grids, page
from facedeid.evaluation.tables import WHITE_BOX, Estimate, Table

HOSTILE = 'a<script>alert(1)</script>"\u202e&amp;'


class Elements(HTMLParser):
    """Checks nesting and collects tags with attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def table(name="asr", method=HOSTILE):
    rows = (
        (method, Estimate(0.975, 0.968, 0.981, 3000), False, None),
        ("tip-im", Estimate(1, 0.99, 1, 3000), True, "no face found"),
    )
    return Table(name, f"Success {HOSTILE}", HOSTILE, ("method", "ASR", WHITE_BOX, "why"), rows)


@pytest.fixture
def plot(tmp_path):
    path = tmp_path / "plot.png"
    Image.new("RGB", (40, 30), "white").save(path)
    return path


@pytest.fixture
def grid(tmp_path):
    face = data.astronaut()[20:180, 145:305].copy()
    sheet = grids.picture_grid([(face, {"invert": np.asarray(255 - face)})])
    return grids.write_grid(tmp_path / "grid.png", sheet)


def written(folder, *, tables=(), figures=(), facts=None, headline=None):
    path = page.write_page(folder, HOSTILE, facts or {}, tables, figures, headline)
    return Elements(path.read_text("utf-8"))


def test_the_page_is_self_contained_and_every_link_has_its_target(tmp_path, plot):
    figures = [("CMC", plot)]
    made = written(
        tmp_path / "new" / "out",
        tables=[table("asr"), table("spr")],
        figures=figures,
        facts={"seed": "0"},
        headline=table("worst"),
    )
    names = {tag for tag, _ in made.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "base"})
    (picture,) = made.all("img")
    uri = f"data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()}"
    assert (picture["src"], picture["alt"]) == (uri, "CMC")
    anchors = [attrs["id"] for _, attrs in made.tags if "id" in attrs]
    assert len(set(anchors)) == len(anchors)
    links = [attrs["href"] for attrs in made.all("a")]
    assert links == ["#headline", "#table-asr", "#table-spr", "#figures", "#facts"]
    assert {link[1:] for link in links} <= set(anchors)
    style = "".join(made.words)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme:dark" in style
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policy in [attrs.get("content") for attrs in made.all("meta")]


def test_everything_from_outside_is_text(tmp_path, plot):
    made = written(
        tmp_path,
        tables=[table()],
        figures=[(HOSTILE, plot)],
        facts={HOSTILE: HOSTILE},
        headline=table("worst"),
    )
    assert not made.all("script")
    shown = HOSTILE.replace("\u202e", "\ufffd")
    # title twice; title in the contents and above, note and cell of two tables; facts; caption
    assert "".join(made.words).count(shown) == 2 + 2 * 4 + 2 + 1
    assert "\u202e" not in (tmp_path / page.PAGE).read_text("utf-8")


def test_tables_scroll_and_show_intervals_and_white_boxes(tmp_path):
    made = written(tmp_path, tables=[table()])
    assert [attrs["class"] for attrs in made.all("div")][-1] == "wide"
    assert {"0.975", " (0.968-0.981)", "no face found", "yes", "no"} <= set(made.words)
    assert "n = 3,000" in [attrs.get("title") for attrs in made.all("span")]
    assert [attrs.get("class") for attrs in made.all("tr")] == [None, None, "void"]
    heads = [(a.get("class"), a["scope"]) for a in made.all("th")][:4]
    assert heads == [("text", "col"), ("number", "col"), ("text", "col"), ("text", "col")]


def test_the_headline_comes_first(tmp_path):
    made = written(tmp_path, tables=[table("asr")], headline=table("worst"))
    sections = [attrs["id"] for attrs in made.all("section")]
    assert sections == ["headline", "table-asr"]
    assert not any("Figures" in word for word in made.words)
    assert written(tmp_path).all("section") == []


def test_only_a_page_with_a_grid_identifies_people(tmp_path, plot, grid):
    made = written(tmp_path, figures=[("plot", plot)])
    assert "This page identifies people" not in made.words
    made = written(tmp_path, figures=[("plot", plot), ("pictures", grid)])
    assert "This page identifies people" in made.words
    assert (tmp_path / page.PAGE).stat().st_mode & 0o077 == 0
    assert [attrs.get("class") for attrs in made.all("figure")] == [None, "grid"]


def test_a_figure_that_cannot_be_read_leaves_the_old_page(tmp_path, plot):
    written(tmp_path, tables=[table()])
    before = (tmp_path / page.PAGE).read_bytes()
    for wrong in ("none.png", "plot.pdf"):
        with pytest.raises(OptionError, match="figure"):
            written(tmp_path, figures=[("x", tmp_path / wrong)])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OptionError, match="cannot read the figure"):
        written(tmp_path, figures=[("x", tmp_path / "text.png")])
    assert (tmp_path / page.PAGE).read_bytes() == before
    assert not list(tmp_path.glob(".facedeid-*"))


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, plot):
    with pytest.raises(OutputError, match="cannot make the folder"):
        written(plot / "inside", tables=[table()])
