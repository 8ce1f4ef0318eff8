import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from facedeid.errors import OptionError, OutputError
from facedeid.evaluation import choices, output
from facedeid.evaluation import originals as originals_module
from facedeid.evaluation import views as views_module
from facedeid.evaluation.datasets import load
from facedeid.evaluation.records import records
from facedeid.evaluation.run import Settings, evaluate
from facedeid.evaluation.sheets import headline_table, tables
from facedeid.evaluation.tables import WHITE_BOX, Estimate
from facedeid.methods import METHODS, Method, parse

SETTINGS = {
    "recognizers": ("dlib", "facedeid-mobile"),
    "methods": choices.methods(["mask:shape=box,noise"]),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def done(lfw_made, cache, models):
    settings = Settings(
        **SETTINGS, robustness=("crop-0.9",), sweeps=choices.sweeps(["noise:sigma=5|49"])
    )
    return evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)


def column(table, name):
    place = table.columns.index(name)
    return [row[place] for row in table.rows]


def test_untouched_photos_are_matched_and_masked_ones_are_not(done):
    shares = {
        (row.method, row.recognizer, row.aligned): row
        for result in done.all
        for row in result.partner
        if row.point == "best"
    }
    assert len(shares) == 4 * 2 * 2
    for recognizer in ("dlib", "facedeid-mobile"):
        for aligned in ("fresh", "original"):
            assert shares["untouched", recognizer, aligned].rejected.value == 0
            assert shares["noise:sigma=5", recognizer, aligned].rejected.value == 0
        masked = shares["mask:shape=box", recognizer, "fresh"]
        assert masked.rejected.value == 1
        assert masked.outcomes.not_detected == 12
    assert done.methods[0].rankings[0].rank1.value < done.untouched.rankings[0].rank1.value == 1
    quality = {result.views.label: result.quality.cells for result in done.all}
    assert quality["untouched"]["SSIM"].value == 1
    assert quality["untouched"]["PSNR"] == "infinite (6 of 6 unchanged)"
    assert quality["noise:sigma=5"]["SSIM"].value > quality["noise"]["SSIM"].value
    assert quality["noise:sigma=5"]["MSE"].value < quality["noise"]["MSE"].value
    assert quality["mask:shape=box"]["chin"] == "no face found"
    assert quality["noise:sigma=5"]["chin"].value < 5
    rates = {result.views.label: result.quality.detected.value for result in done.all}
    assert (rates["untouched"], rates["mask:shape=box"]) == (1, 0)


def test_the_tables_say_it_all(done):
    headline, others = headline_table(done), {table.name: table for table in tables(done)}
    assert set(others) == {
        "verification",
        "self-match",
        "identification",
        "quality",
        "robustness",
        "sweeps",
        "recognisers",
        "cost",
    }
    assert column(headline, "method") == ["untouched", "mask:shape=box", "noise", "noise:sigma=5"]
    worst = min(
        (row for row in done.methods[0].partner if row.point == "best"),
        key=lambda row: row.rejected.value,
    )
    assert column(headline, "ASR")[1] == worst.rejected
    verification = others["verification"]
    for asr, tar in zip(column(verification, "ASR"), column(verification, "TAR"), strict=True):
        assert tar.value == pytest.approx(1 - asr.value)
        assert tar.low == pytest.approx(1 - asr.high)
    outcomes = [column(verification, n) for n in ("not detected", "not matched", "matched")]
    np.testing.assert_allclose(np.sum(outcomes, 0), 1)
    assert column(others["sweeps"], "value") == [5.0, 49.0]
    assert len(others["robustness"].rows) == 4 * 2 * 2
    assert column(others["recognisers"], "genuine") == [12, 12]
    assert all(isinstance(seconds, float) for seconds in column(others["cost"], "seconds"))
    assert len(others["cost"].rows) == 1 + 2 + 2 + 3 * 3


def test_others_can_score_the_records_again(done):
    head, *lines = (json.loads(json.dumps(line, allow_nan=False)) for line in records(done, 0))
    assert head["recognizers"][0]["thresholds"]["library"] == 0.6
    assert len(lines) == 12 * 4 * 2 * 2
    for result in done.all:
        method = result.views.method
        options = {} if method is None else json.loads(json.dumps(method.options()))
        named = ("untouched" if method is None else method.name, options)
        for row in result.partner:
            mine = [
                line
                for line in lines
                if (line["method"], line["options"]) == named
                and (line["recognizer"], line["aligned"]) == (row.recognizer, row.aligned)
            ]
            assert len(mine) == 12
            matched = [
                line["distance_to_partner"] is not None
                and line["distance_to_partner"] < line["thresholds"][row.point]
                for line in mine
            ]
            assert 1 - np.mean(matched) == pytest.approx(row.rejected.value)
            names = [line["outcome"][row.point] for line in mine]
            assert names.count("matched") == row.outcomes.matched
            assert names.count("not-detected") == row.outcomes.not_detected
    masked = [line for line in lines if line["method"] == "mask" and line["aligned"] == "fresh"]
    assert not any(line["detected"] for line in masked)
    assert all(line["distance_to_self"] is None for line in masked)
    assert masked[0]["key"] == "Ann_A/Ann_A_0002.jpg"
    assert masked[0]["partner"] == "Ann_A/Ann_A_0001.jpg"


