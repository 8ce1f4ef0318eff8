"""Public weights: which there are, where they lie, and nothing loaded that was not verified."""

from facedeid.weights.local import (
    Status,
    accept,
    dlib_model_path,
    entry,
    import_file,
    locate,
    sha256_of,
    shipped,
    shipped_facts,
    shipped_names,
    status,
    store,
    verify,
)
from facedeid.weights.registry import CHECKPOINTS, Checkpoint
from facedeid.weights.transfer import Progress, download, fetch

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "Progress",
    "Status",
    "accept",
    "dlib_model_path",
    "download",
    "entry",
    "fetch",
    "import_file",
    "load_state",
    "locate",
    "sha256_of",
    "shipped",
    "shipped_facts",
    "shipped_names",
    "status",
    "store",
    "verify",
]


def __getattr__(name: str) -> object:
    """`load_state` needs torch; the rest of this package does not, and stays quick to import."""
    if name != "load_state":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from facedeid.weights.loading import load_state

    return load_state
