"""One photo from end to end: detect, align, method, paste back, write, verify. Fails closed.

The judge is the picture as written: it is read again, faces are searched afresh, and recognisers
compare each one with the original. A photo with a face that is still matched is not released
unless the caller asked for that in so many words.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facedeid import imaging
from facedeid.defaults import METHOD
from facedeid.errors import NoFaceError, OptionError, OutputError, UnprotectedError
from facedeid.faces import Face, Pasted, align, detect, frame, native_size, paste
from facedeid.faces.detection import SMALLEST, finder
from facedeid.imaging import Photo
from facedeid.methods import Method, parse
from facedeid.methods.classical import Blur, Mask
from facedeid.models import Models, Recognizer
from facedeid.random import stream
from facedeid.selection import Selection
from facedeid.spending import charge
from facedeid.verification import Verdict, find_again, perceptual_change, verify_face

__all__ = [
    "UNPROTECTED",
    "FaceReport",
    "PhotoReport",
    "Previews",
    "Protected",
    "Settings",
    "looks_of",
    "protect",
    "protect_file",
    "protect_photo",
]

BATCH = 8
"""Faces that go through a method together; bounds memory (1024 px crops: 0.1 GB)."""
PREVIEW = 160
"""Side of the crops for the report in pixels."""
UNPROTECTED = "RELEASED UNPROTECTED"
"""How the message of such a photo begins."""
PAGES = (255, 0)
"""Greys of the pages on which translucent photos are looked at."""
FALLBACKS: tuple[Method, ...] = (Blur(sigma=0.35), Mask())
"""What `on_unprotected="blur"` tries in turn."""

OnUnprotected = Literal["fail", "blur", "skip", "release"]
OnNoFace = Literal["copy", "skip", "fail"]
Status = Literal[
    "protected",
    "released-unprotected",
    "withheld",
    "skipped",
    "no-face",
    "none-selected",
    "kept",
    "copied",
    "error",
]
Outcome = Literal["not-detected", "not-matched", "matched", "unverified", "kept"]
Stage = Callable[[Photo], AbstractContextManager[Photo]]
"""Writes a candidate, gives it back as read again, and commits when the block ends well."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run needs to know besides the photos; plain values, so it travels to workers.

    `require` names the operating point that counts as a match (`library`, `best`, `far=1e-3`).
    `detector` is "hog", "cnn" or the path of a YuNet file; `min_face` the side of the smallest face
    looked for, in pixels (10 or more); `recognizers` who verifies (None: dlib and facedeid-mobile).
    `on_unprotected` says what becomes of a photo in which a face is still recognised (`fail`: it is
    withheld; `blur` that face; `skip` the photo, without an error; `release` it all the same),
    `on_no_face` of one in which none was found (`copy`, `skip`, `fail`), `metadata` what is kept
    (`strip`, `keep-safe`, `keep`); `first_frame` takes the first picture of animations and
    multi-page files, which are refused otherwise.
    `keep` and `only` take face numbers, regions `left,top,right,bottom`, or paths of reference
    photos of a person. `seed` makes random methods repeatable; without it they draw from the
    operating system. `device` is "cpu" or "cuda". `subject` says on whose privacy budget a release
    is charged, `ledger` in which file (methods with an epsilon; see `facedeid.spending`).
    """

    method: Method = field(default_factory=lambda: parse(METHOD))
    detector: str = "hog"
    min_face: int = 24
    recognizers: tuple[str, ...] | None = None
    require: str = "library"
    on_unprotected: OnUnprotected = "fail"
    on_no_face: OnNoFace = "skip"
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    seed: int | None = None
    metadata: imaging.Mode = "strip"
    first_frame: bool = False
    device: str = "cpu"
    subject: str | None = None
    ledger: str | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("on_unprotected", self.on_unprotected, ("fail", "blur", "skip", "release")),
            ("on_no_face", self.on_no_face, ("copy", "skip", "fail")),
            ("metadata", self.metadata, ("strip", "keep-safe", "keep")),
        ):
            if value not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if not isinstance(self.method, Method):
            raise OptionError(f"method must be a name or a Method, got {self.method!r}")
        for name, text in (("detector", self.detector), ("require", self.require)):
            if not isinstance(text, str):
                raise OptionError(f"{name} must be a text, got {text!r}")
        for name, words in (("keep", self.keep), ("only", self.only)):
            if not (isinstance(words, tuple) and all(isinstance(word, str) for word in words)):
                raise OptionError(f"{name} must be a tuple of texts, got {words!r}")
        names = self.recognizers
        if names is not None and not (isinstance(names, tuple) and names):
            raise OptionError(f"recognizers must be a tuple with a name or more, got {names!r}")
        if self.keep and self.only:
            raise OptionError("keep and only exclude each other: give one of them")
        if self.seed is not None and not self.method.seedable:
            raise OptionError(
                f"{self.method.name} takes no seed: noise that can be repeated is not private "
                "(for tests there is the option seeded=true)"
            )
        subject = self.subject
        if subject is not None and not (isinstance(subject, str) and subject not in ("", "*")):
            raise OptionError("subject must be a name, folder or cluster")
        finder(self.detector)
        if not (isinstance(self.min_face, int) and self.min_face >= SMALLEST):
            raise OptionError(
                f"min_face must be a whole number, {SMALLEST} pixels or more, got {self.min_face}"
            )

    def selection(self, recognizers: Sequence[Recognizer]) -> Selection:
        """What `keep` and `only` mean; see `Selection.of`."""
        return Selection.of(
            self.keep,
            self.only,
            recognizers,
            detector=self.detector,
            first_frame=self.first_frame,
        )

    @classmethod
    def of(cls, method: "str | Method", options: Mapping[str, Any]) -> "Settings":
        """Settings from the arguments of `protect` and `protect_folder`.

        Raises:
            OptionError: an option does not exist or makes no sense.
        """
        unknown = options.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise OptionError(f"there is no option {', '.join(sorted(unknown))}")
        return cls(method=parse(method) if isinstance(method, str) else method, **options)


@dataclass(frozen=True, kw_only=True)
class FaceReport:
    """What happened to one face."""

    index: int
    box: tuple[float, float, float, float]
    detector: str
    landmarks_from: str
    method: str | None
    """None: the face was kept as it is."""
    fallback: bool
    outcome: Outcome
    verdict: Verdict | None
    facts: Mapping[str, Any]
    attempts: int = 1
    """Candidates that were verified until this one, which is the last: passing after several is
    weaker evidence than passing at once, because the recognisers that judge also chose."""
    perceptual: float | None = None
    """Distance of the aligned face to what is now in its place, by facedeid-lpips (not LPIPS)."""


@dataclass(frozen=True, kw_only=True)
class PhotoReport:
    """What happened to one photo."""

    status: Status
    message: str
    width: int
    height: int
    faces: tuple[FaceReport, ...] = ()
    dropped: tuple[str, ...] = ()
    """Parts of the file that were not carried over: further frames, thumbnails, depth maps."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    charges: Mapping[str, float] = field(default_factory=dict)
    """Subject -> ε that was spent, whether or not the photo was released in the end."""
    unused: tuple[str, ...] = ()
    """What to say of numbers and regions in `keep` and `only` that name none of the faces."""
    warnings: tuple[str, ...] = ()
    """What to know of the method (what a privacy budget covers, and what not). A run's report has
    them once, for all of its photos."""


