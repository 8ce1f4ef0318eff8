"""Photos: read, changed only where touched, and written back the way they came.

Every format, mode and depth that is read keeps its own samples; what works on photos sees RGB.
"""

from facedeid.imaging.arrays import from_array
from facedeid.imaging.encoding import encode
from facedeid.imaging.metadata import Mode
from facedeid.imaging.photo import Photo
from facedeid.imaging.reading import MAX_PIXELS, parsed, read
from facedeid.imaging.sniff import SUFFIXES, VIDEO_SUFFIXES, may_be_photo, named_as_photo
from facedeid.imaging.writing import TEMPORARY_PREFIX, remove, staged, write

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "TEMPORARY_PREFIX",
    "VIDEO_SUFFIXES",
    "Mode",
    "Photo",
    "encode",
    "from_array",
    "may_be_photo",
    "named_as_photo",
    "parsed",
    "read",
    "remove",
    "staged",
    "write",
]
