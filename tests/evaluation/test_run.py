import copy
import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from facedeid import losses
from facedeid.errors import OptionError, OutputError, WeightsError
from facedeid.evaluation import choices, extras, output, pictures, quality
from facedeid.evaluation import originals as originals_module
from facedeid.evaluation import views as views_module
from facedeid.evaluation.appendix import attackers_table, sweeps_table
from facedeid.evaluation.attackers import AttackResult
from facedeid.evaluation.datasets import load
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.records import records
from facedeid.evaluation.releases import Releases, text_of
from facedeid.evaluation.run import Settings, evaluate
from facedeid.evaluation.sheets import NAMES, headline_table, tables
from facedeid.evaluation.sources import CACHE_MARKER
from facedeid.evaluation.tables import WHITE_BOX, Estimate
from facedeid.methods import METHODS, Method, parse
from facedeid.models import RECOGNIZERS, Models, Recognizer

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


def as_if(result, text):
    """Results as if another method had had them."""
    views = copy.copy(result.views)
    views.method = parse(text)
    views.label = text_of(views.method)
    compared = tuple(replace(each, views=views) for each in result.comparisons)
    return replace(result, views=views, comparisons=compared)


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
    assert column(others["recognisers"], "TAR at FAR 1e-3") == ["12 impostor pairs are too few"] * 2
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
    assert (cache / CACHE_MARKER).is_file()


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
    table = next(table for table in tables(found) if table.name == "realism")
    assert [row[table.columns.index(WHITE_BOX)] for row in table.rows] == [False] * 4

    def fail(_):
        raise AssertionError("attacked again")

    monkeypatch.setattr("facedeid.evaluation.extras.ATTACKERS", {"parrot": fail})
    again = evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
    assert again.attacks == found.attacks


def test_attacks_are_kept_for_the_same_photos_and_thresholds_only(
    lfw, models, tmp_path, monkeypatch
):
    made = []
    monkeypatch.setattr(extras, "ATTACKERS", {"counted": lambda bench: made.append(bench) or ()})

    def attack(*recognizers):
        dataset = load(f"lfw:{lfw}")
        originals = Originals(dataset, models, tmp_path / "cache")
        views = Releases(dataset, originals, parse("mask"), models, tmp_path / "cache")
        options = {"limit": 2, "seed": 0, "report": lambda text: lambda done, total: None}
        extras.attack("counted", views, models, recognizers, **options)
        return len(made)

    assert attack("facedeid-mobile") == attack("facedeid-mobile") == 1
    assert attack("facedeid-mobile?threshold=0.5") == 2
    Image.new("RGB", (99, 99), "teal").save(lfw / "Bea_B" / "Bea_B_0002.jpg")
    assert attack("facedeid-mobile") == 3
    (lfw / "Bea_B" / "Bea_B_0002.jpg").touch()
    assert attack("facedeid-mobile") == 3


def test_the_inverter_depends_on_its_teacher(known, models, tmp_path, monkeypatch):
    made, digests = [], {"dlib": "a", "facedeid-mobile": "b"}
    monkeypatch.setattr(extras, "ATTACKERS", {"inverter": lambda bench: made.append(bench) or ()})
    monkeypatch.setattr(extras, "recognizer_digest", lambda each: digests[each.name])
    views = Releases(*known, parse("mask"), models, tmp_path)
    options = {"limit": 2, "seed": 0, "report": lambda text: lambda done, total: None}
    for teacher, count in (("b", 1), ("b", 1), ("c", 2)):
        digests["facedeid-mobile"] = teacher
        extras.attack("inverter", views, models, ["dlib"], **options)
        assert len(made) == count


def test_quality_depends_on_what_measures_it(tmp_path, monkeypatch):
    views, folders = SimpleNamespace(folder=tmp_path), []

    def look():
        folders.append(quality.shelf_of(views, None).folder)

    look()
    monkeypatch.setattr(quality, "shipped_facts", lambda name: {"sha256": name})
    look()
    usual = quality.code
    for part in (losses, quality._row):
        monkeypatch.setattr(quality, "code", lambda of, part=part: "x" if of is part else usual(of))
        look()
    assert len(set(folders)) == 4


def test_an_attack_on_one_person_has_no_interval():
    row = AttackResult(
        attacker="inverter",
        variant="",
        method="mask()",
        recognizer=None,
        aligned="original",
        white_box=False,
        measure="PSNR (dB)",
        n=2,
        value=12.0,
        low=None,
        high=None,
        ordinary=9.0,
        untouched=None,
    )
    table = attackers_table(SimpleNamespace(methods=(), attacks=(row,)))
    assert column(table, "attacker's") == [12.0]


