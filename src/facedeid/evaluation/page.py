"""The evaluation as one self-contained HTML page, in the style of the report of a run.

No script, nothing loaded from anywhere: figures are embedded.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from facedeid.errors import OptionError, OutputError
from facedeid.evaluation.grids import GAIN, identifies
from facedeid.evaluation.tables import WHITE_BOX, Cell, Estimate, Table, text_of
from facedeid.report import write_whole
from facedeid.report.attention import note
from facedeid.report.markup import Markup, element
from facedeid.report.page import POLICY
from facedeid.report.style import STYLE

__all__ = ["PAGE", "write_page"]

PAGE = "index.html"
KINDS = {".png": "png", ".svg": "svg+xml", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
EVIDENCE = (
    "These figures are measured on the photos and with the recognisers named here. A recogniser "
    "that fails to match a face is evidence, not a proof of anonymity: another recogniser, an "
    "attacker who adapts, or a person who knows the face may still identify somebody. Intervals "
    "are 95 %. Rows in grey are white-box: the method knew that recogniser, so that its not "
    "matching is no evidence."
)
IDENTIFIES = (
    "It shows original faces beside what the methods made of them; differences are amplified "
    f"{GAIN} times around grey and clipped, and show the original's edges. Keep it as safely as "
    "the photos themselves and do not pass it on."
)
EXTRA = Markup("""
nav{display:flex;flex-wrap:wrap;gap:6px;margin:16px 0;font-size:13px}
nav a{padding:3px 10px;border:1px solid var(--line);border-radius:99px;background:var(--card);
color:var(--ink);text-decoration:none}nav a:hover,nav a:focus-visible{border-color:var(--calm)}
section{scroll-margin-top:12px}section:target>h2{text-decoration:underline}
.results td,.results th{overflow-wrap:normal;vertical-align:baseline}
.results td{min-width:4em}.results .number{text-align:right;white-space:nowrap}
.results tbody th{position:sticky;left:0;background:var(--card);min-width:9em}
.results .text{max-width:36em}.results .soft{font-size:12.5px}
.lead{border:2px solid var(--calm);border-radius:10px;padding:4px 16px 14px;margin:20px 0}
.lead h2{margin-top:12px}.lead .results{width:auto}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,560px),1fr));gap:16px}
.plots figure{margin:0;padding:10px;background:var(--card);border:1px solid var(--line);
border-radius:10px;min-width:0}.plots .grid{grid-column:1/-1;overflow-x:auto}
.plots img{display:block;max-width:100%;height:auto;background:#fff;border-radius:6px;margin:auto}
.plots .grid img{max-width:none}.plots figcaption{font-size:13.5px;margin-top:8px}
.settings{width:auto}
""")


def write_page(
    folder: Path,
    title: str,
    facts: Mapping[str, str],
    tables: Sequence[Table],
    figures: Sequence[tuple[str, Path]],
    headline: Table | None,
) -> Path:
    """Write `index.html`, whole or not at all; an existing one is replaced.

    Args:
        folder: made if it is not there.
        title: plain text, as is everything else here.
        facts: how this was measured: data, n, seed, versions, the command.
        tables: each becomes a section, with the anchor `table-` and its name.
        figures: (caption, PNG, SVG, WebP or JPEG file), embedded in the order given, with the
            anchors `figure-1`, … One that `write_grid` made puts a warning on the page that it
            identifies people, and makes the page readable by its owner only.
        headline: shown first; None if there is none.

    Returns:
        Path of the page.

    Raises:
        OptionError: a figure cannot be read or is of another kind; nothing was written.
        OutputError: the page cannot be written.
    """
    shown = [_figure(number, *figure) for number, figure in enumerate(figures, 1)]
    private = any(identifies(path) for _, path in figures)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    chunks = _page(title, facts, tables, shown, headline, private)
    write_whole(folder / PAGE, chunks, private=private)
    return folder / PAGE


def _page(
    title: str,
    facts: Mapping[str, str],
    tables: Sequence[Table],
    figures: Sequence[Markup],
    headline: Table | None,
    private: bool,
) -> Iterator[str]:
    yield '<!doctype html><html lang="en">'
    yield element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width,initial-scale=1"),
        element("meta", name="robots", content="noindex"),
        element("title", title),
        element("style", STYLE, EXTRA),
    )
    yield "<body><main>"
    yield element("header", element("h1", title), class_="top")
    if private:
        yield note("bad", "This page identifies people", IDENTIFIES)
    yield _contents(tables, figures, facts, headline)
    if headline is not None:
        yield _section(headline, anchor="headline", class_="lead")
    yield note("calm", "What these figures show", EVIDENCE)
    for table in tables:
        yield _section(table, anchor=f"table-{table.name}")
    if figures:
        pictures = element("div", *figures, class_="plots")
        yield element("section", element("h2", "Figures"), pictures, id="figures")
    if facts:
        yield _facts(facts)
    yield element("footer", "The same tables for programs are beside this page, as CSV and JSON.")
    yield "</main></body></html>\n"


def _contents(
    tables: Sequence[Table],
    figures: Sequence[Markup],
    facts: Mapping[str, str],
    headline: Table | None,
) -> Markup:
    links = [("headline", headline.title)] if headline is not None else []
    links += [(f"table-{table.name}", table.title) for table in tables]
    links += [("figures", "Figures")] if figures else []
    links += [("facts", "How it was measured")] if facts else []
    return element("nav", *(element("a", words, href=f"#{to}") for to, words in links))


def _section(table: Table, *, anchor: str, class_: str | None = None) -> Markup:
    kinds = ["number" if table.is_number(i) else "text" for i in range(len(table.columns))]
    heads = [
        element("th", head, class_=kind, scope="col")
        for head, kind in zip(table.columns, kinds, strict=True)
    ]
    known = table.columns.index(WHITE_BOX) if WHITE_BOX in table.columns else None
    rows = [
        _row(row, kinds, "void" if known is not None and row[known] is True else None)
        for row in table.rows
    ]
    whole = element(
        "table",
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        class_="results",
    )
    return element(
        "section",
        element("h2", table.title),
        element("p", table.note, class_="soft") if table.note else None,
        element("div", whole, class_="wide", tabindex=0, role="region", aria_label=table.title),
        id=anchor,
        class_=class_,
    )


def _row(row: Sequence[Cell], kinds: Sequence[str], class_: str | None) -> Markup:
    first, *others = row
    cells = [
        element("td", *_shown(cell), class_=kind)
        for cell, kind in zip(others, kinds[1:], strict=True)
    ]
    return element("tr", element("th", *_shown(first), scope="row"), *cells, class_=class_)


def _shown(cell: Cell) -> Iterator[object]:
    """A cell's words, an interval in smaller letters than its value."""
    words = text_of(cell)
    if not isinstance(cell, Estimate):
        yield words
        return
    value, interval = words.split(" ", 1)
    yield value
    yield element("span", f" {interval}", class_="soft", title=f"n = {cell.n:,}")


def _figure(number: int, caption: str, path: Path) -> Markup:
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise OptionError(f"figure {path.name}: embed one of {', '.join(KINDS)}")
    try:
        data = path.read_bytes()
        grid = identifies(path)
    except (OSError, SyntaxError) as error:  # the latter of what is no PNG
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot read the figure {path}: {reason}") from error
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    picture = element("img", src=uri, alt=caption)
    words = element("figcaption", caption)
    return element("figure", picture, words, id=f"figure-{number}", class_="grid" if grid else None)


def _facts(facts: Mapping[str, str]) -> Markup:
    rows = [
        element("tr", element("th", key, scope="row"), element("td", value))
        for key, value in facts.items()
    ]
    table = element("table", element("tbody", *rows), class_="settings")
    wide = element("div", table, class_="wide")
    return element("section", element("h2", "How it was measured"), wide, id="facts")
