"""One card per photo with a face in it: crops, difference, distances against thresholds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from facedeid.report.markup import Markup, element, name_of
from facedeid.report.pictures import GAIN

__all__ = ["OUTCOMES", "STATUSES", "is_open", "legend", "photo_card"]

Record = Mapping[str, Any]

STATUSES: Mapping[str, tuple[str, str]] = {
    "protected": ("protected", "good"),
    "released-unprotected": ("released unprotected", "bad"),
    "withheld": ("not released", "warn"),
    "skipped": ("skipped", "warn"),
    "no-face": ("no face, not released", "warn"),
    "none-selected": ("none selected, not released", "warn"),
    "copied": ("no face, released", "warn"),
    "kept": ("all faces kept", "calm"),
    "error": ("error", "bad"),
}
"""Status -> words and kind of badge."""

OUTCOMES: Mapping[str, tuple[str, str]] = {
    "not-matched": ("found, not matched", "good"),
    "not-detected": ("not found any more", "good"),
    "matched": ("still matched", "bad"),
    "unverified": ("not verified", "bad"),
    "kept": ("kept", "calm"),
}
"""Outcome -> words and kind of badge."""


def is_open(photo: Record) -> bool:
    """Whether somebody has to look at it."""
    return bool(photo["status"] != "protected")


def photo_card(photo: Record, previews: Iterable[Mapping[str, str]], *, originals: bool) -> Markup:
    """The card of a photo with all of its faces.

    Args:
        photo: its record.
        previews: from `encode_previews`.
        originals: whether crops before may be shown.
    """
    faces = photo["faces"]
    by_face = {preview["face"]: preview for preview in previews}
    safe = photo["status"] == "protected"
    cards = [
        _face(face, by_face.get(str(face["index"]), {}), originals=originals, safe=safe)
        for face in faces
    ]
    several = " several" if len(faces) > 1 else ""
    return element(
        "section",
        _heading(photo),
        element("div", *cards, class_="faces"),
        class_=f"photo {'open' if is_open(photo) else 'fine'}{several}",
    )


def _heading(photo: Record) -> Markup:
    spent = sum(s for s in photo["seconds"].values() if s is not None)
    facts = f"{photo['width']} × {photo['height']} px · {spent:.2f} s"
    if len(photo["faces"]) > 1:
        facts += f" · {len(photo['faces'])} faces"
    if photo["dropped"]:
        facts += f" · left out: {', '.join(photo['dropped'])}"
    for subject, epsilon in photo.get("charges", {}).items():  # earlier versions had none
        amount = "without limit" if epsilon is None else f"{epsilon:g}"
        facts += f" · spent ε {amount} of {subject}"
    return element(
        "header",
        name_of(photo["photo"]),
        badge(*STATUSES.get(photo["status"], (photo["status"], "bad"))),
        element("span", facts, class_="soft"),
    )


def badge(words: str, kind: str) -> Markup:
    """A pill."""
    return element("span", words, class_=f"badge {kind}")


def _face(face: Record, preview: Mapping[str, str], *, originals: bool, safe: bool) -> Markup:
    return element(
        "article",
        _badges(face),
        None if face["outcome"] == "kept" else _shots(preview, originals, safe),
        _matches(face["matches"]),
        _facts(face),
        class_="face",
    )


def _badges(face: Record) -> Markup:
    badges = [badge(*OUTCOMES.get(face["outcome"], (face["outcome"], "bad")))]
    if face["fallback"]:
        badges.append(badge("by fallback", "warn"))
    if face.get("attempts", 1) > 1:  # earlier versions did not say
        badges.append(badge(f"attempt {face['attempts']}", "warn"))
    if face["disagreement"]:
        badges.append(badge("recognisers disagree", "warn"))
    if face["outcome"] != "kept" and not face["evidence"]:
        badges.append(badge("no independent evidence", "bad"))
    return element("div", element("h3", f"Face {face['index']}"), *badges, class_="badges")


def _shots(preview: Mapping[str, str], originals: bool, safe: bool) -> Markup | None:
    """Without originals nothing that identifies, even if the previews were made with them."""
    if not preview:
        return None
    exact = "before" in preview
    after = preview.get("after") if originals or safe else None
    change = preview.get("difference") if originals or not exact else None
    shots = [_shot("before", preview.get("before"))] if originals else []
    shots.append(_shot("after", after))
    if exact and originals:
        shots.append(_shot(f"difference × {GAIN}", change))
    else:
        shots.append(_shot("amount of change", change, class_="map"))
    return element("div", *shots, class_="shots")


def _shot(caption: str, uri: str | None, class_: str | None = None) -> Markup:
    if uri and uri.startswith("data:image/"):
        picture = element(
            "img", src=uri, alt=caption, class_=class_, loading="lazy", decoding="async"
        )
    else:
        picture = element("div", "not shown: it may identify a person", class_="hidden")
    return element("figure", picture, element("figcaption", caption))


def _matches(matches: Sequence[Record]) -> Markup | None:
    if not matches:
        return None
    by_name: dict[str, dict[str, Record]] = {}
    for match in matches:
        by_name.setdefault(match["recognizer"], {})[match["aligned"]] = match
    heads = (
        element("th", "recogniser"),
        element("th", "distance", class_="bars"),
        element("th", "fresh", class_="number", title="face found afresh in the result"),
        element("th", "original", class_="number", title="aligned by the original's landmarks"),
        element("th", "threshold", class_="number"),
    )
    rows = [row for name, views in by_name.items() for row in _rows(name, views)]
    return element(
        "table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="matches"
    )


def _rows(name: str, views: Mapping[str, Record]) -> Iterator[Markup]:
    """One recogniser's distances, and remarks below: the method knew it, it sees hair only."""
    ordered = [views.get("fresh"), views.get("original")]
    some = next(view for view in ordered if view)
    void = "void" if some["white_box"] else None
    yield element(
        "tr",
        element("th", name, scope="row"),
        element("td", element("span", *map(_bar, ordered), class_="tracks"), class_="bars"),
        *map(_distance, ordered),
        element("td", _number(some["threshold"]), class_="number"),
        class_=void,
    )
    if void:
        against = any(view["matched"] for view in views.values())
        words = "its match counts all the same" if against else "does not count as evidence"
        yield element("tr", element("td", f"↑ white-box: {words}", colspan=5), class_=void)
    for view in views.values():
        control = view.get("control")  # earlier versions had none
        if control is not None and not view["matched"]:
            words = f"as near ({_number(control)}) with the face painted over: no match"
            near = f"↑ {_number(view['distance'])} is {words}"
            yield element("tr", element("td", near, colspan=5), class_="void")


