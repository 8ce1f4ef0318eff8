import base64
import dataclasses
import io
import json
import math
import resource
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from facedeid import report
from facedeid.errors import OptionError, OutputError
from facedeid.methods import create
from facedeid.methods.classical import Pixelate
from facedeid.models import Models
from facedeid.pipeline import FaceReport, PhotoReport, Previews, Settings, Status
from facedeid.report.cards import STATUSES
from facedeid.report.pictures import COLOURS
from facedeid.verification import Match, Verdict

HOSTILE = 'a/<script>alert(1)</script>"\u202e&amp;\udcff.jpg'


def match(recognizer="dlib", distance=0.8, *, aligned="fresh", threshold=0.6, white_box=False):
    return Match(
        recognizer=recognizer,
        aligned=aligned,
        distance=distance,
        threshold=threshold,
        matched=distance < threshold,
        white_box=white_box,
    )


def face(*matches, index=0, detected=True, facts=None, fallback=False, attempts=1):
    verdict = Verdict(detected=detected, matches=matches)
    return FaceReport(
        index=index,
        box=(10.0, 20.0, 110.0, 140.0),
        detector="hog",
        landmarks_from="dlib",
        method="Pixelate(cells=5)",
        fallback=fallback,
        attempts=attempts,
        outcome=verdict.outcome,
        verdict=verdict,
        facts=facts or {},
    )


def kept(index):
    return FaceReport(
        index=index,
        box=(0.0, 0.0, 50.0, 50.0),
        detector="hog",
        landmarks_from="box",
        method=None,
        fallback=False,
        outcome="kept",
        verdict=None,
        facts={},
    )


def photo(*faces, status="protected", message="1 of 1 faces protected"):
    return PhotoReport(
        status=status,
        message=message,
        width=400,
        height=300,
        faces=faces,
        dropped=("EXIF thumbnail",),
        seconds={"detect": 0.5, "verify": 0.25},
    )


def line(name="a.jpg", *faces, released=True, **options):
    faces = faces or (face(match()),)
    return report.record(name, photo(*faces, **options), output=Path(name) if released else None)


@pytest.fixture(scope="module")
def run():
    settings = Settings(method=Pixelate(), keep=("0", "/home/jane/photos/mum.jpg"))
    return report.run_record(settings, Models().recognizers(["dlib"]))


@pytest.fixture(scope="module")
def previews():
    before = data.astronaut()[20:180, 145:305].copy()
    after = before.copy()
    small = before.reshape(10, 16, 10, 16, 3).mean((1, 3)).astype(np.uint8)
    after[16:144, 16:144] = small.repeat(16, 0).repeat(16, 1)[16:144, 16:144]
    return Previews(before, after)


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def page(tmp_path, records, shown=MappingProxyType({}), *, originals=False):
    path = tmp_path / "report.html"
    report.write_html(path, records, shown, originals=originals)
    return path.read_text("utf-8")


