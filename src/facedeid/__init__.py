"""Make faces in photos stop identifying anyone while the photos stay useful.

`protect` takes one image, `protect_folder` many files; `Models` holds networks between calls.
Everything is imported when it is first used, so that importing facedeid costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facedeid.batch import Run, protect_folder
    from facedeid.errors import FacedeidError
    from facedeid.methods import METHODS, Method
    from facedeid.models import Models
    from facedeid.pipeline import Protected, protect

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "FacedeidError",
    "Method",
    "Models",
    "Protected",
    "Run",
    "__version__",
    "protect",
    "protect_folder",
]

_HOME = {
    "METHODS": "methods",
    "FacedeidError": "errors",
    "Method": "methods",
    "Models": "models",
    "Protected": "pipeline",
    "Run": "batch",
    "protect": "pipeline",
    "protect_folder": "batch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'facedeid' has no attribute {name!r}")
    return getattr(import_module(f"facedeid.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
