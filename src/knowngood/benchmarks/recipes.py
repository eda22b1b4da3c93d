"""The settings that `benchmark accuracy` states results for, by recipe and track. Chosen on dev forms alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EDGES: Mapping[str, Any] = {
    "representation": "oriented_gradients",
    "objective": "vae",
    "scoring": {
        "name": "fusion",
        "scores": ({"name": "elbo", "samples": 0}, {"name": "neighbours", "of": "pixels"}),
        "weighting": (1.0, 1.0),
    },
}
# The library as it comes.
DEFAULTS: Mapping[str, Any] = {}
KNOWN_CLASSES: Mapping[str, Any] = {
    "representation": "oriented_gradients",
    "objective": "cvae",
    "prior": "separated",
    "class_aware": 10.0,
    "unknown": "infer",
    "scoring": {
        "name": "fusion",
        "scores": ({"name": "elbo", "samples": 0}, {"name": "neighbours", "cosine": True, "coreset": None}),
        "weighting": (1.0, 1.0),
    },
}
# The same edges without what the VAE learns of them: what `ours` has to be held against.
NEIGHBOURS: Mapping[str, Any] = {
    "representation": "oriented_gradients",
    "objective": "vae",
    "epochs": 1,
    "scoring": {"name": "neighbours", "of": "pixels"},
}
RECIPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ours": {
        "one-vs-rest": EDGES,
        "leave-one-out": KNOWN_CLASSES,
        "ood": EDGES,
        "pneumonia": EDGES,
        "few-labels": EDGES,
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
