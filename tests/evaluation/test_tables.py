import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from facedeid.errors import OptionError, OutputError
from facedeid.evaluation.tables import Estimate, Table, text_of, write_tables

SHARE = Estimate(0.9750000001, 0.968, 0.981, 3000)
WORST = 'a|b<script>`x`*y*\\ [z](u)\n"q", =1'


def table(name="asr", *rows, columns=("method", "ASR", "faces", "white-box", "why")):
    rows = rows or (
        ("blur, σ 0.2", SHARE, 3000, False, None),
        (WORST, None, 12, True, "no face found"),
        ("tip-im", 1 / 3, 3, False, None),
    )
    return Table(name, "Attack success", "LFW, n = 3,000", columns, rows)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (3000, "3,000"),
        (0.0, "0.000"),
        (0.97512, "0.975"),
        (0.00412, "0.0041"),
        (0.00004123, "0.000041"),
        (3e-9, "3.0e-09"),
        (36.123, "36.12"),
        (255.04, "255.0"),
        (12345.6, "12,346"),
        (-0.5, "-0.500"),
        (SHARE, "0.975 (0.968-0.981)"),
        (Estimate(0, 0, 0.0012, 3000), "0.0000 (0.0000-0.0012)"),
        (Estimate(-0.01, -0.02, 0.01, 9), "-0.010 (-0.020 to 0.010)"),
        (Estimate(0, 0, 0, 9), "0.000 (0.000-0.000)"),
    ],
)
def test_digits_are_sensible(cell, words):
    assert text_of(cell) == words


def test_markdown_is_one_line_per_row_and_cells_stay_in_their_cells():
    lines = table().markdown().splitlines()
    assert lines[:4] == ["## Attack success", "", "LFW, n = 3,000", ""]
    head, rules, *rows = lines[4:]
    assert head == "| method | ASR | faces | white-box | why |"
    assert rules == "| --- | ---: | ---: | --- | --- |"
    assert rows[0] == "| blur, σ 0.2 | 0.975 (0.968-0.981) | 3,000 | no |  |"
    assert rows[1].replace("\\|", "").count("|") == 6
    assert "<script>" not in rows[1]
    assert "\\*y\\*" in rows[1]
    assert "no face found" in rows[1]
    assert len(rows) == 3


def test_csv_parses_back_to_the_same_numbers():
    rows = list(csv.DictReader(io.StringIO(table().csv())))
    assert list(rows[0]) == [
        *("method", "ASR", "ASR low", "ASR high", "ASR n", "faces", "white-box", "why"),
    ]
    first, second, third = rows
    assert float(first["ASR"]) == SHARE.value
    assert (float(first["ASR low"]), float(first["ASR high"])) == (SHARE.low, SHARE.high)
    assert (first["ASR n"], first["faces"], first["white-box"]) == ("3000", "3000", "false")
    assert second["method"] == WORST
    assert [second[key] for key in rows[0] if key.startswith("ASR")] == [""] * 4
    assert float(third["ASR"]) == 1 / 3
    assert third["ASR low"] == ""


def test_json_is_the_table():
    made = table()
    assert Table.from_json(made.json()) == made
    assert json.loads(made.json())["rows"][0][1] == {
        "value": SHARE.value,
        "low": 0.968,
        "high": 0.981,
        "n": 3000,
    }


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"name": 1}', table().json().replace('"low"', '"bottom"')],
)
def test_other_json_is_refused(text):
    with pytest.raises(OptionError):
        Table.from_json(text)


def test_numpy_becomes_plain_and_what_is_not_finite_becomes_text():
    cells = (np.float32(0.5), np.int64(3), np.bool_(True), math.inf, np.float64("nan"))
    (row,) = table("t", cells).rows
    assert row == (0.5, 3, True, "infinite", "undefined")
    assert [type(cell) for cell in row] == [float, int, bool, str, str]


@pytest.mark.parametrize(
    "numbers", [(math.nan, 0, 1, 5), (0.5, 0.6, 0.4, 5), (0.5, 0.4, math.inf, 5), (0.5, 0, 1, 0)]
)
def test_an_estimate_is_never_a_sentinel(numbers):
    with pytest.raises(OptionError, match="no estimate"):
        Estimate(*numbers)


@pytest.mark.parametrize(
    "arguments",
    [
        ("../x", "t", "", ("a",), ()),
        (".x", "t", "", ("a",), ()),
        ("x", "t", "", ("a", "a"), ()),
        ("x", "t", "", ("a", "b"), ((1,),)),
        ("x", "t", "", ("a",), (([1, 2],),)),
    ],
    ids=["folder", "hidden", "heads", "short", "list"],
)
def test_tables_that_cannot_be_written_are_refused(arguments):
    with pytest.raises(OptionError):
        Table(*arguments)


def test_files_are_written_and_replaced(tmp_path):
    folder = tmp_path / "new" / "tables"
    made = [table("asr"), table("spr")]
    write_tables(folder, [table("asr", ("old", 1, 2, False, None))])
    paths = write_tables(folder, made)
    assert [path.name for path in paths] == [
        f"{name}.{ending}" for name in ("asr", "spr") for ending in ("md", "csv", "json")
    ]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert [Table.from_json(p.read_text("utf-8")) for p in paths if p.suffix == ".json"] == made
    assert (folder / "asr.csv").read_text("utf-8") == made[0].csv()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_tables(tmp_path, [table("asr")])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_tables(tmp_path, [table("asr", ("new", 1, 2, False, None))])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_tables_of_one_name_write_nothing(tmp_path):
    with pytest.raises(OptionError, match="share a name"):
        write_tables(tmp_path, [table("ASR"), table("asr")])
    assert not list(tmp_path.iterdir())