def test_a_second_run_only_scores(done, lfw_made, cache, models, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("worked out again")

    monkeypatch.setattr(originals_module, "detect", fail)
    monkeypatch.setattr(views_module, "find_again", fail)
    monkeypatch.setattr(Method, "__call__", fail)
    for name in SETTINGS["recognizers"]:
        monkeypatch.setattr(models.recognizer(name), "embed_chips", fail)
    settings = Settings(**SETTINGS, robustness=("crop-0.9",))
    again = evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
    assert [r.partner for r in again.methods] == [r.partner for r in done.methods[:2]]
    assert [r.quality for r in again.methods] == [r.quality for r in done.methods[:2]]
    fewer = evaluate(
        load(f"lfw:{lfw_made}"), Settings(**SETTINGS, limit=5, ranked=0), cache, models=models
    )
    assert fewer.subjects.pairs == done.subjects.pairs[:5]
    assert not fewer.methods[0].rankings


def test_a_killed_run_goes_on(lfw_made, models, tmp_path, monkeypatch):
    dataset = load(f"lfw:{lfw_made}")
    settings = Settings(**SETTINGS, ranked=0)
    usual, left = views_module.find_again, [4]

    def stop(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return usual(*arguments)

    monkeypatch.setattr(views_module, "find_again", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(dataset, settings, tmp_path, models=models)
    left[0] = 10**6
    evaluate(dataset, settings, tmp_path, models=models)
    assert 10**6 - left[0] == 6 * 3 - 4  # six photos, three releases, and none twice


def test_people_and_photos_without_names(lfw, models, cache, tmp_path):
    (lfw / "pairs.txt").unlink()
    Image.new("RGB", (99, 99), "teal").save(lfw / "Ann_A" / "Ann_A_0005.jpg")
    people = evaluate(load(f"people:{lfw}"), Settings(**SETTINGS), cache, models=models)
    assert len(people.subjects.pairs) == 6
    assert people.subjects.dropped == 1
    assert list(people.judges[0].thresholds) == ["library"]  # too few pairs to measure one
    assert len(people.subjects.ranked) == 2
    photos = evaluate(load(f"photos:{lfw}"), Settings(**SETTINGS, limit=3), cache, models=models)
    assert not photos.methods[0].partner
    assert not photos.methods[0].rankings
    assert len(photos.subjects.probes) == 3
    assert {row.rejected.value for row in photos.untouched.itself} == {0}
    table = headline_table(photos)
    assert column(table, "SPR")[0] == Estimate(0, 0, column(table, "SPR")[0].high, 3)
    output.claim(tmp_path / "out")
    page = output.write_results(tmp_path / "out", photos, {"data": "x"}, grid=1)
    assert "SPR" in page.read_text("utf-8")
    for path in lfw.rglob("*.jpg"):
        Image.new("RGB", (99, 99), "teal").save(path)
    with pytest.raises(OptionError, match="nothing to evaluate"):
        evaluate(load(f"photos:{lfw}"), Settings(**SETTINGS), cache, models=models)


def test_a_recogniser_that_the_method_knew_is_marked_and_never_the_headline(
    lfw_made, models, cache, monkeypatch
):
    kind = type(parse("noise"))
    monkeypatch.setattr(kind, "surrogates", ("dlib",))
    settings = Settings(
        recognizers=SETTINGS["recognizers"], methods=(parse("noise"),), robustness=("jpeg-10",)
    )
    known = evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
    assert headline_table(known).rows[1][1] == "facedeid-mobile"
    for table in tables(known):
        if WHITE_BOX in table.columns:
            marks = zip(
                column(table, "method"),
                column(table, "recogniser"),
                column(table, WHITE_BOX),
                strict=True,
            )
            assert all(mark == (m == "noise" and r == "dlib") for m, r, mark in marks)
    white = [line["white_box"] for line in records(known, 0) if line.get("method") == "noise"]
    assert sum(white) == len(white) / 2
    settings = Settings(recognizers=("dlib",), methods=(parse("noise"),))
    alone = evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
    assert headline_table(alone).rows[1][1] == "none held out"


def test_attackers_and_realism_are_rows(lfw_made, models, cache, monkeypatch):
    settings = Settings(
        recognizers=("facedeid-mobile",),
        methods=(parse("mask"),),
        attackers=("parrot",),
        realism=("embedding:facedeid-mobile",),
    )
    found = evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
    assert {row.attacker for row in found.attacks} == {"parrot"}
    rows = found.realism["embedding:facedeid-mobile"]
    assert list(rows) == ["untouched", "jpeg-20", "blur-2", "mask"]
    assert rows["mask"].frechet > rows["jpeg-20"].frechet > rows["untouched"].frechet
    names = [table.name for table in tables(found)]
    assert "attackers" in names
    assert "realism" in names

    def fail(_):
        raise AssertionError("attacked again")

    monkeypatch.setattr("facedeid.evaluation.extras.ATTACKERS", {"parrot": fail})
    again = evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
    assert again.attacks == found.attacks


# the folder ---------------------------------------------------------------------------------


def test_everything_is_written(done, tmp_path):
    folder = tmp_path / "new" / "out"
    output.claim(folder)
    page = output.write_results(folder, done, {"data": "a little LFW"}, grid=2)
    assert page == folder / "index.html"
    text = page.read_text("utf-8")
    assert "a little LFW" in text
    assert text.count("<img") == len(list((folder / "plots").glob("*.png")))
    with (folder / "tables" / "headline.csv").open() as file:
        assert next(csv.DictReader(file))["method"] == "untouched"
    assert "## 1:N" in (folder / "results.md").read_text("utf-8")
    names = {path.name for path in (folder / "plots").iterdir()}
    assert {"grid.png", "privacy-utility.png", "cmc-dlib.png", "sweep-noise-sigma.png"} <= names
    output.claim(folder)  # ours: again is fine


@pytest.mark.parametrize("name", ["index.html", "tables", "records.jsonl"])
def test_foreign_files_are_not_harmed(tmp_path, name):
    (tmp_path / "notes.txt").write_text("mine")
    output.claim(tmp_path)  # other names are no obstacle
    (tmp_path / output.MARKER).unlink()
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {name}, not from an evaluation"):
        output.claim(tmp_path)
    assert (tmp_path / name).read_text() == (tmp_path / "notes.txt").read_text() == "mine"
    shutil.rmtree(tmp_path)
    tmp_path.write_text("a file")
    with pytest.raises(OutputError):
        output.claim(tmp_path)


# what users write ---------------------------------------------------------------------------


def test_lists_of_methods():
    found = choices.methods(["pixelate,mask:shape=box,color=[0,9,0],blur:sigma=0.1", "pixelate"])
    assert found == (
        parse("pixelate"),
        parse("mask:shape=box,color=[0,9,0]"),
        parse("blur:sigma=0.1"),
    )
    assert set(choices.methods([",".join(METHODS)])) == {kind() for kind in METHODS.values()}
    for text, reason in [
        ("pixelate,nonsense", "nonsense"),
        ("pixelate:cells=8,nonsense=1", "no option 'nonsense'"),
        ("nonsense:a=1,pixelate", "nonsense"),
    ]:
        with pytest.raises(OptionError, match=reason):
            choices.methods([text])


def test_lists_of_recognisers():
    text = "dlib,onnx:a,b.onnx?mean=0&std=1&threshold=0.7,facedeid-mobile?threshold=0.5"
    assert choices.recognizers([text, "dlib"]) == (
        "dlib",
        "onnx:a,b.onnx?mean=0&std=1&threshold=0.7",
        "facedeid-mobile?threshold=0.5",
    )


def test_sweeps():
    (sweep,) = choices.sweeps(["blur:sigma=0.1|0.2"])
    assert sweep.values == (0.1, 0.2)
    assert sweep.methods[0] == parse("blur:sigma=0.1")
    for text in ("blur:sigma=0.1", "blur:sigma=a|b", "blur", "pixelate:cells=1|2,cluster=3|4"):
        with pytest.raises(OptionError, match="--sweep"):
            choices.sweeps([text])


def test_names():
    assert choices.names("all", ["a", "b"], "robustness") == ("a", "b")
    assert choices.names("b,b", ["a", "b"], "robustness") == ("b",)
    assert choices.names(None, ["a"], "robustness") == ()
    with pytest.raises(OptionError, match="--robustness c: there are all, a, b"):
        choices.names("c", ["a", "b"], "robustness")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"methods": ()}, "name a method"),
        ({"limit": 0}, "limit must be 1"),
        ({"ranked": -1}, "ranked must be 0"),
        ({"detector": "nose"}, "unknown detector"),
    ],
)
def test_settings_that_make_no_sense(change, reason):
    with pytest.raises(OptionError, match=reason):
        Settings(**{**SETTINGS, **change})


def test_recognisers_that_tables_could_not_tell_apart(lfw_made, models, cache):
    settings = Settings(methods=SETTINGS["methods"], recognizers=("dlib", "dlib?threshold=0.5"))
    with pytest.raises(OptionError, match="two recognisers are called dlib"):
        evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