@dataclass(frozen=True)
class Previews:
    """Aligned crops of one face for the report, PREVIEW² RGB uint8."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


@dataclass(frozen=True)
class Protected:
    """A photo after protection; `photo` is None where it must not be released."""

    photo: Photo | None
    report: PhotoReport
    previews: tuple[Previews, ...] = ()

    @property
    def image(self) -> NDArray[Any]:
        """The released picture as an array, of the input's type and channels.

        Raises:
            UnprotectedError: it was not released.
        """
        if self.photo is None:
            raise UnprotectedError(self.report.message)
        return self.photo.to_array()


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = round(self.seconds.get(stage, 0) + spent, 4)


@dataclass
class _Item:
    """One face on its way through the pipeline."""

    index: int
    face: Face
    method: Method
    embeddings: list[list[Tensor] | None]
    """Of the original, per look (`looks_of`) and recogniser; None where no face is seen."""
    pasted: Pasted | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    fallback: bool = False
    attempts: int = 1
    verdict: Verdict | None = None
    perceptual: float | None = None


class _Still(Exception):
    """A candidate was verified and some faces are still matched: it must not be committed."""


def protect_photo(
    photo: Photo,
    settings: Settings,
    models: Models,
    *,
    key: Sequence[str | int] = (),
    faces: Sequence[Face] | None = None,
    protect: Sequence[bool] | None = None,
    stage: Stage = nullcontext,
    clock: _Clock | None = None,
    folder: str | None = None,
    charged: dict[str, float] | None = None,
) -> Protected:
    """De-identify one photo and verify the result.

    Args:
        photo: what to protect.
        settings: how.
        models: where networks come from.
        key: names the photo in the random streams (say, its relative path).
        faces: the faces, from the caller's own detector; None: detect them.
        protect: per face, whether it is to be protected; None: what the settings select.
        stage: how a candidate is written and read again; by default it stays in memory.
        clock: goes on counting there.
        folder: name of the photo's folder, on whose budget it may be charged.
        charged: gets what is charged to whom, for callers who want to know it after an error too.

    Returns:
        The photo where it may be released, and the report in any case. `fail` and `skip` differ
        in the report only; raising is up to the caller (see `protect`).

    Raises:
        OptionError: a face that was given lies outside the photo.
        PrivacyError: a budget is spent; nothing was written.
    """
    clock = clock or _Clock()
    for face in faces or ():
        _check_place(photo, face)
    with clock("detect"):
        found = (
            list(faces)
            if faces is not None
            else detect(photo.rgb8, detector=settings.detector, min_face=settings.min_face)
        )
    recognizers = models.recognizers(settings.recognizers)
    for recognizer in recognizers:
        recognizer.threshold(settings.require)  # before anything is charged
    settings.method.ready(models)
    selection = settings.selection(recognizers)
    unused: tuple[str, ...] = ()
    if protect is None:
        protect, unused = selection.choose(photo.rgb8, found), selection.unused(found)
    items = [
        _Item(i, face, settings.method, [])
        for i, (face, yes) in enumerate(zip(found, protect, strict=True))
        if yes
    ]
    if not items:
        return _without_faces(photo, found, settings, stage, clock, unused)
    with clock("verify"):
        places = [item.face.landmarks for item in items]
        for look, rgb in enumerate(looks_of(photo, photo.translucent)):
            vectors = [recognizer.embed_photo(rgb, places) for recognizer in recognizers]
            for n, item in enumerate(items):
                seen = not look or find_again(rgb, item.face, settings.detector) is not None
                item.embeddings.append([each[n] for each in vectors] if seen else None)
    charges = {} if charged is None else charged
    if settings.method.cost is not None:
        charges |= charge(
            settings.method.cost,
            photo.rgb8,
            [item.face for item in items],
            models,
            subject=settings.subject,
            folder=folder,
            ledger=None if settings.ledger is None else Path(settings.ledger),
            what=settings.method.name,
        )
    released, written = _attempts(photo, items, recognizers, settings, models, key, stage, clock)
    with clock("verify"):
        for item in items:
            item.perceptual = perceptual_change(photo.rgb, written.rgb, item.face, models)
    return _finished(photo, found, items, released, written, settings, clock, charges, unused)


def _check_place(photo: Photo, face: Face) -> None:
    """What lies beside the photo would count as protected, with nothing changed."""
    left, top, right, bottom = face.box
    if not (left < photo.width and top < photo.height and right > 0 and bottom > 0):
        raise OptionError(
            f"the face at {tuple(round(v, 1) for v in face.box)} lies outside the photo, which has "
            f"{photo.width}×{photo.height} pixels: it must be given in pixels of this very photo"
        )


def _attempts(
    photo: Photo,
    items: list[_Item],
    recognizers: list[Recognizer],
    settings: Settings,
    models: Models,
    key: Sequence[str | int],
    stage: Stage,
    clock: _Clock,
) -> tuple[bool, Photo]:
    """Try the method, what it has for another time, and the fallbacks, on what is still matched.

    Returns whether the last candidate was released, and that candidate.
    """
    fallbacks = FALLBACKS if settings.on_unprotected == "blur" else ()
    attempts = (settings.method, *settings.method.again)
    todo = items
    written = photo
    for attempt, method in enumerate((*attempts, *fallbacks), 1):
        for item in todo:
            item.method, item.fallback = method, attempt > len(attempts)
            item.attempts = attempt
        _deidentify(photo, todo, settings, models, key, clock)
        with clock("paste"):
            rgb, touched = paste(photo.rgb, [i.pasted for i in items if i.pasted is not None])
            candidate = photo.replaced(rgb, touched)
        try:
            with ExitStack() as stack:
                with clock("write"):
                    written = stack.enter_context(stage(candidate))
                with clock("verify"):
                    _verify(items, looks_of(written, photo.translucent), recognizers, settings)
                todo = [item for item in items if not (item.verdict and item.verdict.protected)]
                last = settings.on_unprotected == "release" and attempt == len(attempts)
                if todo and not last:
                    raise _Still
            return True, written
        except _Still:
            continue
    return False, written


def _verify(
    items: Sequence[_Item],
    looks: Sequence[NDArray[np.uint8]],
    recognizers: Sequence[Recognizer],
    settings: Settings,
) -> None:
    """The verdict on each face is that on the first look under which it is not protected."""
    for item in items:
        for rgb, vectors in zip(looks, item.embeddings, strict=True):
            if vectors is None:
                continue
            item.verdict = verify_face(
                item.face,
                vectors,
                rgb,
                recognizers,
                require=settings.require,
                detector=settings.detector,
                white_box=item.method.surrogates,
            )
            if not item.verdict.protected:
                break


def looks_of(photo: Photo, translucent: bool) -> list[NDArray[np.uint8]]:
    """The colours of a photo, and what is seen of it on white and on black where the original is
    translucent: a face may hide in the opacity, which stays.
    """
    pages = PAGES if translucent else ()
    return [photo.rgb8, *(photo.over(level) for level in pages)]


def _deidentify(
    photo: Photo,
    items: Sequence[_Item],
    settings: Settings,
    models: Models,
    key: Sequence[str | int],
    clock: _Clock,
) -> None:
    """Align, run each item's method, and note what to paste."""
    groups: dict[int, list[_Item]] = {}
    for item in items:
        size = item.method.frame or native_size(item.face)
        groups.setdefault(size, []).append(item)
    for size, group in groups.items():
        for first in range(0, len(group), BATCH):
            batch = group[first : first + BATCH]
            with clock("align"):
                frames = [frame(item.face, size) for item in batch]
                before = torch.stack([align(photo.rgb, f) for f in frames])
                points = [f.to_frame(i.face.landmarks) for f, i in zip(frames, batch, strict=True)]
                landmarks = torch.from_numpy(np.stack(points)).float()
            with clock("method"):
                method = batch[0].method
                result = method(
                    before,
                    models,
                    random=[_stream(item, settings, key) for item in batch],
                    landmarks=landmarks,
                )
            for i, item in enumerate(batch):
                item.facts = result.facts[i]
                item.pasted = Pasted(
                    face=item.face,
                    frame=frames[i],
                    before=before[i],
                    after=result.faces[i],
                    carry=method.carry,
                    region=method.region,
                )


