"""ICC profiles: needed for right colours, but they can name a device, its serial number and owner.

`cleaned` rebuilds a profile from the tags that carry colour and replaces the rest. Layout: ICC.1,
section 7: a header of 128 bytes, a table of tags (signature, offset, size), then the data.
"""

import re
import struct

__all__ = ["cleaned", "space"]

_COLOUR_TAGS = frozenset(
    b"rXYZ gXYZ bXYZ wtpt bkpt rTRC gTRC bTRC kTRC chad chrm cicp lumi gamt A2B0 A2B1 A2B2 A2B3 "
    b"B2A0 B2A1 B2A2 B2A3 B2D0 B2D1 B2D2 B2D3 D2B0 D2B1 D2B2 D2B3".split()
)
_PUBLIC_NAMES = (
    r"(s|apple |adobe |prophoto |romm |wide gamut |eci|generic )?rgb|display p3|dci-?p3|"
    r"(rec|itu-r bt)\.? ?[0-9]+|dot gain [0-9]+%|(generic )?gr[ae]y|gamma|linear|colormatch rgb|"
    r"(u\.s\. |euroscale |japan color |iso |pso)?(web |un)?coated|swop|fogra|gracol"
)
_PUBLIC = re.compile(rf"({_PUBLIC_NAMES})([ ._()-]|[0-9]|iec|v[0-9]|profile|gamma)*", re.IGNORECASE)
_SPACES = {b"GRAY": "grey", b"RGB ": "rgb", b"CMYK": "cmyk"}


def space(profile: bytes) -> str | None:
    """ "grey", "rgb" or "cmyk": the samples a profile is for; None if it is damaged or another."""
    if len(profile) < 132 or profile[36:40] != b"acsp":
        return None
    if int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return _SPACES.get(profile[16:20])


def cleaned(profile: bytes) -> bytes | None:
    """The profile with nothing but colour in it; None if it is damaged.

    Device, maker, date and creator in the header are cleared, private tags (calibration, monitor
    model and serial number, metadata) dropped, and the description is kept only if it is that of
    a well-known colour space.
    """
    tags = _tags(profile)
    if space(profile) is None or tags is None:
        return None
    kept = {name: data for name, data in tags.items() if name in _COLOUR_TAGS}
    name = _text(tags.get(b"desc", b""))
    modern = profile[8] >= 4
    kept[b"desc"] = _described(
        name if _PUBLIC.fullmatch(name.strip()) else "colour profile", modern
    )
    kept[b"cprt"] = _multilingual("none") if modern else b"text\0\0\0\0none\0"
    return _built(profile[:128], kept)


def _tags(profile: bytes) -> dict[bytes, bytes] | None:
    count = int.from_bytes(profile[128:132], "big")
    if count > 200 or len(profile) < 132 + 12 * count:
        return None
    tags = {}
    for i in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        if offset + size > len(profile) or size < 8:
            return None
        tags[name] = profile[offset : offset + size]
    return tags


def _text(tag: bytes) -> str:
    """The first text of a description, of version 2 ("desc") or 4 ("mluc")."""
    if tag[:4] == b"desc":
        size = int.from_bytes(tag[8:12], "big")
        return tag[12 : 12 + size].split(b"\0")[0].decode("ascii", "replace")
    if tag[:4] == b"mluc" and len(tag) >= 28:
        size, offset = struct.unpack_from(">II", tag, 20)
        return tag[offset : offset + size].decode("utf-16-be", "replace")
    return ""


def _described(text: str, modern: bool) -> bytes:
    if modern:
        return _multilingual(text)
    plain = text.encode("ascii", "replace") + b"\0"
    # Then empty Unicode (language, count) and ScriptCode (code, count, 67 bytes) descriptions.
    return b"desc\0\0\0\0" + struct.pack(">I", len(plain)) + plain + bytes(4 + 4 + 2 + 1 + 67)


def _multilingual(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(data), 28) + data


def _built(header: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, places = b"", b"", dict[bytes, int]()
    start = 132 + 12 * len(tags)
    for name, data in tags.items():
        if data not in places:
            places[data] = start + len(body)
            body += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, places[data], len(data))
    fields = bytearray(header)
    fields[0:4] = struct.pack(">I", start + len(body))
    fields[4:8] = bytes(4)  # preferred CMM
    fields[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    fields[48:64] = bytes(16)  # device maker, model, attributes
    fields[80:128] = bytes(48)  # creator, profile id, reserved
    return bytes(fields) + struct.pack(">I", len(tags)) + table + body
