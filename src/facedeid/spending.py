"""Whose privacy budget a photo is charged to, and the charge itself."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facedeid.errors import OptionError
from facedeid.faces import Face
from facedeid.models import Models
from facedeid.privacy import EVERYBODY, Ledger

__all__ = ["charge"]


def charge(
    epsilon: float,
    rgb: NDArray[np.uint8],
    faces: Sequence[Face],
    models: Models,
    *,
    subject: str | None,
    folder: str | None,
    ledger: Path | None,
    what: str = "",
) -> dict[str, float]:
    """Spend ε for a release of these faces, before anything is drawn or written.

    Args:
        epsilon: of the release of one face.
        rgb: the photo, H×W×3.
        faces: those to be released.
        models: where dlib's recogniser comes from (`cluster`).
        subject: whose faces they are: a name; `folder`, the folder's name; `cluster`, each face as
            whom dlib knows it from the ledger; None: the photo itself, so that only releases of
            the same pixels add up.
        folder: name of the photo's folder.
        ledger: its file; None: the user's.
        what: a word on the release, kept with it.

    Returns:
        What was charged to whom. Different faces are different people: a name is charged once for
        a photo, whatever the number of faces; a cluster once for each of its faces.

    Raises:
        PrivacyError: a limit would be passed; nothing was charged.
        OptionError: `folder` of a photo that is no file.
    """
    book = Ledger(ledger)
    if subject == "cluster":
        dlib = models.recognizer("dlib")
        vectors = dlib.embed_photo(rgb, [face.landmarks for face in faces])
        nearest = dlib.threshold("library")
        return book.spend_on_faces(vectors, nearest, epsilon, what=what)
    charges = {_name(subject, folder, rgb): epsilon}
    book.spend(charges, what=what)
    return charges


def _name(subject: str | None, folder: str | None, rgb: NDArray[np.uint8]) -> str:
    if subject == "folder":
        if not folder or folder == EVERYBODY:
            raise OptionError("subject=folder needs photos that lie in a folder with a name")
        return folder
    if subject is None:
        return f"photo-{hashlib.sha256(rgb.tobytes()).hexdigest()[:16]}"
    return subject
