"""The settings that `benchmark accuracy` states results for, by recipe and track. Chosen on dev forms alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knowngood.config.presets import read_preset

SHAPES: Mapping[str, Any] = read_preset("shapes").settings
KNOWN_KINDS: Mapping[str, Any] = read_preset("known-kinds").settings
# Many kinds that nobody names lie in groups of codes, which one Gaussian prior does not tell.
UNNAMED_KINDS: Mapping[str, Any] = {
    **SHAPES,
    "scoring": {
        "name": "fusion",
        "scores": ({"name": "elbo", "samples": 0}, {"name": "neighbours", "cosine": True}),
        "weighting": (2.0, 1.0),
    },
}
# The library as it comes.
DEFAULTS: Mapping[str, Any] = {}
# The same edges without what the VAE learns of them: what `ours` has to be held against.
NEIGHBOURS: Mapping[str, Any] = {
    "representation": "oriented_gradients",
    "objective": "vae",
    "epochs": 1,
    "scoring": {"name": "neighbours", "of": "pixels"},
}
RECIPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ours": {
        "one-vs-rest": SHAPES,
        "leave-one-out": KNOWN_KINDS,
        "ood": UNNAMED_KINDS,
        "pneumonia": SHAPES,
        "few-labels": SHAPES,
    },
    "defaults": {
        "one-vs-rest": DEFAULTS,
        "leave-one-out": {**DEFAULTS, "unknown": "infer"},
        "ood": DEFAULTS,
        "pneumonia": DEFAULTS,
    },
    "edge-neighbours": {
        "one-vs-rest": NEIGHBOURS,
        "leave-one-out": {**NEIGHBOURS, "unknown": "infer"},
        "ood": NEIGHBOURS,
        "pneumonia": NEIGHBOURS,
    },
}
PLAIN_VAE: Mapping[str, Any] = {"objective": "vae", "scoring": "elbo"}
