"""What a module offers is what its `__all__` says (ruff keeps it sorted)."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import facedeid

ROOT = Path(facedeid.__file__).parent
MODULES = sorted(
    ".".join(("facedeid", *p.relative_to(ROOT).with_suffix("").parts))
    for p in ROOT.rglob("*.py")
    if not p.name.startswith("_")
)


@pytest.mark.parametrize("name", [m for m in MODULES if m != "facedeid.errors"])
def test_all_is_real(name: str) -> None:
    module = importlib.import_module(name)
    public = getattr(module, "__all__", None)
    if name == "facedeid.demo":
        assert public is None
        return
    assert public is not None, f"{name} has no __all__"
    for item in public:
        assert hasattr(module, item), f"{name}.{item} does not exist"


def test_the_package_offers_its_front_door() -> None:
    for name in facedeid.__all__:
        assert getattr(facedeid, name) is not None
    assert set(facedeid.__all__) <= set(dir(facedeid))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        facedeid.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import facedeid",
        "import facedeid.cli",
        "from facedeid.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
    ],
)
def test_starting_up_imports_no_heavy_library(code: str) -> None:
    heavy = ("torch", "cv2", "dlib", "numpy", "PIL", "onnx", "onnxruntime")
    check = f"{code}\nimport sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().splitlines()[-1] == "[]"