def _stream(item: _Item, settings: Settings, key: Sequence[str | int]) -> torch.Generator:
    """The first attempt's stream is the one that `methods` documents; each other has its own."""
    later = () if item.attempts == 1 else ("attempt", item.attempts)
    return stream(settings.seed, *key, item.index, *later)


def _without_faces(
    photo: Photo,
    found: Sequence[Face],
    settings: Settings,
    stage: Stage,
    clock: _Clock,
    unused: tuple[str, ...],
) -> Protected:
    """Nothing to protect: nobody was found, nobody was selected, or everybody is to be kept."""
    status: Status
    if not found and settings.on_no_face == "copy":
        status, message = "copied", "no face was found; written anew with no face changed"
    elif not found:
        status, message = "no-face", "no face was found; not released"
    elif settings.only:
        status, message = "none-selected", "no face is one of those to protect; not released"
    else:
        status, message = "kept", "every face is to be kept; written anew with no face changed"
    released = status in ("copied", "kept")
    if released:
        with clock("write"), stage(photo):
            pass
    report = PhotoReport(
        status=status,
        message=message,
        width=photo.width,
        height=photo.height,
        faces=tuple(_kept(i, face) for i, face in enumerate(found)),
        dropped=photo.dropped,
        seconds=clock.seconds,
        unused=unused,
    )
    return Protected(photo if released else None, report)


