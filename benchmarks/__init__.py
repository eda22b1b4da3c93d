"""Protocols that measure the library, each a command: `python -m benchmarks NAME`.

`BENCHMARKS` maps a name to 'module:function' and one line about it. The function is imported when it is run; its
keyword arguments, with their annotations, are the options of the command.
"""

from __future__ import annotations

BENCHMARKS: dict[str, tuple[str, str]] = {
    "accuracy": (
        "benchmarks.accuracy:main",
        "every track beside its baselines: how well anomalies are found",
    ),
    "speed": ("benchmarks.speed:main", "images/s of training and scoring beside a bare torch loop"),
    "lineage": ("benchmarks.lineage:main", "one normal class: 1,000 to train on, 1,000 + 1,000 to test"),
    "one-vs-rest": ("benchmarks.one_vs_rest:main", "each class in turn is normal, all others are anomalous"),
    "leave-one-out": ("benchmarks.leave_one_out:main", "one class held out as the anomaly, class inferred"),
    "paper": ("benchmarks.paper:main", "the dCVAE paper's methods side by side, one class held out"),
    "light": ("benchmarks.light:main", "changes of light and a few labelled anomalies: VAE against DAn-VAE"),
    "inspection-light": (
        "benchmarks.inspection_light:main",
        "parts under other light, on features: false alarms as it is and with the light undone",
    ),
    "pneumonia": ("benchmarks.pneumonia:main", "chest X-rays: trained on NORMAL, beside a contrast baseline"),
    "inspection": (
        "benchmarks.inspection:main",
        "defects on parts: ours beside PaDiM, coreset kNN and contrast, on the same features",
    ),
    "false-alarms": (
        "benchmarks.false_alarms:main",
        "unseen normal parts that are flagged, over random subsets of few normal images",
    ),
    "disentanglement": (
        "benchmarks.disentanglement:main",
        "factors of generated sprites: FactorVAE score, MIG and others of each method",
    ),
}