class Elements(HTMLParser):
    """Checks nesting and collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.values, self.words = [], set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.values += attrs
        if tag not in ("img", "input", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


# records


def test_photo_line_follows_the_schema():
    made = line("a/b.jpg", face(match(), match("arc", 0.3, white_box=True), index=0), kept(1))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert {"schema", "type", "photo", "status", "message", "released", "sha256"} | {
        "width",
        "height",
        "dropped",
        "seconds",
        "charges",
        "unused",
        "faces",
    } == made.keys()
    assert (made["schema"], made["type"], made["photo"]) == (report.SCHEMA, "photo", "a/b.jpg")
    first, second = made["faces"]
    assert first["evidence"] == ["dlib"]
    assert first["disagreement"] is True
    assert first["outcome"] == "matched"
    assert first["matches"][1] == {
        "recognizer": "arc",
        "aligned": "fresh",
        "distance": 0.3,
        "threshold": 0.6,
        "matched": True,
        "white_box": True,
        "control": None,
    }
    assert (second["method"], second["matches"], second["evidence"]) == (None, [], [])


def test_output_is_not_a_map_from_source_to_result():
    made = report.record("anna.jpg", photo(), output=Path("p-0001.jpg"))
    assert made["released"] is True
    assert made["sha256"] is None  # no such file
    assert "p-0001" not in json.dumps(made)
    assert line(released=False)["released"] is False


def test_numbers_that_are_not_finite_are_null_and_no_evidence():
    made = line("a.jpg", face(match(distance=math.nan), facts={"loss": math.inf, "n": np.int64(3)}))
    assert made["faces"][0]["matches"][0]["distance"] is None
    assert made["faces"][0]["evidence"] == []
    assert made["faces"][0]["facts"] == {"loss": None, "n": 3}
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize(
    "vector",
    [torch.linspace(0.1, 0.9, 128), np.full((8, 16), 0.5), [0.25] * 512, [[0.5] * 9] * 9],
    ids=["tensor", "array", "list", "nested"],
)
def test_no_embedding_gets_in_through_facts(vector):
    made = line("a.jpg", face(match(), facts={"code": vector, "colour": [1, 2, 3]}))
    assert made["faces"][0]["facts"]["code"].endswith("numbers left out")
    assert made["faces"][0]["facts"]["colour"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("/home/jane/my photos/a/b.jpg: truncated", "a/b.jpg: truncated"),
        ("cannot read '/home/jane/a/b.jpg'", "cannot read 'a/b.jpg'"),
        ("weights /opt/secret/net.pt missing", "weights net.pt missing"),
        (r"C:\Users\jane\net.pt missing", "net.pt missing"),
        ("error:/home/jane/x.jpg", "error:x.jpg"),
        ("2 and/or 3, 1/2 s, a/b.jpg", "2 and/or 3, 1/2 s, a/b.jpg"),
        ("see https://example.org/a/b </b>", "see https://example.org/a/b </b>"),
        ("file:///home/jane/x.jpg", "file://x.jpg"),
        ("party (2)/who?/b.jpg: truncated", "party (2)/who?/b.jpg: truncated"),
        ("(/home/jane/party(2)/x.jpg)", "(x.jpg)"),
        ("cannot make the folder /home/jane doe/my out/c: full", "cannot make the folder c: full"),
        ("the ledger /home/jane doe/b.sqlite cannot be used", "the ledger b.sqlite cannot be used"),
        ("/srv/x.jpg and /srv/y.jpg; see docs/limits.md", "x.jpg and y.jpg; see docs/limits.md"),
        (r"C:\Users\Jane Doe\net.pt missing", "net.pt missing"),
    ],
)
def test_messages_hold_no_absolute_paths(message, expected):
    assert line("a/b.jpg", status="error", message=message)["message"] == expected


@pytest.mark.parametrize("folder", ["party (2)", "St.", "who?!", "a,", "b =", "c[", "d:", "e "])
def test_folders_below_the_input_stay_whole(folder):
    name = f"{folder}/b.jpg"
    for message in (f"{name}: truncated", f"/home/jane/album/{name}: truncated"):
        assert line(name, status="error", message=message)["message"] == f"{name}: truncated"


def test_run_line(run):
    assert json.loads(json.dumps(run, allow_nan=False)) == run
    assert run["method"]["name"] == "pixelate"
    assert run["method"]["options"] == json.loads(json.dumps(Pixelate().options()))
    assert run["settings"]["keep"] == ["0", "mum.jpg"]
    assert "method" not in run["settings"]
    assert run["recognizers"][0]["threshold"] == 0.6
    assert run["recognizers"][0]["thresholds"]["library"] == 0.6
    assert run["recognizers"][0]["protocol"]
    assert "/home" not in json.dumps(run)


def test_settings_hold_no_folders_with_spaces():
    method = create("tip-im", recognizers=("onnx:/home/jane doe/my nets/net.onnx?threshold=1",))
    keep = ("/home/jane doe/my photos/mum.jpg",)
    made = report.run_record(Settings(method=method, keep=keep), [])
    assert made["settings"]["keep"] == ["mum.jpg"]
    assert "onnx:net.onnx" in made["method"]["repr"]
    assert "jane" not in json.dumps(made)
    assert "my nets" not in json.dumps(made)


def test_summary_counts_the_last_word_on_every_photo(run):
    failed = line("a.jpg", face(match(distance=0.2)), status="withheld", released=False)
    other = line("b.jpg", face(match(), fallback=True), kept(1))
    summary = report.summary_record([run, failed, other, run, line("a.jpg")])
    assert summary["photos"] == summary["released"] == 2
    assert summary["status"] == {"protected": 2}
    assert summary["outcomes"] == {"kept": 1, "not-matched": 2}
    assert (summary["faces"], summary["fallbacks"], summary["disagreements"]) == (3, 1, 0)
    assert summary["seconds"] == {"detect": 1.0, "verify": 0.5}


# the file


def test_every_torn_end_is_survived(tmp_path, run):
    path = tmp_path / "r.jsonl"
    lines = [run, line(HOSTILE), line("b.jpg")]
    with report.Writer(path) as writer:
        for entry in lines:
            writer.append(entry)
    assert report.read_records(path) == lines
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        rest = sum(end <= cut for end in ends)
        assert report.read_records(path) == lines[:rest]
        with report.Writer(path) as writer:
            assert path.read_bytes() == whole[: max((e for e in ends if e <= cut), default=0)]
            writer.append(lines[2])
        assert report.read_records(path) == [*lines[:rest], lines[2]]


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_two_do_not_write_over_each_other(tmp_path):
    path = tmp_path / "r.jsonl"
    with report.Writer(path) as writer:
        writer.append(line("a.jpg"))
        with pytest.raises(OutputError, match="another run is writing"):
            report.Writer(path)
        writer.append(line("b.jpg"))
    with report.Writer(path) as writer:
        writer.append(line("c.jpg"))
    assert [r["photo"] for r in report.read_records(path)] == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("content", [b"my notes", b'{"a": 1}', b'{"a": 1}\n', b"x\ny\n", b"\0\0"])
def test_other_files_are_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="another file"):
        report.read_records(path)
    with pytest.raises(OptionError, match="another file"):
        report.Writer(path)
    assert path.read_bytes() == content


def test_a_line_torn_by_an_earlier_kill_counts_as_never_written(tmp_path):
    path = tmp_path / "r.jsonl"
    good = json.dumps(line()).encode() + b"\n"
    path.write_bytes(good + good[:40] + b"\n\n" + good)
    assert report.read_records(path) == [line(), line()]


def test_a_whole_report_gets_its_summary(tmp_path, run):
    path = tmp_path / "r.jsonl"
    report.write_jsonl(path, [run, line()], interrupted=True)
    *rest, summary = report.read_records(path)
    assert rest == [run, line()]
    assert (summary["type"], summary["photos"], summary["interrupted"]) == ("summary", 1, True)
    report.write_jsonl(path, [*rest, summary])
    assert report.read_records(path) == [*rest, summary]
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_jsonl(path, [run, {"x": math.nan}, summary])
    assert report.read_records(path) == [*rest, summary]
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_full_disk_leaves_whole_lines_only(tmp_path):
    path = tmp_path / "r.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with report.Writer(path) as writer:
        writer.append(line("a.jpg"))
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
        try:
            with pytest.raises(OutputError, match="cannot write the report"):
                writer.append(line("b.jpg"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_bytes() == before
        writer.append(line("c.jpg"))
    assert [r["photo"] for r in report.read_records(path)] == ["a.jpg", "c.jpg"]


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        report.Writer(tmp_path / "none" / "r.jsonl")
    with pytest.raises(OptionError, match="cannot read"):
        report.read_records(tmp_path / "none.jsonl")


# pictures


def test_exact_difference_is_ten_times_the_change_clipped(previews):
    change = report.difference(previews.before, previews.after, exact=True)
    expected = np.abs(previews.before.astype(int) - previews.after.astype(int)) * 10
    np.testing.assert_array_equal(change, expected.clip(0, 255))


def test_coarse_difference_carries_no_fine_detail(previews):
    before, after = previews.before, previews.after
    coarse = report.difference(before, after, exact=False)
    assert coarse.shape == (10, 10, 3)
    assert {tuple(c) for c in coarse.reshape(-1, 3).tolist()} <= set(COLOURS)
    # whatever the arrangement of the pixels inside the cells, the map is the same
    order = np.random.default_rng(0).permutation(256)

    def shuffled(image):
        cells = image.reshape(10, 16, 10, 16, 3).transpose(0, 2, 1, 3, 4).reshape(10, 10, 256, 3)
        back = cells[:, :, order].reshape(10, 10, 16, 16, 3).transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(back.reshape(160, 160, 3))

    assert (shuffled(before) != before).any()
    same = report.difference(shuffled(before), shuffled(after), exact=False)
    np.testing.assert_array_equal(same, coarse)


def test_coarse_difference_follows_the_amount_of_change():
    before = np.full((40, 35, 3), 100, np.uint8)
    after = before.copy()
    after[:16, :16] += 200 - 100
    after[32:, 32:] += 5
    coarse = report.difference(before, after, exact=False)
    assert coarse.shape == (3, 3, 3)
    assert tuple(coarse[0, 0]) == COLOURS[-1]
    assert tuple(coarse[2, 2]) == COLOURS[2]
    assert tuple(coarse[1, 1]) == COLOURS[0]


def test_difference_refuses_what_does_not_fit():
    with pytest.raises(OptionError, match="two H×W×3"):
        report.difference(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8), exact=True)


def test_previews_without_originals_do_not_identify(previews):
    shown = report.encode_previews(
        photo(kept(0), face(match(), index=1)), [previews], originals=False
    )
    assert json.loads(json.dumps(shown)) == shown
    assert [entry["face"] for entry in shown] == ["1"]
    assert shown[0].keys() == {"face", "after", "difference"}
    assert decoded(shown[0]["difference"]).shape == (10, 10, 3)
    after = decoded(shown[0]["after"]).astype(float)
    assert np.abs(after - previews.after).mean() < 4 < np.abs(after - previews.before).mean()
    assert sum(map(len, shown[0].values())) < 12_000


@pytest.mark.parametrize("status", ["withheld", "skipped", "released-unprotected"])
def test_crops_of_unprotected_photos_are_originals(previews, status):
    still = photo(face(match(distance=0.2)), status=status)
    hidden = report.encode_previews(still, [previews], originals=False)
    assert hidden[0].keys() == {"face", "difference"}
    shown = report.encode_previews(still, [previews], originals=True)
    assert shown[0].keys() == {"face", "difference", "before", "after"}
    assert decoded(shown[0]["difference"]).shape == (160, 160, 3)


def test_previews_must_belong_to_the_report(previews):
    with pytest.raises(ValueError, match="shorter"):
        report.encode_previews(
            photo(face(match()), face(match(), index=1)), [previews], originals=False
        )


# the page


def test_page_is_well_formed_and_self_contained(tmp_path, run, previews):
    still = photo(face(match(distance=0.2), match("arc", white_box=True)), status="withheld")
    shown = report.encode_previews(photo(face(match())), [previews], originals=False)
    records = [run, line(), report.record(HOSTILE, still, output=None)]
    text = page(tmp_path, records, {"a.jpg": shown})
    elements = Elements(text)
    assert elements.tags.isdisjoint({"script", "link", "iframe", "object", "a", "base"})
    assert all(v.startswith("data:image/") for k, v in elements.values if k in ("src", "href"))
    assert "url(" not in text
    assert "@import" not in text
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("content", policy) in elements.values
    assert shown[0]["after"] in text


def test_file_names_are_text(tmp_path, run):
    text = page(tmp_path, [run, line(HOSTILE, status="error", message=f"{HOSTILE}: <b>broken</b>")])
    elements = Elements(text)
    assert "script" not in elements.tags
    words = "".join(elements.words)
    assert 'a/<script>alert(1)</script>"\ufffd&amp;\ufffd.jpg' in words
    assert "<b>broken</b>" in words
    assert "\u202e" not in text


def test_what_needs_attention_comes_first_and_says_what_to_do(tmp_path, run):
    records = [
        run,
        line("fine.jpg"),
        line("empty.png", kept(0), status="no-face", released=False),
        line("held.jpg", face(match(distance=0.1)), status="withheld", released=False),
        line("open.jpg", face(match(distance=0.1)), status="released-unprotected"),
        line("bad.jpg", status="error", released=False),
        line("copy.jpg", kept(0), status="copied"),
    ]
    text = page(tmp_path, [*records, report.summary_record(records)])
    titles = (
        "Released although not protected",
        "Could not be processed",
        "Not released: a face is still recognisable",
        "Released although no face was found",
        "No face found, not released",
        "measured evidence, not a proof of anonymity",
        ">Faces<",
    )
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    for advice in ("--on-unprotected", "--on-no-face", "--plan", "--resume"):
        assert advice in text[: places[-1]]
    assert "All 1 photo" not in text
    assert "did not finish" not in text


def test_photos_that_nothing_was_done_to_are_no_failures(tmp_path, run):
    records = [
        run,
        line("kept.jpg", kept(0), status="kept", message="every face is to be kept"),
        line("other.jpg", kept(0), status="none-selected", released=False),
        line("old.jpg") | {"earlier": True},
    ]
    text = page(tmp_path, records)
    assert "badge bad" not in text
    assert "tile bad" not in text
    assert "note bad" not in text
    assert "Faces kept: 1 photo" in text
    assert "Not released: no face of those asked for: 1 photo" in text
    assert "Results of an earlier run: 1 photo" in text


def test_every_status_has_words():
    assert set(get_args(Status)) == set(STATUSES)


def test_unfinished_and_perfect_runs_say_so(tmp_path, run):
    stopped = report.summary_record([line()], interrupted=True)
    text = page(tmp_path, [run, line(), stopped])
    assert "This run did not finish" in text
    assert "All 1 photo" not in text
    report.write_html(tmp_path / "r.html", [run], {}, originals=False, interrupted=True)
    assert "This run did not finish" in (tmp_path / "r.html").read_text("utf-8")
    records = [run, line("a.jpg"), line("b.jpg")]
    text = page(tmp_path, [*records, report.summary_record(records)])
    assert "All 2 photos protected" in text
    assert "did not finish" not in text


def test_cards_show_distances_and_what_counts(tmp_path, run):
    matches = (match(distance=0.9), match("arc", 0.25, white_box=True), match("nan", math.nan))
    text = page(
        tmp_path, [run, line("a.jpg", face(*matches, fallback=True, attempts=3), status="withheld")]
    )
    assert "--d:75.0%" in text
    assert "0.900" in text
    assert "✕ 0.250" in text
    assert "no value" in text
    assert "recognisers disagree" in text
    assert "by fallback" in text
    assert "attempt 3" in text
    assert "its match counts all the same" in text
    independent = page(tmp_path, [run, line("a.jpg", face(match("arc", white_box=True)))])
    assert "does not count as evidence" in independent
    assert "no independent evidence" in independent


def test_originals_only_on_request_and_with_a_warning(tmp_path, run, previews):
    still = photo(face(match(distance=0.2)), status="withheld")
    shown = report.encode_previews(still, [previews], originals=True)
    records = [run, report.record("a.jpg", still, output=None)]
    text = page(tmp_path, records, {"a.jpg": shown}, originals=True)
    assert "This page identifies people" in text
    assert all(shown[0][key] in text for key in ("before", "after", "difference"))
    assert "exact |after − before|" in text
    assert (tmp_path / "report.html").stat().st_mode & 0o077 == 0
    # previews kept from a run with originals do not get into a page without
    text = page(tmp_path, records, {"a.jpg": shown})
    assert "identifies people" not in text
    assert "data:image" not in text.replace("img-src data:", "")
    assert "not shown: it may identify a person" in text


def test_page_without_faces_or_records(tmp_path, run):
    Elements(page(tmp_path, []))
    Elements(page(tmp_path, [run, report.record("a.png", photo(status="no-face"), output=None)]))


def test_a_failed_page_leaves_the_old_one(tmp_path, run):
    old = page(tmp_path, [run, line()])

    class Broken(dict):
        def get(self, key, default=None):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        page(tmp_path, [run, line()], Broken())
    assert (tmp_path / "report.html").read_text("utf-8") == old
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_card_stays_small(tmp_path, run, previews):
    shown = report.encode_previews(photo(face(match())), [previews], originals=False)
    names = [f"{i}.jpg" for i in range(300)]
    text = page(tmp_path, [run, *map(line, names)], dict.fromkeys(names, shown))
    pictures = 300 * sum(len(v) for v in shown[0].values())
    assert len(text) - pictures < 300 * 2_500 + 30_000
    assert text.count('loading="lazy"') == 600


# the documentation


def test_documented_examples_have_the_fields_of_the_records(run):
    text = (Path(__file__).parents[1] / "docs" / "report.md").read_text("utf-8")
    examples = [json.loads(part.split("```")[0]) for part in text.split("```json")[1:]]
    made = [run, line(), report.summary_record([line()])]
    assert [e["type"] for e in examples] == ["run", "photo", "summary"]
    for example, real in zip(examples, made, strict=True):
        assert example["schema"] == report.SCHEMA
        assert list(example) == list(real)
    assert list(examples[0]["method"]) == list(run["method"])
    assert examples[0]["settings"].keys() <= run["settings"].keys()
    assert examples[0]["recognizers"][0].keys() == run["recognizers"][0].keys()
    (shown,), (real,) = examples[1]["faces"], made[1]["faces"]
    assert list(shown) == list(real)
    assert list(shown["matches"][0]) == list(real["matches"][0])


def test_a_page_explains_a_distance_below_the_threshold_that_is_no_match(tmp_path, run):
    near = dataclasses.replace(match(distance=0.46, aligned="original"), matched=False)
    assert "painted over" not in page(tmp_path, [run, line("a.jpg", face(near))])
    judged = dataclasses.replace(near, control=0.455)
    text = page(tmp_path, [run, line("a.jpg", face(judged))])
    assert "0.460 is as near (0.455) with the face painted over: no match" in text
    matched = dataclasses.replace(judged, matched=True)
    assert "painted over" not in page(tmp_path, [run, line("a.jpg", face(matched))])


@pytest.mark.parametrize("values", [np.uint16, np.int32, np.float32])
def test_a_contact_sheet_shows_deep_photos_as_they_look(tmp_path, values):
    grey = np.full((40, 60), 0.5, np.float32)
    grey[:20] = 0.1
    levels = {np.uint16: 65535, np.int32: 65535, np.float32: 1}[values]
    Image.fromarray((grey * levels).astype(values)).save(tmp_path / "deep.tif")
    report.contact_sheet([tmp_path / "deep.tif"], tmp_path / "sheet.jpg", height=40)
    sheet = np.asarray(Image.open(tmp_path / "sheet.jpg"))
    assert np.abs(sheet[5:15, 5:-5].astype(int) - 26).max() < 8
    assert np.abs(sheet[25:35, 5:-5].astype(int) - 128).max() < 8
