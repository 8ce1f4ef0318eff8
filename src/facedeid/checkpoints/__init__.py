"""Foreign checkpoints: opened without running them, converted to safetensors."""

from facedeid.checkpoints.convert import (
    LAYOUTS,
    Converted,
    convert,
    download,
    import_checkpoint,
    options,
    read,
)

__all__ = [
    "LAYOUTS",
    "Converted",
    "convert",
    "download",
    "import_checkpoint",
    "options",
    "read",
]
