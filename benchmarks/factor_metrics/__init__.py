"""How well codes and known factors match: arrays in, numbers out.

Codes are (N, D) floats, posterior means unless a metric says otherwise. Factors are (N, K), or (N,) for one: numbers or
text, at least two values each. Which numeric factors are categories, not amounts, is said by `categorical`, the
positions of their columns; text always is. All metrics but the total correlation need the true factors. None says
whether a model is any good at reconstruction.
"""

from benchmarks.factor_metrics.beta_vae import beta_vae_score
from benchmarks.factor_metrics.dci import Dci, dci, dci_of
from benchmarks.factor_metrics.factor_vae import FactorVaeScore, factor_vae_score
from benchmarks.factor_metrics.gap import Gap
from benchmarks.factor_metrics.gaussian_tc import gaussian_total_correlation
from benchmarks.factor_metrics.mig import mutual_information_gap
from benchmarks.factor_metrics.modularity import modularity, modularity_of
from benchmarks.factor_metrics.probe import LinearProbe, linear_probe
from benchmarks.factor_metrics.sap import sap

__all__ = [
    "Dci",
    "FactorVaeScore",
    "Gap",
    "LinearProbe",
    "beta_vae_score",
    "dci",
    "dci_of",
    "factor_vae_score",
    "gaussian_total_correlation",
    "linear_probe",
    "modularity",
    "modularity_of",
    "mutual_information_gap",
    "sap",
]
