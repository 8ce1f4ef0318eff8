"""One evaluation from end to end: every photo is read, changed, searched and embedded once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from facedeid.errors import OptionError
from facedeid.evaluation.attackers import ATTACKERS, AttackResult, must_know
from facedeid.evaluation.choices import Sweep
from facedeid.evaluation.datasets import Dataset
from facedeid.evaluation.embedding import Progress, Reporter
from facedeid.evaluation.extras import attack, harden
from facedeid.evaluation.identification import Ranking, rank
from facedeid.evaluation.intervals import Bootstrap
from facedeid.evaluation.judges import LEAST, Judge, judge, must_have_threshold
from facedeid.evaluation.looks import loaded, look_real
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.protocols import compare, score
from facedeid.evaluation.quality import Perceptual, Quality, load_lpips, quality, shelf_of
from facedeid.evaluation.releases import Releases
from facedeid.evaluation.results import Cost, Hardened, MethodResult, Results
from facedeid.evaluation.robustness import ROBUSTNESS
from facedeid.evaluation.shelf import cache_of
from facedeid.evaluation.subjects import Subjects
from facedeid.evaluation.subjects import subjects as choose
from facedeid.evaluation.views import Untouched, Views
from facedeid.faces.detection import finder
from facedeid.methods import Method
from facedeid.models import Models, Recognizer

__all__ = ["Settings", "evaluate"]


def _silent(_: str) -> Progress:
    return lambda done, total: None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is evaluated, besides the data."""

    methods: tuple[Method, ...]
    recognizers: tuple[str, ...] | None = None
    """None: those that come with the installation."""
    limit: int | None = None
    """First genuine pairs (or photos, where nobody is known) that are used; None: all."""
    threshold_pairs: int | None = None
    """Untouched pairs of each kind on which thresholds are measured; None: as `limit`, 300 at
    least."""
    ranked: int = 200
    """People in 1:N identification; 0: none."""
    sweeps: tuple[Sweep, ...] = ()
    robustness: tuple[str, ...] = ()
    attackers: tuple[str, ...] = ()
    attack_limit: int = 300
    """Genuine pairs for robustness and attackers, at most."""
    realism: tuple[str, ...] = ()
    """Names of features (`realism.features_of`)."""
    lpips: tuple[Path, ...] = ()
    """Weight files of LPIPS, or `quality.STORE` alone."""
    detector: str = "hog"
    seed: int = 0

    def __post_init__(self) -> None:
        finder(self.detector)
        if any(method.options().get("album") for method in self.all_methods):
            raise OptionError(
                "an album is remembered while a program runs, and an evaluation goes on where "
                "another one stopped: leave out album=true"
            )
        if not (self.methods or self.sweeps):
            raise OptionError("name a method at least: --methods pixelate,blur:sigma=0.2")
        for name in ("limit", "threshold_pairs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be 1 or more, got {value}")
        for name, known in (("robustness", ROBUSTNESS), ("attackers", ATTACKERS)):
            foreign = set(getattr(self, name)) - set(known)
            if foreign:
                raise OptionError(f"{name}: {min(foreign)} is none of {', '.join(known)}")
        if self.ranked < 0 or self.attack_limit < 1:
            raise OptionError("ranked must be 0 or more, attack_limit 1 or more")
        if self.seed < 0:
            raise OptionError(f"seed must be 0 or more, got {self.seed}")

    @property
    def all_methods(self) -> tuple[Method, ...]:
        """Those of the sweeps too, each once."""
        swept = [method for sweep in self.sweeps for method in sweep.methods]
        return tuple(dict.fromkeys([*self.methods, *swept]))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Room:
    """What all steps share."""

    dataset: Dataset
    settings: Settings
    models: Models
    folder: Path
    originals: Originals
    recognizers: tuple[Recognizer, ...]
    names: tuple[str, ...]
    """Of the recognisers, as the user gave them."""
    perceptual: Perceptual | None
    report: Reporter = field(default=_silent)