def test_what_cannot_be_done_is_said_before_anything_is_done(
    lfw_made, models, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr(originals_module, "detect", fail)
    monkeypatch.setattr(Method, "__call__", fail)
    monkeypatch.setenv("FACEDEID_MODELS", str(tmp_path / "empty"))

    def damaged():
        raise WeightsError("the file is damaged")

    spec = replace(RECOGNIZERS["dlib"], name="damaged", build=damaged)
    monkeypatch.setitem(models._recognizers, "damaged", Recognizer(spec, models.device))
    for data, change, reason in [
        ("photos", {"attackers": ("parrot",)}, "does not say who is who"),
        ("lfw", {"realism": ("squeezent",)}, "no features are called"),
        ("lfw", {"realism": ("squeezenet",)}, "lpips_squeeze_backbone is not in"),
        ("lfw", {"methods": (parse('lgc:recognizers=["nobody"]'),)}, "no recogniser is called"),
        ("lfw", {"methods": (parse('lgc:recognizers=["ir-se50"]'),)}, "ir_se50 is not in"),
        ("lfw", {"methods": (parse("feature-embedding:identity=9999"),)}, "identity must lie"),
        ("lfw", {"lpips": (Path("store"),)}, "lpips_alex_backbone is not in"),
        ("photos", {"recognizers": ("facedeid-mobile?crop=psp",)}, "mobile has no known threshold"),
        ("lfw", {"recognizers": ("damaged",)}, "the file is damaged"),
    ]:
        settings = Settings(**{**SETTINGS, **change})
        with pytest.raises((OptionError, WeightsError), match=reason):
            evaluate(load(f"{data}:{lfw_made}"), settings, tmp_path / "cache", models=models)


def test_methods_that_tables_could_not_tell_apart(lfw_made, models, tmp_path, hopper):
    for name in ("a", "b"):
        (tmp_path / name / "faces").mkdir(parents=True)
        Image.fromarray(hopper).save(tmp_path / name / "faces" / "hopper.png")
    two = tuple(parse(f"tip-im:images={tmp_path / name / 'faces'}") for name in ("a", "b"))
    with pytest.raises(OptionError, match="two methods are called tip-im:images=faces"):
        evaluate(load(f"lfw:{lfw_made}"), Settings(methods=two), tmp_path / "cache", models=models)


def test_names_of_photos_in_no_known_encoding(lfw_made, models, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(lfw_made / "Ann_A" / "Ann_A_0001.jpg", folder / name)
    settings = Settings(methods=(parse("mask"),), recognizers=("facedeid-mobile",), seed=3)
    for _ in range(2):
        data = load(f"photos:{folder}")
        found = evaluate(data, settings, tmp_path / "cache", models=Models())
        assert found.subjects.probes == (name,)
    output.claim(tmp_path / "out")
    output.write_results(tmp_path / "out", found, {"data": "x"}, grid=1)
    lines = (tmp_path / "out" / "records.jsonl").read_text("ascii").splitlines()
    assert json.loads(lines[1])["key"] == name
    row = found.originals.shelf(models.recognizer("facedeid-mobile")).get(
        found.originals.name(name)
    )
    assert row is not None


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
    assert {"outcomes.png", "distances-dlib.png", "distances-facedeid-mobile.png"} <= names
    assert all(map(pictures.MADE.fullmatch, names))
    assert "Outcomes against the other photo" in text
    assert {table.name for table in tables(done)} < set(NAMES)
    output.claim(folder)  # ours: again is fine


def test_what_an_evaluation_no_longer_makes_is_removed(done, tmp_path):
    output.claim(tmp_path)
    output.write_results(tmp_path, done, {}, grid=1)
    foreign = ["plots/mine.png", "plots/grid.webp", "tables/mine.csv", "tables/sweeps.txt"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    unranked = replace(done.untouched, rankings=())
    methods = tuple(replace(result, rankings=()) for result in done.methods)
    fewer = replace(done, sweeps=(), robustness=(), untouched=unranked, methods=methods)
    output.write_results(tmp_path, fewer, {}, grid=0)
    left = {f"{p.parent.name}/{p.name}" for p in tmp_path.rglob("*.*") if p.parent != tmp_path}
    gone = ["plots/grid.png", "plots/sweep-noise-sigma.png", "plots/cmc-dlib.png"]
    gone += ["tables/sweeps.csv", "tables/robustness.md", "tables/identification.json"]
    assert not left & set(gone)
    assert set(foreign) | {"plots/distances-dlib.png", "tables/headline.csv"} <= left
    assert "identifies people" not in (tmp_path / "index.html").read_text("utf-8")


def test_the_grid_has_as_many_photos_as_it_can(done, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "picture_grid", lambda rows: shown.append(len(rows)))
    monkeypatch.setattr(pictures, "write_grid", lambda path, grid: path)
    counts = (1, 2, 5, 6, 7, 100)
    for count in counts:
        pictures.write_grid_of(tmp_path, done, count)
    assert len(done.subjects.unique) == 6
    assert shown == [min(count, 6) for count in counts]


def test_infinity_is_written_and_drawn(done, tmp_path):
    swept = choices.sweeps(["identity-dp:epsilon=6|Infinity"])
    methods = tuple(as_if(done.methods[1], f"identity-dp:epsilon={e}") for e in ("6", "Infinity"))
    results = replace(done, methods=methods, sweeps=swept)
    output.claim(tmp_path)
    output.write_results(tmp_path, results, {}, grid=0)
    lines = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines()[1:])
    budgets = {line["options"].get("epsilon") for line in lines if line["method"] == "identity-dp"}
    assert budgets == {6.0, "infinite"}
    assert (tmp_path / "plots" / "sweep-identity-dp-epsilon.png").is_file()


def test_sweeps_with_other_options_are_told_apart(done, tmp_path):
    steps = "identity_step=0.02|0.04,attribute_step=0.01|0.03"
    texts = [f"fsap:{steps}", f"fsap:{steps},detail=none", f"fsap:{steps},detail=none"]
    swept = choices.sweeps(texts)
    made = {method: as_if(done.methods[1], text_of(method)) for s in swept for method in s.methods}
    results = replace(done, methods=tuple(made.values()), sweeps=swept)
    table = sweeps_table(results)
    assert column(table, "value") == [0.02, 0.04] * 3
    assert column(table, "with")[:3] == [
        "attribute_step=0.01",
        "attribute_step=0.03",
        "attribute_step=0.01,detail=none",
    ]
    figures = pictures.write_plots(tmp_path, results)
    names = [path.stem for _, path in figures if "-quality" not in path.stem]
    assert [name for name in names if name.startswith("sweep")] == [
        "sweep-fsap-identity-step",
        "sweep-fsap-detail=none-identity-step",
        "sweep-fsap-detail=none-identity-step-2",
    ]
    assert "fsap:detail=none by identity_step: ASR, lower of two alignments" in dict(figures)


def test_many_methods_get_several_plots_of_distances(done, tmp_path):
    many = [as_if(done.methods[1], f"noise:sigma={i}") for i in range(1, 7)]
    figures = pictures.write_plots(tmp_path, replace(done, methods=tuple(many), sweeps=()))
    names = {path.name for _, path in figures}
    assert {"distances-dlib.png", "distances-dlib-2.png"} <= names


def test_folders_stay_at_home(done):
    known = as_if(done.methods[1], 'lgc:recognizers=["onnx:/home/alice/net.onnx?size=9"]')
    assert known.views.label == 'lgc:recognizers=["onnx:net.onnx?size=9"]'
    originals = copy.copy(done.originals)
    originals.detector = "/home/alice/yunet.onnx"
    results = replace(done, methods=(known,), sweeps=(), originals=originals)
    text = "\n".join(json.dumps(line) for line in records(results, 0))
    assert "onnx:net.onnx?size=9" in text
    assert '"detector": "yunet.onnx"' in text
    assert "alice" not in text
    assert text_of(parse("tip-im:images=/home/alice/faces/")) == "tip-im:images=faces"


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
    for text in ("blur:sigma=0.1", "blur:sigma=a|b", "blur", "blur:sigma|0.1"):
        with pytest.raises(OptionError, match="--sweep"):
            choices.sweeps([text])


def test_options_that_are_swept_together():
    text = "fsap:identity_step=0.01|0.04,detail=none, attribute_step = 0.02|0.05"
    (sweep,) = choices.sweeps([text])
    assert (sweep.option, sweep.along) == ("identity_step", ("attribute_step",))
    assert sweep.values == (0.01, 0.04)
    assert sweep.methods == (
        parse("fsap:detail=none,identity_step=0.01,attribute_step=0.02"),
        parse("fsap:detail=none,identity_step=0.04,attribute_step=0.05"),
    )
    with pytest.raises(OptionError, match="identity_step has 2, attribute_step has 3"):
        choices.sweeps(["fsap:identity_step=1|2,attribute_step=1|2|3"])


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
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"robustness": ("jpeg-10", "jpeg-9")}, "robustness: jpeg-9 is none of median-5, "),
        ({"attackers": ("all",)}, "attackers: all is none of parrot, "),
        ({"methods": (parse("feature-embedding:album=true"),)}, "leave out album=true"),
    ],
)
def test_settings_that_make_no_sense(change, reason):
    with pytest.raises(OptionError, match=reason):
        Settings(**{**SETTINGS, **change})


def test_recognisers_that_tables_could_not_tell_apart(lfw_made, models, cache):
    settings = Settings(methods=SETTINGS["methods"], recognizers=("dlib", "dlib?threshold=0.5"))
    with pytest.raises(OptionError, match="two recognisers are called dlib"):
        evaluate(load(f"lfw:{lfw_made}"), settings, cache, models=models)