def _finished(
    photo: Photo,
    found: Sequence[Face],
    items: Sequence[_Item],
    released: bool,
    written: Photo,
    settings: Settings,
    clock: _Clock,
    charges: Mapping[str, float],
    unused: tuple[str, ...],
) -> Protected:
    """Put the report together."""
    by_index = {item.index: item for item in items}
    faces = tuple(
        _report(by_index[i]) if i in by_index else _kept(i, face) for i, face in enumerate(found)
    )
    bad = [f.index for f in faces if f.outcome in ("matched", "unverified")]
    status: Status = "protected"
    message = f"{len(items)} of {len(found)} faces protected"
    if bad:
        numbers = ", ".join(map(str, bad))
        message = f"still recognisable or not verifiable: face {numbers}"
        if any(by_index[i].face.landmarks_from == "box" for i in bad):
            message += " (if that is no face at all, correct it with a plan)"
        status = "withheld" if settings.on_unprotected in ("fail", "blur") else "skipped"
        if released:
            status, message = "released-unprotected", f"{UNPROTECTED}; {message}"
        else:
            message += "; the photo is not released"
    previews = tuple(
        Previews(_preview(photo, item.face), _preview(written, item.face)) for item in items
    )
    report = PhotoReport(
        status=status,
        message=message,
        width=photo.width,
        height=photo.height,
        faces=faces,
        dropped=photo.dropped,
        seconds=clock.seconds,
        charges=charges,
        unused=unused,
        warnings=settings.method.warnings,
    )
    return Protected(written if released else None, report, previews)


