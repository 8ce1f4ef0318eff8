"""Attackers on a small world whose structure is known: photos of coloured blocks, two per person.

A person is a pattern of 4×4 colours, a photo of it adds a little of its own, and the recogniser
reads the colours. What a method does to the pattern, and hence which attack must work, is known.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from facedeid.errors import OptionError
from facedeid.evaluation import fingerprints
from facedeid.evaluation.attackers import ATTACKERS, MEASURES, Bench, HasAttributes, part_of
from facedeid.evaluation.attackers.heads import heads
from facedeid.evaluation.attackers.inverter import Crops, psnr, trained
from facedeid.evaluation.attackers.scoring import Scores, auc, cosine_distance, figures, interval
from facedeid.evaluation.datasets import Dataset, Pair
from facedeid.evaluation.originals import Originals
from facedeid.evaluation.releases import Releases
from facedeid.faces import Face, align, detect, frame, from_landmarks
from facedeid.landmarks import MEAN_FACE
from facedeid.methods import parse
from facedeid.models import ARCFACE_CROP, Models
from facedeid.nets.compact_face import CompactFaceNet
from facedeid.random import stream

SIDE, BLOCKS = 64, 4
RANK_1, FAR_2 = "Rank-1", "TAR at FAR 1e-2"


# the world -----------------------------------------------------------------------------------


def blocks(pattern: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Pattern 4×4×3 in [0, 1] -> photo."""
    return np.asarray(
        np.kron(pattern.clip(0, 1) * 255, np.ones((SIDE // BLOCKS, SIDE // BLOCKS, 1))), np.uint8
    )


def pattern_of(photo: NDArray[np.uint8]) -> NDArray[np.float64]:
    cells = photo.reshape(BLOCKS, SIDE // BLOCKS, BLOCKS, SIDE // BLOCKS, 3)
    return np.asarray(cells.mean((1, 3)) / 255, np.float64)


def world(people: int = 160, photos: int = 2, spread: float = 0.05) -> Dataset:
    content: dict[str, NDArray[np.uint8]] = {}
    identities, pairs = {}, []
    for number in range(people):
        random = np.random.default_rng(number)
        own = random.uniform(0.2, 0.8, (BLOCKS, BLOCKS, 3))
        keys = [f"person{number}/{i}.png" for i in range(photos)]
        for key in keys:
            content[key] = blocks(own + spread * random.standard_normal(own.shape))
            identities[key] = f"person{number}"
        pairs.append(Pair(keys[0], keys[1], True, 0))
    keys = tuple(sorted(content))
    dataset = Dataset("people", keys, identities, tuple(pairs), lambda key: b"")
    object.__setattr__(dataset, "read", content.__getitem__)
    return dataset


class Eye:
    """A recogniser that reads 4×4 colours, about the mean colour."""

    def __init__(self, name: str, net: Any = None) -> None:
        self.name, self.net, self.differentiable = name, net, True
        self.spec = SimpleNamespace(
            dim=3 * BLOCKS**2,
            metric="cosine",
            crop=ARCFACE_CROP,
            scale=lambda chips: (chips - 127.5) / 127.5,
        )

    def embed(self, faces: torch.Tensor, landmarks: torch.Tensor | None = None) -> torch.Tensor:
        """N×3×S×S crops."""
        return F.normalize(F.adaptive_avg_pool2d(faces, BLOCKS).flatten(1))

    def distance(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 1 - (a * b).sum(-1)

    def threshold(self, require: str = "library") -> float:
        raise OptionError("none is known")


class SmallNet(Eye):
    """The same by name, but a network with facedeid-mobile's architecture, untrained."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = CompactFaceNet(48, stem=8, widths=(8, 16), depths=(1, 1)).eval()
        super().__init__("facedeid-mobile", net.requires_grad_(False))

    def embed(self, faces: torch.Tensor, landmarks: torch.Tensor | None = None) -> torch.Tensor:
        points = [PLACE.landmarks] * len(faces)
        photos = ((faces + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
        chips = [ARCFACE_CROP.chips_from_photo(p, [q]) for p, q in zip(photos, points, strict=True)]
        with torch.no_grad():
            return torch.cat([self.net(self.spec.scale(chip)) for chip in chips])


PLACE = from_landmarks(MEAN_FACE * SIDE)


def pixels(photo: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None] / 127.5 - 1


class Places:
    """Originals whose face is everywhere at the same place."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def face(self, key: str) -> Face | None:
        return PLACE

    def embeddings(self, recognizer: Eye, keys: Any) -> torch.Tensor:
        return torch.cat([recognizer.embed(pixels(self.dataset.read(key))) for key in keys])


@dataclass(frozen=True)
class Trick:
    """What a fake method does to a pattern."""

    name: str
    surrogates: tuple[str, ...] = ()
    frame: ClassVar[int] = SIDE

    @property
    def varies(self) -> bool:
        return self.name == "noise"

    def change(
        self, pattern: NDArray[np.float64], random: np.random.Generator
    ) -> NDArray[np.float64]:
        flat = pattern.ravel()
        if self.name == "shuffle":  # a secret order of all values, always the same
            return flat[np.random.default_rng(7).permutation(len(flat))].reshape(pattern.shape)
        if self.name == "negative":
            return 1 - pattern
        if self.name == "noise":
            return pattern + 0.5 * random.standard_normal(pattern.shape)
        if self.name == "grey":  # nothing is left
            return np.full_like(pattern, 0.4)
        return pattern


class Split(Trick):
    """A method with an identity/attribute split whose attributes give the person away."""

    def attributes(
        self, faces: torch.Tensor, models: Any, *, landmarks: torch.Tensor
    ) -> torch.Tensor:
        assert faces.shape[1:] == (3, SIDE, SIDE)
        assert landmarks.shape[1:] == (68, 2)
        mixed = F.adaptive_avg_pool2d(faces, BLOCKS).flatten(1)
        return mixed @ torch.randn(48, 60, generator=torch.Generator().manual_seed(3))


class Fakes:
    """Releases of a trick."""

    def __init__(self, dataset: Dataset, method: Trick, lost: frozenset[str] = frozenset()) -> None:
        self.dataset, self.method, self.lost = dataset, method, lost
        self.draws: set[int] = set()

    def prepare(self, keys: Any, draw: int = 0, progress: Any = None) -> None:
        self.draws.add(draw)

    def photo(self, key: str, draw: int = 0) -> NDArray[np.uint8]:
        random = np.random.default_rng([draw, *key.encode()])
        return blocks(self.method.change(pattern_of(self.dataset.read(key)), random))

    def place(self, key: str) -> Face | None:
        return PLACE

    def again(self, key: str, draw: int = 0) -> Face | None:
        return None if key in self.lost else PLACE

    def embeddings(
        self, recognizer: Eye, keys: Any, aligned: str, draw: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.cat([recognizer.embed(pixels(self.photo(key, draw))) for key in keys])
        valid = torch.tensor([aligned == "original" or key not in self.lost for key in keys])
        found[~valid] = torch.nan
        return found, valid


def bench(
    method: Trick,
    *,
    dataset: Dataset | None = None,
    lost: frozenset[str] = frozenset(),
    eyes: tuple[Eye, ...] = (Eye("eye"),),
    **options: Any,
) -> Bench:
    dataset = world() if dataset is None else dataset
    by_name = {eye.name: eye for eye in (*eyes, Eye("facedeid-mobile"))}
    by_name |= {eye.name: eye for eye in eyes}
    models = SimpleNamespace(
        device=torch.device("cpu"),
        recognizer=by_name.__getitem__,
        recognizers=lambda names: [by_name[name] for name in names],
    )
    names = tuple(eye.name for eye in eyes)
    options = {"recognizers": names, "photos": 100, "side": 32, **options}
    releases = Fakes(dataset, method, lost)
    return Bench(
        dataset=dataset, originals=Places(dataset), releases=releases, models=models, **options
    )


def by_measure(rows: Any, **which: str) -> dict[str, Any]:
    chosen = [r for r in rows if all(getattr(r, k) == v for k, v in which.items())]
    found = {row.measure: row for row in chosen}
    assert len(found) == len(chosen)
    return found


# figures -------------------------------------------------------------------------------------


@pytest.fixture
def scores() -> Scores:
    random = np.random.default_rng(0)
    table = random.uniform(0.5, 1.5, (60, 60))
    table[np.diag_indices(60)] -= 0.4
    table[3] = np.inf  # no face was found
    return Scores(table.round(2), tuple(f"p{i // 2}" for i in range(60)))  # rounded: there are ties


def listed(scores: Scores) -> tuple[list[float], list[float]]:
    size = range(len(scores.people))
    genuine = [scores.distances[i, i] for i in size]
    impostor = [
        scores.distances[i, j] for i in size for j in size if scores.people[i] != scores.people[j]
    ]
    return genuine, impostor


def test_figures_are_those_of_a_count_by_hand(scores: Scores) -> None:
    genuine, impostor = listed(scores)
    found = figures(scores, 0.8)
    assert set(found) == set(MEASURES)
    accepted = sum(d < 0.8 for d in genuine) / len(genuine)
    assert np.mean(found["accepted"]) == pytest.approx(accepted)
    rejected = sum(d >= 0.8 for d in impostor) / len(impostor)
    assert np.mean(found["accuracy"]) == pytest.approx((accepted + rejected) / 2)
    wins = [(g < i) + 0.5 * (g == i) for g in genuine for i in impostor]
    assert np.mean(found["AUC"]) == pytest.approx(np.mean(wins)) == pytest.approx(auc(scores))
    limit = max(t for t in set(impostor) if sum(i < t for i in impostor) <= 0.01 * len(impostor))
    assert np.mean(found[FAR_2]) == pytest.approx(np.mean([g < limit for g in genuine]))


def test_a_rate_that_too_few_pairs_can_show_is_not_given(scores: Scores) -> None:
    found = figures(scores, 0.8)
    assert "too few" in str(found["TAR at FAR 1e-3"])
    assert not isinstance(found[FAR_2], str)


def test_the_threshold_is_the_best_of_all(scores: Scores) -> None:
    genuine, impostor = (np.array(d) for d in listed(scores))
    best = scores.threshold()
    assert best is not None

    def right(t: float) -> float:
        return float((genuine < t).mean() - (impostor < t).mean())

    assert right(best) == pytest.approx(max(right(t) for t in np.linspace(0, 2, 2001)))


def test_rank_1_takes_a_tie_for_a_miss() -> None:
    same = Scores(np.full((3, 3), 0.5), ("a", "b", "c"))
    assert np.mean(figures(same, 1.0)[RANK_1]) == 0
    assert np.mean(figures(same, 1.0)["AUC"]) == 0.5


def test_an_interval_knows_that_photos_of_one_person_hang_together() -> None:
    values = np.repeat(np.random.default_rng(0).integers(0, 2, 40).astype(float), 5)
    alone = interval(values, [str(i) for i in range(200)], seed=0)
    together = interval(values, [str(i // 5) for i in range(200)], seed=0)
    assert alone[0] < values.mean() < alone[1]
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])
    assert interval(np.array([0, 1, 0, 1.0, 0]), ["a"] * 5, seed=0) == (None, None)
    assert interval(np.zeros(100), [str(i) for i in range(100)], seed=0) == pytest.approx(
        (0, 1 - 0.025**0.01)
    )


def test_people_are_divided_once_and_for_all() -> None:
    parts = [part_of(f"person{i}") for i in range(2000)]
    shares = [parts.count(part) / 2000 for part in ("tested", "training", "fitting")]
    assert shares == pytest.approx([0.5, 0.35, 0.15], abs=0.03)
    setup = bench(Trick("none"))
    tested, fitting = (setup.trial(part) for part in ("tested", "fitting"))
    groups = [set(tested.people), set(fitting.people), set(setup.training()[1])]
    assert all(groups)
    assert not any(a & b for i, a in enumerate(groups) for b in groups[:i])


def test_trials_take_many_people_before_many_pairs() -> None:
    dataset = world(photos=3)
    more = [Pair(f"person{i}/1.png", f"person{i}/2.png", True, 0) for i in range(160)]
    ordered = tuple(p for i in range(160) for p in (dataset.pairs[i], more[i]))
    object.__setattr__(dataset, "pairs", ordered)
    tested = bench(Trick("none"), dataset=dataset, limit=30).trial("tested")
    assert len(tested) == len(set(tested.people)) == 30


def test_no_photo_is_a_probe_and_in_the_gallery() -> None:
    dataset = world(people=20, photos=6)
    chains = [
        Pair(f"person{i}/{a}.png", f"person{i}/{a + 1}.png", True, 0)
        for i in range(20)
        for a in range(5)
    ]
    object.__setattr__(dataset, "pairs", tuple(chains))
    tested = bench(Trick("none"), dataset=dataset).trial("tested")
    assert len(tested) == 3 * len(set(tested.people))
    assert set(tested.gallery).isdisjoint(tested.probes)


def test_a_judge_is_known_by_its_network_too(monkeypatch: pytest.MonkeyPatch) -> None:
    eyes = (Eye("seen"), Eye("unseen"))
    setup = bench(Trick("none", ("original",)), eyes=eyes)
    monkeypatch.setattr(setup.models, "recognizer", lambda name: Eye(name))
    marks = {"original": {"a"}, "seen": {"a", "b"}, "unseen": {"c"}}
    monkeypatch.setattr(fingerprints, "_marks", lambda recognizer: marks[recognizer.name])
    monkeypatch.setattr(fingerprints, "_answers_as", lambda *_: False)  # all eyes see the same
    assert setup.white_box("seen")
    assert not setup.white_box("unseen")


# attackers -----------------------------------------------------------------------------------


def test_every_attacker_gives_rows_that_json_takes() -> None:
    assert list(ATTACKERS) == [
        "parrot",
        "retrained",
        "finetuned",
        "averaging",
        "inverter",
        "attributes",
    ]
    setup = bench(Trick("noise", ("eye",)), steps=2, limit=40, draws=2)
    for name, attack in ATTACKERS.items():
        for row in attack(setup):
            assert row.attacker == name
            assert (row.value is None) == (row.reason is not None)
            assert json.loads(json.dumps(row.record(), allow_nan=False))["n"] == row.n
            assert row.white_box == (row.recognizer == "eye")
            if row.value is not None:
                assert row.n > 0
                assert row.low is not None
                assert row.high is not None
                assert row.low <= row.value <= row.high


def test_the_parrot_and_the_new_head_see_through_a_fixed_shuffle() -> None:
    setup = bench(Trick("shuffle"))
    for name in ("parrot", "retrained"):
        found = by_measure(ATTACKERS[name](setup))
        for measure in ("AUC", RANK_1):
            row = found[measure]
            assert row.ordinary < 0.65, name  # it protects from who does not study it
            assert row.untouched > 0.97
            assert row.value > 0.9, name
        assert found["accuracy"].value > found["accuracy"].ordinary + 0.25


def test_no_attacker_sees_what_is_not_there() -> None:
    setup = bench(Trick("grey"), steps=5, limit=40)
    rows = [row for name in ("parrot", "retrained", "inverter") for row in ATTACKERS[name](setup)]
    found = [row for row in rows if row.value is not None and row.measure in ("AUC", RANK_1)]
    assert len(found) == 6
    for row in found:
        assert row.value < 0.6, (row.attacker, row.measure)


def test_the_parrot_uses_its_own_random_numbers() -> None:
    found = by_measure(ATTACKERS["parrot"](bench(Trick("noise"))))
    assert found[RANK_1].value < found[RANK_1].ordinary  # noise on both sides is more noise


@pytest.mark.parametrize(("trick", "draws"), [("noise", {0, 1}), ("shuffle", {0})])
def test_the_parrot_has_nothing_made_twice(trick: str, draws: set[int]) -> None:
    setup = bench(Trick(trick))
    ATTACKERS["parrot"](setup)
    assert setup.releases.draws == draws  # type: ignore[attr-defined]


def test_releases_averaged_lose_their_noise() -> None:
    rows = ATTACKERS["averaging"](bench(Trick("noise"), draws=8, limit=40))
    for how in ("embeddings", "pixels"):
        found = by_measure(rows, variant=f"8 releases of a photo, {how}")
        assert found["AUC"].value > found["AUC"].ordinary + 0.02
        assert found[RANK_1].value > found[RANK_1].ordinary + 0.2


def test_photos_averaged_lose_what_differs() -> None:
    setup = bench(Trick("noise"), dataset=world(photos=6), draws=5, limit=40)
    rows = ATTACKERS["averaging"](setup)
    for how in ("embeddings", "pixels"):
        found = by_measure(rows, variant=f"up to 5 photos of a person, {how}")
        assert found[RANK_1].value > found[RANK_1].ordinary + 0.2
        assert found[RANK_1].facts["averaged"] == 5


def test_releases_of_a_deterministic_method_are_not_averaged() -> None:
    rows = ATTACKERS["averaging"](bench(Trick("negative")))
    (row,) = by_measure(rows, variant="4 releases of a photo, pixels").values()
    assert row.value is None
    assert "deterministic" in row.reason


def test_the_inverter_undoes_a_negative(tmp_path: Path) -> None:
    eyes = (Eye("eye"), Eye("facedeid-mobile"))
    rows = ATTACKERS["inverter"](
        bench(Trick("negative"), eyes=eyes, steps=60, limit=40, side=32, pictures=tmp_path)
    )
    found = by_measure(rows, recognizer="eye")
    assert found["AUC"].ordinary < 0.2
    assert found["AUC"].value > 0.9
    fidelity = by_measure(rows, measure="PSNR (dB)")["PSNR (dB)"]
    assert fidelity.value > fidelity.ordinary + 5
    (own,) = by_measure(rows, recognizer="facedeid-mobile").values()
    assert own.value is None
    assert "no independent judge" in own.reason
    assert (tmp_path / "inverter.png").stat().st_size > 1000


def test_the_inverter_undoes_a_tint_of_real_faces(
    astronaut: NDArray[np.uint8], hopper: NDArray[np.uint8]
) -> None:
    def crops(rgb: NDArray[np.uint8]) -> torch.Tensor:
        points = detect(rgb)[0].landmarks
        moves = np.random.default_rng(0).normal(0, 6, (24, 1, 2))
        return torch.stack([align(rgb, frame(from_landmarks(points + m), 32)) for m in moves])

    def tinted(faces: torch.Tensor) -> torch.Tensor:
        return 0.4 * faces + torch.tensor([0.4, -0.2, -0.4])[:, None, None]

    learned, unseen = crops(astronaut), crops(hopper)
    none = torch.zeros(24, 68, 2)
    data = Crops(tinted(learned), learned, none, torch.ones(24, dtype=torch.bool))
    net, facts = trained(bench(Trick("none"), steps=40), data, None)
    before = psnr(tinted(unseen), unseen)
    with torch.no_grad():
        after = psnr(net(tinted(unseen)), unseen)
    assert after.mean() > before.mean() + 4
    assert facts["steps"] == 40


def test_attributes_that_hold_the_person_give_it_away() -> None:
    assert isinstance(Split("grey"), HasAttributes)
    found = by_measure(ATTACKERS["attributes"](bench(Split("grey"))))
    assert found["AUC"].value > 0.95 > 0.6 > found["AUC"].ordinary
    assert found[RANK_1].value > 0.8
    (row,) = ATTACKERS["attributes"](bench(Trick("grey")))
    assert row.value is None
    assert row.reason is not None
    assert row.reason.startswith("not applicable")


def test_a_fine_tuned_network_learns_the_negative() -> None:
    setup = bench(Trick("negative"), eyes=(SmallNet(),), steps=60, limit=60)
    found = by_measure(ATTACKERS["finetuned"](setup))
    assert found[RANK_1].value > found[RANK_1].ordinary + 0.2
    assert found["AUC"].value > 0.85 > 0.5 > found["AUC"].ordinary
    assert found["AUC"].facts["chosen_step"] > 0
    (row,) = ATTACKERS["finetuned"](bench(Trick("negative")))
    assert row.value is None


def test_one_seed_one_result() -> None:
    setups = [bench(Trick("noise"), steps=3, limit=30, draws=2) for _ in range(2)]
    for name in ("retrained", "averaging", "inverter"):
        one, two = (ATTACKERS[name](setup) for setup in setups)
        assert one == two


def test_faces_that_are_not_found_match_nothing_and_count() -> None:
    keys = [key for key in world().keys if key.endswith("1.png")]
    lost = frozenset(keys[::2])
    setup = bench(Trick("none"), lost=lost, aligned="fresh")
    for name in ("parrot", "retrained"):
        found = by_measure(ATTACKERS[name](setup))
        probes = setup.trial("tested").probes
        most = 1 - sum(key in lost for key in probes) / len(probes)
        assert found["accepted"].n == len(probes)
        assert 0.8 * most < found["accepted"].value <= most
    everybody = bench(Trick("none"), lost=frozenset(world().keys), aligned="fresh")
    (row,) = ATTACKERS["retrained"](everybody)
    assert row.value is None
    assert "a face is found in only 0" in row.reason


def test_a_head_recovers_a_rotation_it_has_seen_on_others() -> None:
    random = stream(0, "rotation")
    people = torch.randn(60, 1, 24, generator=random).expand(-1, 3, -1).reshape(180, 24)
    photos = F.normalize(people + 0.2 * torch.randn(180, 24, generator=random))
    turn = torch.linalg.qr(torch.randn(24, 24, generator=random))[0]
    names = [str(i // 3) for i in range(180)]
    candidates = heads(photos[:120] @ turn, photos[:120], names[:120], alike=True)
    for head in candidates[::3]:  # the mildest ridge, and what was made of it
        probes, gallery = head.probes(photos[120::3] @ turn), head.galleries(photos[121::3])
        near = torch.stack([cosine_distance(gallery, p[None]) for p in probes]).argmin(1)
        assert (near == torch.arange(20)).float().mean() > 0.9
    raw = (photos[120::3] @ turn) @ photos[121::3].T
    assert (raw.argmax(1) == torch.arange(20)).float().mean() < 0.3


@pytest.mark.parametrize("alike", [True, False])
def test_heads_of_embeddings_that_are_all_the_same(alike: bool) -> None:
    same, names = torch.full((20, 8), 0.5), [str(i // 2) for i in range(20)]
    for head in heads(same, same, names, alike=alike):
        assert torch.isfinite(head.probes(same)).all()


def test_it_is_refused_where_nobody_knows_who_is_who() -> None:
    dataset = Dataset("photos", ("a.png",), None, (), lambda key: b"")
    with pytest.raises(OptionError, match="who is who"):
        bench(Trick("none"), dataset=dataset)
    with pytest.raises(OptionError, match="positive"):
        bench(Trick("none"), limit=0)
    with pytest.raises(OptionError, match="multiple of 16"):
        bench(Trick("none"), side=100)
    few = bench(Trick("none"), dataset=world(people=3))
    for attack in ATTACKERS.values():
        for row in attack(few):
            assert row.value is None


def test_on_real_photos_with_the_cache(
    astronaut: NDArray[np.uint8], hopper: NDArray[np.uint8], tmp_path: Path
) -> None:
    names = {part: [f"p{i}" for i in range(60) if part_of(f"p{i}") == part][:2] for part in PARTS}
    photos = {"astronaut": astronaut[40:240, 120:320], "hopper": hopper[50:450:2, 60:460:2]}
    content, pairs = {}, []
    for pair in names.values():
        for person, photo in zip(pair, photos.values(), strict=True):
            content |= {f"{person}/0.png": photo, f"{person}/1.png": photo[:, ::-1].copy()}
            pairs.append(Pair(f"{person}/0.png", f"{person}/1.png", True, 0))
    who = {key: key.split("/")[0] for key in content}
    dataset = Dataset(
        "people", tuple(sorted(content)), who, tuple(pairs), lambda key: content[key].tobytes()
    )
    object.__setattr__(dataset, "read", content.__getitem__)
    models = Models()
    originals = Originals(dataset, models, tmp_path)
    releases = Releases(dataset, originals, parse("pixelate:cells=16"), models, tmp_path)
    said: list[str] = []
    setup = Bench(
        dataset=dataset,
        originals=originals,
        releases=releases,
        models=models,
        recognizers=("facedeid-mobile",),
        progress=said.append,
    )
    found = by_measure(ATTACKERS["parrot"](setup))
    assert found["AUC"].n == 2
    assert found["AUC"].value > 0.9
    assert found["AUC"].untouched == 1
    assert any("releases" in text for text in said)


PARTS = ("tested", "fitting")
