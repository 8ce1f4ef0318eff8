"""How often a de-identified second photo is still accepted, on genuine pairs of LFW View 2.

    python tools/lfw_protection.py --data lfw.tar --pairs pairs.txt --method pixelate \\
        --method blur:sigma=0.2 --recognizer dlib --recognizer facedeid-mobile --pairs-used 150

Faces are de-identified where the landmarks say, pasted back, searched afresh, and compared under
both alignments (fresh / the original's) with the first photo and with the photo itself, at each
recogniser's best-accuracy threshold. Prints a row of a Markdown table per method.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from facedeid.faces import Face, Pasted, align, frame, from_landmarks, native_size, paste
from facedeid.methods import Method, parse
from facedeid.models import Models, Recognizer
from facedeid.random import stream
from facedeid.verification import find_again
from lfw_accuracy import landmarks, photos, read_pairs


def protected(rgb: np.ndarray, face: Face, method: Method, models: Models, name: str) -> np.ndarray:
    """The photo with that face de-identified."""
    place = frame(face, method.frame or native_size(face))
    before = align(rgb, place)
    points = torch.from_numpy(place.to_frame(face.landmarks)).float()[None]
    after = method(before[None], models, random=[stream(0, name, 0)], landmarks=points).faces[0]
    pasted = Pasted(
        face=face, frame=place, before=before, after=after, carry=method.carry, region=method.region
    )
    return paste(rgb, [pasted])[0]


def accepted(
    first: torch.Tensor, own: torch.Tensor, rgb: np.ndarray, views: list[Face], net: Recognizer
) -> np.ndarray:
    """2×views: whether the first photo, and the photo itself, are matched in each view."""
    vectors = net.embed_photo(rgb, [view.landmarks for view in views])
    limit = net.threshold("best")
    return np.array([[float(net.distance(a, v)) < limit for v in vectors] for a in (first, own)])


def row(method: Method, pairs: list[tuple[str, str]], data: dict, nets: list[Recognizer]) -> str:
    """One line of the table."""
    found, hits = [], {net.name: [] for net in nets}
    models = Models()
    for one, two in pairs:
        (rgb_one, face_one), (rgb_two, face_two) = data[one], data[two]
        result = protected(rgb_two, face_two, method, models, two)
        again = find_again(result, face_two, "hog")
        found.append(again is not None)
        views = [face_two] if again is None else [face_two, again]
        for net in nets:
            first = net.embed_photo(rgb_one, [face_one.landmarks])[0]
            own = net.embed_photo(rgb_two, [face_two.landmarks])[0]
            table = accepted(first, own, result, views, net)
            fresh = table[:, 1] if again is not None else np.zeros(2, bool)
            hits[net.name].append([fresh[0], table[0, 0], fresh[1] or table[1, 0]])
    cells = [f"{np.mean(found):.3f}"]
    for net in nets:
        fresh, original, itself = np.mean(hits[net.name], 0)
        cells.append(f"{fresh:.3f} / {original:.3f} / {itself:.3f}")
    return f"| {method!r} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="lfw.tar")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs.txt")
    parser.add_argument("--landmarks", type=Path, default=Path("lfw_landmarks.npz"))
    parser.add_argument("--method", action="append", required=True)
    parser.add_argument("--recognizer", action="append", required=True)
    parser.add_argument("--pairs-used", type=int, default=150)
    options = parser.parse_args()
    pairs, same = read_pairs(options.pairs)
    genuine = [pair for pair, yes in zip(pairs, same, strict=True) if yes]
    order = np.random.default_rng(0).permutation(len(genuine))[: options.pairs_used]
    used = [genuine[i] for i in order]
    wanted = {name for pair in used for name in pair}
    points = landmarks(options.landmarks, options.data, wanted)
    data = {name: (rgb, from_landmarks(points[name])) for name, rgb in photos(options.data, wanted)}
    nets = Models().recognizers(options.recognizer)
    heads = [f"{net.name}: fresh / original / itself" for net in nets]
    print(f"| method | found | {' | '.join(heads)} |\n|{'---|' * (2 + len(nets))}")
    for text in options.method:
        print(row(parse(text), used, data, nets), flush=True)


if __name__ == "__main__":
    main()
