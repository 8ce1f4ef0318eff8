"""The model card that a training run writes beside its weights: what is known, and what is not."""

import json
from collections.abc import Mapping
from typing import Any

import facedeid

__all__ = ["card"]

LEFT = (
    "the photos: where they come from, whose they are, and what may be done with what was learned "
    "from them (weights of photos for research are for research)",
    "the terms of the networks that guided it",
    "figures on people and recognisers that had no part in the training: `facedeid evaluate`",
    "what the results look like, and where they look wrong",
)
"""What a person has to add before the weights are given to anyone."""


def card(
    settings: Mapping[str, Any], facts: Mapping[str, Any], figures: Mapping[str, float]
) -> str:
    """Markdown.

    Args:
        settings: the recipe's name, its hyper-parameters, seed and precision, as in `options.json`.
        facts: what the task says of its data and its network, and the step.
        figures: on people held out.
    """
    name = settings["recipe"]
    options = {key: value for key, value in settings.items() if key != "recipe"}
    averaged = ", averaged over steps" if settings.get("ema") else ""
    held = _table("figure", figures) if figures else ["Nobody was held out: no figures."]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Made by `facedeid train {name}`, facedeid {facedeid.__version__}. Weights: "
            f"`{name}.safetensors`, float16{averaged}.",
            "",
            "## What it was made of",
            "",
            *_table("fact", facts),
            "",
            "## Settings",
            "",
            *_table("setting", options),
            "",
            "## Measured on people held out",
            "",
            *held,
            "",
            "Guides are white-box: what they say is no evidence of protection.",
            "",
            "## To be written by a person",
            "",
            *(f"- {what}" for what in LEFT),
            "",
        ]
    )


def _table(head: str, values: Mapping[str, Any]) -> list[str]:
    rows = [f"| {key} | {_cell(value)} |" for key, value in values.items()]
    return [f"| {head} | |", "|---|---|", *rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