def evaluate(
    dataset: Dataset,
    settings: Settings,
    cache: Path,
    *,
    models: Models | None = None,
    report: Reporter = _silent,
) -> Results:
    """Evaluate methods on a data set.

    Args:
        dataset: the photos.
        settings: what is done with them.
        cache: folder where everything that was worked out is kept; a run that was stopped goes on
            from there, and other settings never take what is not theirs.
        models: where networks come from; None: on the CPU.
        report: told about progress.

    Raises:
        OptionError: settings that make no sense with these data; nothing was worked out.
        WeightsError: weights of a recogniser, of features or of LPIPS are missing; as above.
        PhotoError: none of the photos can be used.
        OutputError: the cache cannot be written.
    """
    models = models or Models()
    recognizers = _recognizers(models, settings.recognizers)
    _must_judge(recognizers, dataset, settings.threshold_pairs)
    if settings.attackers:
        must_know(dataset)
    features = loaded(settings.realism, models)
    for method in settings.all_methods:
        method.ready(models)
    cache_of(cache)
    room = _Room(
        dataset=dataset,
        settings=settings,
        models=models,
        folder=cache,
        originals=Originals(dataset, models, cache, detector=settings.detector),
        recognizers=recognizers,
        names=settings.recognizers or tuple(each.name for each in recognizers),
        perceptual=load_lpips(settings.lpips, models),
        report=report,
    )
    untouched, releases = _views(room)
    subjects = choose(
        room.originals,
        limit=settings.limit,
        threshold_pairs=settings.threshold_pairs,
        ranked=settings.ranked,
        report=report,
    )
    judges = _judges(room, subjects)
    measured = [_measure(room, views, subjects, judges) for views in (untouched, *releases)]
    return Results(
        dataset=dataset,
        originals=room.originals,
        subjects=subjects,
        judges=judges,
        untouched=measured[0],
        methods=tuple(measured[1:]),
        sweeps=settings.sweeps,
        robustness=_robustness(room, subjects, judges, (untouched, *releases)),
        attacks=_attacks(room, releases),
        realism=look_real(
            untouched,
            releases,
            models,
            subjects,
            features,
            seed=settings.seed,
            report=report,
        ),
        costs=_shared_costs(room, subjects),
    )


@lru_cache(4)
def _bootstrap(people: tuple[str, ...], seed: int) -> Bootstrap:
    """The same draws for all methods."""
    return Bootstrap(people, seed)


def _recognizers(models: Models, names: Sequence[str] | None) -> tuple[Recognizer, ...]:
    found = models.recognizers(names)
    if not found:
        raise OptionError("there is no recogniser; name one with --recognizers")
    _check_names("recognisers", [each.name for each in found])
    for each in found:
        _ = each.net  # a damaged file is noticed now
    return tuple(found)


def _must_judge(recognizers: Sequence[Recognizer], dataset: Dataset, most: int | None) -> None:
    """Check that each has a threshold, where there are too few pairs to measure one on."""
    if min(len(dataset.genuine(most)), len(dataset.impostor(most))) < LEAST:
        for each in recognizers:
            must_have_threshold(each)


def _views(room: _Room) -> tuple[Untouched, list[Releases]]:
    """The photos as they are and those of every method, of which none is made yet."""
    folder = room.folder / "releases"
    releases = [
        Releases(room.dataset, room.originals, method, room.models, folder, seed=room.settings.seed)
        for method in room.settings.all_methods
    ]
    _check_names("methods", [each.label for each in releases])
    return Untouched(room.dataset, room.originals, folder), releases


def _check_names(what: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"two {what} are called {twice}; tables could not tell them apart")


def _judges(room: _Room, subjects: Subjects) -> tuple[Judge, ...]:
    pairs = (*subjects.pairs, *subjects.fitting)
    keys = [key for pair in pairs for key in (pair.first, pair.second)]
    keys += [*subjects.probes, *(key for photos in subjects.ranked for key in photos)]
    room.originals.embed(room.recognizers, keys, room.report("embedding the originals"))
    return tuple(
        judge(each, room.originals, subjects.fitting, subjects.folds) for each in room.recognizers
    )