def _report(item: _Item) -> FaceReport:
    assert item.verdict is not None
    return dataclasses.replace(
        _kept(item.index, item.face),
        method=repr(item.method),
        fallback=item.fallback,
        outcome=item.verdict.outcome,
        verdict=item.verdict,
        facts=item.facts,
        attempts=item.attempts,
        perceptual=item.perceptual,
    )


def _kept(index: int, face: Face) -> FaceReport:
    left, top, right, bottom = (round(float(v), 1) for v in face.box)
    return FaceReport(
        index=index,
        box=(left, top, right, bottom),
        detector=face.detector,
        landmarks_from=face.landmarks_from,
        method=None,
        fallback=False,
        outcome="kept",
        verdict=None,
        facts={},
    )


def _preview(photo: Photo, face: Face) -> NDArray[np.uint8]:
    crop = align(photo.rgb, frame(face, PREVIEW)).permute(1, 2, 0).numpy()
    return np.asarray((crop + 1) * 127.5 + 0.5).clip(0, 255).astype(np.uint8)


def protect_file(
    source: Path,
    target: Path,
    settings: Settings,
    models: Models,
    *,
    key: Sequence[str | int] = (),
    find: Callable[[Photo], tuple[Sequence[Face], Sequence[bool]]] | None = None,
    replace: bool = False,
    charged: dict[str, float] | None = None,
) -> Protected:
    """Read a photo, protect it, and write it to `target` if it may be released.

    What is verified is the file itself, under a temporary name; `target` appears only once it has
    passed, whole.

    Args:
        source: the photo; never written to.
        target: where the result goes; must not exist unless `replace`.
        settings: how.
        models: where networks come from.
        key: names the photo in the random streams.
        find: in place of the detector (a corrected plan, for example); gives the faces, and per
            face whether it is to be protected.
        replace: an earlier result at `target` is replaced, or removed if there is no new one to
            release; the source never is.
        charged: gets what is charged to whom, also where an error follows.

    Raises:
        PhotoError: the source cannot be read.
        OutputError: the result cannot be written.
    """
    clock = _Clock()
    with clock("read"):
        photo = imaging.read(source, first_frame=settings.first_frame)

    @contextmanager
    def stage(candidate: Photo) -> Iterator[Photo]:
        with imaging.staged(
            candidate, target, metadata=settings.metadata, overwrite=replace
        ) as temporary:
            yield imaging.read(temporary)

    if not replace and os.path.lexists(target):  # before anything is charged for it
        raise OutputError(f"{target}: exists already; nothing was written")
    faces, protect = (None, None) if find is None else find(photo)
    result = protect_photo(
        photo,
        settings,
        models,
        key=key,
        faces=faces,
        protect=protect,
        stage=stage,
        clock=clock,
        folder=_folder(source),
        charged=charged,
    )
    if replace and result.photo is None:
        imaging.remove(target, unless=photo)
    return result


