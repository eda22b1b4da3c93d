"""Figures of a saved model and a set of images, each a command: `knowngood figure NAME MODEL DATA`.

`FIGURES` maps a name to 'module:function' and one line about it. The function is imported when it is drawn; it takes a
`Subject`, and its keyword arguments are the options of the command that it understands.
"""

from __future__ import annotations

FIGURES: dict[str, tuple[str, str]] = {
    "reconstructions": (
        "images:reconstructions",
        "normal and anomalous images beside what each model makes of them, with E and A",
    ),
    "triptychs": (
        "images:triptychs",
        "input, reconstruction, difference; the oddest images first",
    ),
    "samples": ("images:samples", "draws from the prior, one row a condition"),
    "interpolation": ("images:interpolation", "from one image to another; a .gif moves"),
    "latent": (
        "latent:latent",
        "where images lie: raw dimensions, PCA, t-SNE or UMAP, by class",
    ),
    "manifold": (
        "latent:manifold",
        "the plane of two dimensions, decoded, under each condition",
    ),
    "traversal": ("latent:traversal", "what each dimension does, one row a dimension"),
    "kl": ("latent:kl", "nats that each dimension carries"),
    "correlation": ("latent:correlation", "how far the dimensions move together"),
    "histogram": (
        "scores:histogram",
        "scores by label on shared bins, with their intersection",
    ),
    "box": ("scores:box", "quartiles of the scores of each class"),
    "violin": ("scores:violin", "the distribution of the scores of each class"),
    "roc": ("scores:roc", "ROC curve, with the verdicts' own point"),
    "curves": (
        "scores:curves",
        "ROC and precision-recall of several models, by kind of anomaly",
    ),
    "calibration": ("scores:calibration", "requested against realised false-alarm rate"),
    "rates": ("scores:rates", "realised false-alarm rate of each condition"),
    "loss": ("scores:loss", "the loss and its terms over training; needs no data"),
}
