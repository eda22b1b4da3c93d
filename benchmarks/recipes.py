"""The settings that `benchmark accuracy` states results for, by recipe and track. Chosen on dev forms only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.settings import merged
from knowngood.config.presets import read_preset

SHAPES: Mapping[str, Any] = read_preset("shapes")
KNOWN_KINDS: Mapping[str, Any] = read_preset("known-kinds")
# Many kinds without names form groups of latents, which one Gaussian prior does not describe.
UNNAMED_KINDS: Mapping[str, Any] = {
    **SHAPES,
    "score": {
        "name": "fusion",
        "scores": ({"name": "elbo", "samples": 0}, {"name": "neighbours", "of": "latent", "cosine": True}),
        "weights": (2.0, 1.0),
    },
}
INFER: Mapping[str, Any] = {"conditioning": {"unknown": "infer"}}
# The library with nothing set.
AUTO: Mapping[str, Any] = {}
# A VAE of pixels, fused with the nearest normal images by HOG.
PIXELS: Mapping[str, Any] = {"representation": "pixels"}
# The same HOG without a network: it shows what the VAE of `ours` adds.
NEIGHBOURS: Mapping[str, Any] = {"representation": "hog", "model": "memory_bank"}
RECIPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ours": {
        "one-vs-rest": SHAPES,
        "leave-one-out": KNOWN_KINDS,
        "ood": UNNAMED_KINDS,
        "pneumonia": SHAPES,
        "few-labels": SHAPES,
    },
    "auto": {"one-vs-rest": AUTO, "leave-one-out": AUTO, "ood": AUTO, "pneumonia": AUTO, "few-labels": AUTO},
    "pixels": {"one-vs-rest": PIXELS, "leave-one-out": merged(PIXELS, INFER), "ood": PIXELS, "pneumonia": PIXELS},
    "hog-neighbours": {
        "one-vs-rest": NEIGHBOURS,
        "leave-one-out": merged(NEIGHBOURS, INFER),
        "ood": NEIGHBOURS,
        "pneumonia": NEIGHBOURS,
    },
}
PLAIN_VAE: Mapping[str, Any] = {
    "representation": "pixels",
    "model": {"name": "vae", "objective": "vae"},
    "score": "elbo",
}
