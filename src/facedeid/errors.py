"""Every exception that facedeid raises on purpose, on one screen.

Messages say what was wrong and what to do about it; the command line prints them as they are.
"""


class FacedeidError(Exception):
    """Base of all errors that a caller can expect."""


class OptionError(FacedeidError, ValueError):
    """An option or argument has a value that makes no sense."""


class PhotoError(FacedeidError):
    """A photo cannot be read: not an image, truncated, too large, or of a kind not handled."""


class OutputError(FacedeidError):
    """A result cannot be written, or writing it would destroy something."""


class UnprotectedError(FacedeidError):
    """A face could not be protected, and the photo is therefore not released."""


class NoFaceError(FacedeidError):
    """No face was found in a photo and the caller asked for that to be an error."""


class WeightsError(FacedeidError):
    """A weight file is missing, altered, or does not fit the network."""


class UnsafeCheckpointError(WeightsError):
    """A checkpoint would run code when opened; nothing of it was run."""


class TrainingError(FacedeidError):
    """A training run cannot start or go on: no data, a state file that does not fit, diverged."""


class PrivacyError(FacedeidError):
    """A privacy guarantee would be broken; nothing was released."""
