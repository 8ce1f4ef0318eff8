"""What a user writes in lists: methods and recognisers, whose options hold commas, and sweeps."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from facedeid.errors import OptionError
from facedeid.methods import METHODS, Method, parse
from facedeid.models import RECOGNIZERS

__all__ = ["Sweep", "methods", "names", "recognizers", "sweeps"]


@dataclass(frozen=True)
class Sweep:
    """One option of a method over several values, or several that change together."""

    method: str
    option: str
    """The first of those that change."""
    values: tuple[float, ...]
    """Of that one."""
    methods: tuple[Method, ...]
    """One per value."""
    along: tuple[str, ...] = ()
    """Other options that change with it, value by value."""

    @property
    def changing(self) -> tuple[str, ...]:
        """All options that change."""
        return (self.option, *self.along)


def methods(texts: Sequence[str]) -> tuple[Method, ...]:
    """Methods from lists such as `pixelate,mask:shape=box,color=[0,0,0],blur:sigma=0.2`.

    A comma separates methods where the name of one follows; otherwise it belongs to the options.

    Raises:
        OptionError: unknown method or option.
    """
    found = [parse(part) for text in texts for part in _split(text, _starts_method)]
    return tuple(dict.fromkeys(found))


def recognizers(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of recognisers from lists such as `dlib,onnx:net.onnx?mean=0&std=1`."""
    found = [part for text in texts for part in _split(text, _starts_recognizer)]
    return tuple(dict.fromkeys(found))


def _split(text: str, starts: Callable[[str, str], bool]) -> Iterator[str]:
    parts = text.split(",")
    held = parts[0]
    for part in parts[1:]:
        if starts(part.strip(), held):
            yield from [held.strip()] if held.strip() else ()
            held = part
        else:
            held += "," + part
    yield from [held.strip()] if held.strip() else ()


def _starts_method(part: str, before: str) -> bool:
    """Whether a part begins a new method; what is no option of the one before does too."""
    if before.count("[") > before.count("]"):
        return False
    name = part.partition(":")[0].strip()
    return name in METHODS or ":" not in before or "=" not in part.partition(":")[0]


def _starts_recognizer(part: str, before: str) -> bool:
    name = part.partition("?")[0].strip()
    return name in RECOGNIZERS or part.startswith("onnx:") or not before.startswith("onnx:")


def sweeps(texts: Sequence[str]) -> tuple[Sweep, ...]:
    """Sweeps from texts such as `blur:sigma=0.05|0.1|0.2`; further options may stand beside it.

    Several options with as many values are taken together, value by value:
    `fsap:identity_step=0.01|0.04,attribute_step=0.01|0.04` are two methods.

    Raises:
        OptionError: no option has several values, or two have different numbers of them, they are
            not numbers, or the method does not take them.
    """
    return tuple(_sweep(text) for text in texts)


def _sweep(text: str) -> Sweep:
    name, _, rest = text.partition(":")
    parts = [part.partition("=") for part in rest.split(",")]
    several = {head.strip(): values.split("|") for head, _, values in parts if "|" in values}
    if not several or any("|" in head for head, _, _ in parts):
        raise OptionError(f"--sweep {text}: write METHOD:option=value|value|value")
    counts = {option: len(words) for option, words in several.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{option} has {count}" for option, count in counts.items())
        raise OptionError(f"--sweep {text}: as many values of each option are wanted; {told}")
    values = _numbers(text, several)
    made = []
    for i in range(next(iter(counts.values()))):
        chosen = [(h, e, v.split("|")[i].strip() if "|" in v else v) for h, e, v in parts]
        made.append(parse(f"{name}:{','.join(map(''.join, chosen))}"))
    option, *along = several
    return Sweep(name.strip(), option, values[0], tuple(made), tuple(along))


def _numbers(text: str, several: Mapping[str, Sequence[str]]) -> list[tuple[float, ...]]:
    """The values of each option that changes."""
    try:
        return [tuple(float(word) for word in words) for words in several.values()]
    except ValueError:
        listed = ", ".join("|".join(words) for words in several.values())
        raise OptionError(f"--sweep {text}: {listed} are not all numbers") from None


def names(text: str | None, known: Collection[str], option: str) -> tuple[str, ...]:
    """Some of the known names, separated by commas, or `all`.

    Raises:
        OptionError: one of them is not known.
    """
    if text is None:
        return ()
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    if wanted == ["all"]:
        return tuple(known)
    for word in wanted:
        if word not in known:
            raise OptionError(f"--{option} {word}: there are all, {', '.join(known)}")
    return tuple(dict.fromkeys(wanted))
