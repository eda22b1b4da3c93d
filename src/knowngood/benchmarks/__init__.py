"""Protocols that measure the library, each a command: `knowngood benchmark NAME`.

`BENCHMARKS` maps a name to 'module:function' and one line about it. The function is imported when it is run; its
keyword arguments, with their annotations, are the options of the command.
"""

from __future__ import annotations

BENCHMARKS: dict[str, tuple[str, str]] = {
    "accuracy": (
        "knowngood.benchmarks.accuracy:main",
        "every track beside its baselines: how well anomalies are found",
    ),
    "speed": ("knowngood.benchmarks.speed:main", "images/s of training and scoring beside a bare torch loop"),
    "lineage": ("knowngood.benchmarks.lineage:main", "one normal class: 1,000 to train on, 1,000 + 1,000 to test"),
    "one-vs-rest": ("knowngood.benchmarks.one_vs_rest:main", "each class in turn is normal, all others are anomalous"),
    "leave-one-out": ("knowngood.benchmarks.leave_one_out:main", "one class held out as the anomaly, class inferred"),
    "paper": ("knowngood.benchmarks.paper:main", "the dCVAE paper's methods side by side, one class held out"),
    "light": ("knowngood.benchmarks.light:main", "changes of light and a few labelled anomalies: VAE against DAn-VAE"),
    "inspection-light": (
        "knowngood.benchmarks.inspection_light:main",
        "parts under other light, on features: false alarms as it is and with the light undone",
    ),
    "pneumonia": ("knowngood.benchmarks.pneumonia:main", "chest X-rays: trained on NORMAL, beside a contrast baseline"),
    "inspection": (
        "knowngood.benchmarks.inspection:main",
        "defects on parts: ours beside PaDiM, coreset kNN and contrast, on the same features",
    ),
    "disentanglement": (
        "knowngood.benchmarks.disentanglement:main",
        "factors of generated sprites: FactorVAE score, MIG and others of each method",
    ),
}
