"""HTML elements that escape whatever is put into them, unless it is markup already."""

import html

__all__ = ["Markup", "counted", "element", "name_of"]

_EMPTY = frozenset({"img", "input", "meta"})


class Markup(str):
    """Text that is HTML already; only `element` and constants of this package make it."""

    __slots__ = ()


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """One element: text is escaped, Markup is not, None is nothing.

    `class_` stands for `class`, other underscores for hyphens; an attribute that is True is
    written without a value, one that is None or False not at all.
    """
    names = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _EMPTY:
        return Markup(f"<{tag}{names}>")
    return Markup(f"<{tag}{names}>{''.join(map(_escaped, content))}</{tag}>")


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = name.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(_printable(str(value)))}"'


def _escaped(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, Markup):
        return content
    return html.escape(_printable(str(content)))


def _printable(text: str) -> str:
    """Control and direction characters and stray bytes of file names become visible marks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\t" else "\ufffd" for c in text)


def name_of(photo: str) -> Markup:
    """A file name, kept apart from the direction of the text around it."""
    return element("bdi", photo, class_="name")


def counted(number: int, noun: str) -> str:
    """`1 photo`, `2,000 photos`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