def _measure(
    room: _Room, views: Views, subjects: Subjects, judges: Sequence[Judge]
) -> MethodResult:
    """All protocols on one method."""
    released = [*subjects.unique, *(key for photos in subjects.ranked for key in photos)]
    views.prepare(released, progress=room.report(f"{views.label}: de-identifying"))
    views.look(released, progress=room.report(f"{views.label}: finding faces again"))
    views.embed(room.recognizers, released, progress=room.report(f"{views.label}: embedding"))
    bootstrap = _bootstrap(subjects.people, room.settings.seed)
    partners = [pair.first for pair in subjects.pairs] or None
    comparisons = tuple(
        compare(views, room.originals, each, subjects.probes, partners, subjects.people)
        for each in judges
    )
    return MethodResult(
        views=views,
        comparisons=comparisons,
        partner=tuple(row for c in comparisons for row in score(c, "partner", bootstrap)),
        itself=tuple(row for c in comparisons for row in score(c, "itself", bootstrap)),
        rankings=_rankings(room, views, subjects, judges),
        quality=_quality(room, views, subjects),
        costs=_costs(room, views, subjects),
    )


def _rankings(
    room: _Room, views: Views, subjects: Subjects, judges: Sequence[Judge]
) -> tuple[Ranking, ...]:
    if len(subjects.ranked) < 2:
        return ()
    bootstrap = _bootstrap(tuple(photos[0] for photos in subjects.ranked), room.settings.seed)
    return tuple(
        row
        for each in judges
        for row in rank(views, room.originals, each, subjects.ranked, bootstrap)
    )


def _quality(room: _Room, views: Views, subjects: Subjects) -> Quality:
    who = dict(zip(subjects.probes, subjects.people, strict=True))
    keys = subjects.unique
    return quality(
        views,
        keys,
        _bootstrap(tuple(who[key] for key in keys), room.settings.seed),
        room.models,
        room.perceptual,
        room.report(f"{views.label}: measuring quality"),
    )


def _costs(room: _Room, views: Views, subjects: Subjects) -> tuple[Cost, ...]:
    names = [views.name(key) for key in subjects.unique]
    stages: list[tuple[str, list[float]]] = []
    if isinstance(views, Releases):
        told = [views.told(key) for key in subjects.unique]
        stages.append(("de-identify and paste back", [t["seconds"] for t in told if t]))
    stages.append(("find the face again", views.faces.seconds(names)))
    shelf = shelf_of(views, room.perceptual)
    stages.append(("measure quality", shelf.seconds(names)))
    return _costs_of(stages, views.label)


def _shared_costs(room: _Room, subjects: Subjects) -> tuple[Cost, ...]:
    names = [room.originals.name(key) for key in subjects.unique]
    stages = [("find the face in the original", room.originals.faces.seconds(names))]
    for each in room.recognizers:
        stages.append((f"embed, {each.name}", room.originals.shelf(each).seconds(names)))
    return _costs_of(stages, "")


def _costs_of(stages: Sequence[tuple[str, Sequence[float]]], method: str) -> tuple[Cost, ...]:
    return tuple(
        Cost(stage=stage, method=method, seconds=1000 * sum(took) / len(took), n=len(took))
        for stage, took in stages
        if took
    )


def _robustness(
    room: _Room, subjects: Subjects, judges: Sequence[Judge], released: Sequence[Views]
) -> tuple[Hardened, ...]:
    settings = room.settings
    return tuple(
        row
        for operation in settings.robustness
        for views in released
        for row in harden(
            views,
            operation,
            judges,
            subjects,
            limit=settings.attack_limit,
            seed=settings.seed,
            report=room.report,
        )
    )


def _attacks(room: _Room, releases: Sequence[Releases]) -> tuple[AttackResult, ...]:
    settings = room.settings
    limit = settings.attack_limit if settings.limit is None else settings.limit
    return tuple(
        row
        for name in settings.attackers
        for each in releases
        for row in attack(
            name,
            each,
            room.models,
            room.names,
            limit=min(settings.attack_limit, limit),
            seed=settings.seed,
            report=room.report,
        )
    )
