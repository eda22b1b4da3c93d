"""Figures as `matplotlib.figure.Figure`, of arrays or of a `Subject`, a detector with images. No pyplot, no state.

`FIGURES` names what `knowngood figure NAME` draws: the module that has the function of this name, and what it shows.
"""

COMPARING = ("reconstructions", "curves", "models")  # of all models that are given; the others are of one
FIGURES = {
    "reconstructions": (
        "reconstruction",
        "images beside the reconstructions of each model (--also), with E, A and the inferred condition",
    ),
    "triptychs": ("named", "input, reconstruction, difference; the most anomalous images first"),
    "samples": ("decoded", "draws from the prior, one row a condition"),
    "interpolation": ("decoded", "from one image to another through latent space; a .gif moves"),
    "latent": ("latent", "images in the plane: two dimensions, PCA or t-SNE, by class"),
    "manifold": ("decoded", "the plane of two dimensions, decoded, under each condition"),
    "traversal": ("decoded", "what each dimension does, one row a dimension"),
    "kl": ("latent", "nats that each dimension carries"),
    "correlation": ("latent", "correlation of the dimensions"),
    "histogram": ("named", "scores by label on shared bins, with their intersection"),
    "box": ("named", "quartiles of the scores of each class"),
    "violin": ("named", "the distribution of the scores of each class"),
    "roc": ("named", "ROC curve, with the point of the verdicts"),
    "curves": ("named", "ROC and precision-recall curves; of several models with --also"),
    "models": ("comparison", "models side by side (--also): codes, manifold, reconstructions, ROC; a column each"),
    "calibration": ("named", "requested against realised false-alarm rate"),
    "rates": ("named", "realised false-alarm rate of each condition"),
    "loss": ("named", "the loss and its terms over training; needs no data"),
}
