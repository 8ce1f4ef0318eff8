"""Networks by name on one device: the only stateful object of the library."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from facedeid import weights
from facedeid.checkpoints import options
from facedeid.errors import OptionError, WeightsError
from facedeid.models.album import Album
from facedeid.models.naming import specified
from facedeid.models.recognizers import Recognizer
from facedeid.models.registry import JUDGES, RECOGNIZERS
from facedeid.nets import load_official
from facedeid.nets.aei import IdentityNet
from facedeid.nets.hiding import EmbeddingNet
from facedeid.nets.landmark_net import LandmarkNet
from facedeid.nets.lpips import Lpips, lpips, lpips_state
from facedeid.nets.private_encoder import PrivateEncoder
from facedeid.nets.psp import PSp
from facedeid.nets.speed import channels_last
from facedeid.nets.style_pair import LatentPair, StylePair
from facedeid.weights import shipped
from facedeid.weights.loading import load_state

__all__ = ["Models", "device_of"]

_Net = TypeVar("_Net", bound=nn.Module)


def device_of(text: str) -> torch.device:
    """The device of that name.

    Raises:
        OptionError: it is neither cpu nor cuda, or not in this machine.
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        raise OptionError(f"--device {text}: use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"--device {text}: use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"--device {text}: this machine or this PyTorch has no CUDA; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise OptionError(f"--device {text}: there are {count} CUDA devices, numbered from 0")
    return device


class Models:
    """Networks by name on one device; each is read once and kept.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        OptionError: there is no such device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device_of(device)
        self._recognizers: dict[str, Recognizer] = {}
        self._pairs: dict[str, nn.Module] = {}
        self.album = Album()

    @cached_property
    def perceptual(self) -> Lpips:
        """`facedeid-lpips`, the perceptual distance that ships; its values are not LPIPS.

        Two batches N×3×H×W in [-1, 1] -> N distances; differentiable.

        Raises:
            WeightsError: the installation is damaged.
        """
        net = lpips(lpips_state(load_state(shipped("facedeid-lpips.safetensors"))))
        return net.to(self.device).requires_grad_(False)

    @cached_property
    def embedding(self) -> EmbeddingNet:
        """`facedeid-embedding`, the network of the method feature-embedding.

        Raises:
            WeightsError: the installation is damaged.
        """
        return self._frozen(EmbeddingNet(), "facedeid-embedding.safetensors")

    @cached_property
    def identity(self) -> IdentityNet:
        """`facedeid-identity`, the network of the method identity-dp.

        Raises:
            WeightsError: the installation is damaged.
        """
        file = "facedeid-identity.safetensors"
        return self._frozen(IdentityNet(), file, torch.contiguous_format)  # for its instance norms

    @cached_property
    def landmarks(self) -> LandmarkNet:
        """`facedeid-landmarks`: dlib's 68 points of aligned faces, differentiable.

        N×3×S×S in [-1, 1] -> N×68×2 in pixels of that frame, but for the brows; for losses, no
        detector.

        Raises:
            WeightsError: the installation is damaged.
        """
        return self._frozen(LandmarkNet(), "facedeid-landmarks.safetensors")

    def pair(self, name: str = "facedeid") -> LatentPair:
        """A generator and its encoder into W+: `facedeid`, which ships, or `psp` (the store's).

        Raises:
            OptionError: there is no such pair.
            WeightsError: its weights are not here; the message says how to get them.
        """
        if name not in _PAIRS:
            raise OptionError(f"no pair is called {name!r}; there are: {', '.join(_PAIRS)}")
        if name not in self._pairs:
            net = _PAIRS[name]().to(self.device).eval().requires_grad_(False)
            self._pairs[name] = channels_last(net)
        return cast(LatentPair, self._pairs[name])

    @cached_property
    def private_encoder(self) -> PrivateEncoder:
        """`facedeid-private-encoder`, the network of the method private-encoder.

        Raises:
            WeightsError: the installation is damaged.
        """
        return self._frozen(PrivateEncoder(), "facedeid-private-encoder.safetensors")

    def _frozen(
        self, net: _Net, file: str, layout: torch.memory_format = torch.channels_last
    ) -> _Net:
        """A network that ships, as its recipe exported it."""
        state = load_state(shipped(file))
        net = load_official(net, {k.removeprefix("net."): v for k, v in state.items()})
        net = net.to(self.device).eval().requires_grad_(False)
        return net.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]

    @cached_property
    def _bank(self) -> dict[str, Tensor]:
        return {k: v.float() for k, v in load_state(shipped("identities.safetensors")).items()}

    def identities(self, recognizer: str) -> Tensor:
        """Features of the synthetic identities that ship, as a recogniser gives them: N×D.

        Row i is the same generated, non-existent person for every recogniser.

        Raises:
            OptionError: the bank holds no features of this recogniser.
        """
        if recognizer not in self._bank:
            raise OptionError(
                f"the bank of synthetic identities has no features of {recognizer}; it has "
                f"{', '.join(sorted(self._bank))}"
            )
        return self._bank[recognizer].to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        """Workers get the device, and read their own networks."""
        return {"device": self.device, "_recognizers": {}, "_pairs": {}, "album": Album()}

    def recognizer(self, name: str) -> Recognizer:
        """The recogniser of that name; see `facedeid.models.naming` for its options.

        Raises:
            OptionError: unknown name or option.
            WeightsError: its weights are not here; the message says how to get them.
        """
        if name not in self._recognizers:
            found = Recognizer(specified(name), self.device)
            if not found.spec.available():
                _ = found.net  # raises, and says what to do
            self._recognizers[name] = found
        return self._recognizers[name]

    def recognizers(self, names: Sequence[str] | None = None) -> list[Recognizer]:
        """Those recognisers; without names, those that come with the installation and can judge.

        Raises:
            OptionError: unknown name or option.
            WeightsError: weights are not here.
        """
        if names is None:
            known = [RECOGNIZERS[name] for name in JUDGES]
            names = [spec.name for spec in known if spec.thresholds and spec.available()]
        return [self.recognizer(name) for name in names]


def _shipped_pair() -> StylePair:
    files = ("facedeid-generator.safetensors", "facedeid-encoder.safetensors")
    state = {k: v.float() for file in files for k, v in load_state(shipped(file)).items()}
    pair = StylePair()
    pair.load_state_dict(state)
    return pair


def _psp() -> PSp:
    path = weights.locate("psp_ffhq_encode")
    state, given = load_state(path), options(path)
    average = state.pop("latent_avg", None)
    if average is None and given.get("start_from_latent_avg", True):
        raise WeightsError(
            f"{path} has no latent_avg, from which its codes start (start_from_latent_avg); "
            "import the published file"
        )
    pair = PSp.official(
        given.get("encoder_type", "GradualStyleEncoder"),
        size=given.get("output_size", 1024),
        learn_in_w=bool(given.get("learn_in_w", False)),
        latent_avg=average if given.get("start_from_latent_avg", True) else None,
    )
    return load_official(pair, state)


_PAIRS: Mapping[str, Callable[[], nn.Module]] = {"facedeid": _shipped_pair, "psp": _psp}