def _folder(photo: Path) -> str:
    """Name of the folder in which a photo lies: of a linked photo, where the link lies."""
    return photo.absolute().parent.resolve().name


def protect(
    image: Any,
    method: str | Method = METHOD,
    *,
    faces: Sequence[Face] | None = None,
    models: Models | None = None,
    **options: Any,
) -> Protected:
    """De-identify the faces in one image.

    Args:
        image: a path, a PIL image or an array, H×W, H×W×3 or H×W×4 (uint8, uint16, or float in
            [0, 1]), RGB.
        method: a name, a name with options (`pixelate:cells=8`) or a `Method`.
        faces: the faces, from your own detector (see `facedeid.faces.faces_from_boxes`).
        models: share one `Models` between calls to read the networks only once.
        options: further fields of `Settings`. Here `on_no_face` is `fail` unless given.

    Returns:
        The result; `.image` is the array (it raises UnprotectedError where the photo was skipped),
        `.report` what happened to each face.

    Raises:
        OptionError: an option is wrong.
        PhotoError: the image cannot be read.
        WeightsError: the weights of a recogniser or a method are not here.
        PrivacyError: a budget is spent, or OpenDP is not installed.
        NoFaceError: no face was found, or none of those to protect, and `on_no_face` is `fail`.
        UnprotectedError: a face is still recognised and `on_unprotected` is `fail` or `blur`.
    """
    settings = Settings.of(method, {"on_no_face": "fail", **options})
    if faces is not None and not all(isinstance(face, Face) for face in faces):
        raise OptionError(
            "faces must be Face objects: make them from boxes with facedeid.faces.faces_from_boxes"
        )
    if isinstance(image, str | Path):
        photo = imaging.read(Path(image), first_frame=settings.first_frame)
    else:
        photo = imaging.from_array(image)
    folder = _folder(Path(image)) if isinstance(image, str | Path) else None
    result = protect_photo(
        photo, settings, models or Models(settings.device), faces=faces, folder=folder
    )
    if result.report.status == "withheld":
        raise UnprotectedError(result.report.message)
    unreleased = result.report.status in ("no-face", "none-selected")
    if unreleased and settings.on_no_face == "fail":
        raise NoFaceError(result.report.message)
    return result
