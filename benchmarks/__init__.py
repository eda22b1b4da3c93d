"""Protocols that measure the library. Each is a command: `python -m benchmarks NAME`.

`BENCHMARKS` maps a name to 'module:function' and one line about it. The function is imported when it is run; its
keyword arguments, with their annotations, are the options of the command.
"""

from __future__ import annotations

BENCHMARKS: dict[str, tuple[str, str]] = {
    "accuracy": (
        "benchmarks.accuracy:main",
        "detection accuracy on every track, with baselines",
    ),
    "speed": ("benchmarks.speed:main", "speed of training and scoring, compared with a bare torch loop"),
    "peers": ("benchmarks.peers:main", "speed beside Pythae and PyOD: training, time to the same ELBO, scoring"),
    "growth": (
        "benchmarks.growth:main",
        "how the cost of fit and score grows with images, pixels, D, batch, conditions, bank",
    ),
    "lineage": ("benchmarks.lineage:main", "one normal class: 1,000 to train on, 1,000 + 1,000 to test"),
    "one-vs-rest": ("benchmarks.one_vs_rest:main", "each class in turn is normal, all others are anomalous"),
    "leave-one-out": ("benchmarks.leave_one_out:main", "one class held out as the anomaly, the class inferred at test"),
    "paper": ("benchmarks.paper:main", "the methods of the dCVAE paper, one class held out"),
    "light": ("benchmarks.light:main", "changes of illumination and few labelled anomalies: VAE and DAn-VAE"),
    "dan-vae": (
        "benchmarks.dan_vae:main",
        "DAn-VAE's sweep: z_a, labelled anomalies, darkened images; brightness read from z_n and from z_a",
    ),
    "pneumonia": ("benchmarks.pneumonia:main", "chest X-rays: trained on NORMAL, with a contrast baseline"),
    "large": ("benchmarks.large_pictures:main", "small scratches on large pictures: one view, tiles"),
    "inspection": (
        "benchmarks.inspection:main",
        "defects on parts: ours, PaDiM, coreset kNN, one Gaussian, subspace residual, on the same features",
    ),
    "corruptions": (
        "benchmarks.corruptions:main",
        "parts under other light, cameras and poses: false alarms and detections at one fixed threshold",
    ),
    "conditions": (
        "benchmarks.conditions:main",
        "images wrong for what they are said to be: ours, classifiers, nearest neighbours, a detector a class",
    ),
    "mixtures": (
        "benchmarks.mixtures:main",
        "several products or views in one model: with the group as a condition, pooled, and a model a group",
    ),
    "false-alarms": (
        "benchmarks.false_alarms:main",
        "false-alarm rate of new normal parts, over random subsets of few normal images",
    ),
    "few-images": (
        "benchmarks.false_alarms:few_images",
        "5 to 50 normal images: AUROC and false alarms over random subsets, on the dev form",
    ),
    "few-defects": (
        "benchmarks.few_defects:main",
        "one, two or five known defects of a kind: others of the kind, other kinds, false alarms",
    ),
    "reviews": (
        "benchmarks.reviews:main",
        "10 false alarms and 5 missed defects marked by a person: others of their kind before and after",
    ),
    "calibration": (
        "benchmarks.calibration:main",
        "promised and measured false-alarm rates over random divisions and refits",
    ),
    "export": ("benchmarks.export:main", "exported models against the models themselves, seven ways of scoring"),
    "precision": ("benchmarks.precision:main", "an exported model in fp32, fp16, int8: size, speed, ranking, verdicts"),
    "fuzz": ("benchmarks.fuzz.run:main", "mutated pictures, archives, manifests and models: each is read or refused"),
    "kill": (
        "benchmarks.kill:main",
        "commands killed at random moments: outputs whole or absent, the same bits in the end",
    ),
    "many": ("benchmarks.many:main", "a million small images scored in one run: memory, pace, open files"),
    "cluster": ("benchmarks.cluster:main", "images a second of one and two workers of Ray, and of one process"),
    "serve": ("benchmarks.serve:main", "the HTTP server under load: errors, throughput, latencies"),
    "soak": ("benchmarks.soak:main", "the server under steady load: its memory over time"),
    "watch": ("benchmarks.watch:main", "files arrive while the watching process is killed: each judged once"),
    "start": ("benchmarks.start:main", "server and runtime from start to first verdict: seconds and memory"),
    "monitor": ("benchmarks.monitor:main", "monitor of drift: false alarms of streams, and delays after a shift"),
    "disentanglement": (
        "benchmarks.disentanglement:main",
        "FactorVAE score, MIG and other metrics of each method on generated sprites",
    ),
    "total-correlation": (
        "benchmarks.total_correlation:main",
        "gradients of the estimates of TC, and TC within a class of CVAE and dCVAE",
    ),
    "drift": (
        "benchmarks.drift:main",
        "a drift that was declared harmless: scores with and without the dimensions of its factors",
    ),
}