def _bar(match: Record | None) -> Markup | None:
    """Distance on a scale that has the threshold in its middle."""
    if match is None or match["distance"] is None or not match["threshold"]:
        return None
    share = min(max(50 * match["distance"] / match["threshold"], 0), 100)
    kind = "bar match" if match["matched"] else "bar"
    return element("span", element("i", style=f"--d:{share:.1f}%"), class_=kind)


def _distance(match: Record | None) -> Markup:
    if match is None:
        return element("td", "–", class_="number", title="no face was found there")
    words = _number(match["distance"])
    if match["matched"]:
        return element("td", f"✕ {words}", class_="number matched", title="matched")
    return element("td", words, class_="number")


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3f}"


def _facts(face: Record) -> Markup:
    parts: list[object] = []
    if face["method"]:
        parts += [element("code", face["method"]), " · "]
    width, height = (face["box"][i + 2] - face["box"][i] for i in (0, 1))
    parts.append(f"{width:.0f} × {height:.0f} px · found by {face['detector']}")
    parts.append(f" · landmarks from {face['landmarks_from']}")
    if face["facedeid_lpips"] is not None:
        parts.append(f" · changed by {face['facedeid_lpips']:.3f} (facedeid-lpips)")
    parts += [f" · {key}: {_value(value)}" for key, value in face["facts"].items()]
    return element("p", *parts, class_="facts")


def _value(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:119] + "…"


def legend(colours: Sequence[Sequence[int]], *, originals: bool) -> Markup:
    """What bars and difference pictures mean."""
    bar = element(
        "span",
        element("span", element("i", style="--d:72%"), class_="bar"),
        class_="tracks",
        style="display:inline-block;width:70px;vertical-align:middle",
    )
    swatches = [element("i", style=f"background:rgb{tuple(colour)}") for colour in colours]
    heat = element("span", *swatches, class_="heat")
    change: tuple[object, ...] = ("amount of change per cell: none ", heat, " much")
    if originals:
        change = (f"difference: exact |after − before| × {GAIN}, clipped",)
    words = " distance; the mark is the threshold, ending left of it is a match (✕)"
    return element("div", element("span", bar, words), element("span", *change), class_="bar-row")
