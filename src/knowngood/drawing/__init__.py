"""Figures of a saved model and a set of images, each a command: `knowngood figure NAME MODEL DATA`.

`FIGURES` maps a name to 'module:function' and one line about it. The function is imported when it is drawn; it takes a
`Subject`, and its keyword arguments are the options of the command that it understands.
"""

from __future__ import annotations

FIGURES: dict[str, tuple[str, str]] = {
    "reconstructions": (
        "knowngood.drawing.images:reconstructions",
        "normal and anomalous images beside what each model makes of them, with E and A",
    ),
    "triptychs": ("knowngood.drawing.images:triptychs", "input, reconstruction, difference; the oddest images first"),
    "samples": ("knowngood.drawing.images:samples", "draws from the prior, one row a condition"),
    "interpolation": ("knowngood.drawing.images:interpolation", "from one image to another; a .gif moves"),
    "latent": ("knowngood.drawing.latent:latent", "where images lie: raw dimensions, PCA, t-SNE or UMAP, by class"),
    "manifold": ("knowngood.drawing.latent:manifold", "the plane of two dimensions, decoded, under each condition"),
    "traversal": ("knowngood.drawing.latent:traversal", "what each dimension does, one row a dimension"),
    "kl": ("knowngood.drawing.latent:kl", "nats that each dimension carries"),
    "correlation": ("knowngood.drawing.latent:correlation", "how far the dimensions move together"),
    "histogram": ("knowngood.drawing.scores:histogram", "scores by label on shared bins, with their intersection"),
    "box": ("knowngood.drawing.scores:box", "quartiles of the scores of each class"),
    "violin": ("knowngood.drawing.scores:violin", "the distribution of the scores of each class"),
    "roc": ("knowngood.drawing.scores:roc", "ROC curve, with the verdicts' own point"),
    "curves": ("knowngood.drawing.scores:curves", "ROC and precision-recall of several models, by kind of anomaly"),
    "calibration": ("knowngood.drawing.scores:calibration", "requested against realised false-alarm rate"),
    "rates": ("knowngood.drawing.scores:rates", "realised false-alarm rate of each condition"),
    "loss": ("knowngood.drawing.scores:loss", "the loss and its terms over training; needs no data"),
}
