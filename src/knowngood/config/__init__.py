"""Everything a user can set, once: the same models behind Python, YAML and the command line. Imports no torch.

A choice (representation, model, objective, score, ...) is a union of small option models told apart by `name`; each
names the class that carries it out, so the union is the registry. A plain string stands for a choice with its defaults.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knowngood.config.base import Group, Options, implementation, loaded
    from knowngood.config.groups import CalibrationOptions, Conditioning, DataOptions, Role, TrainingOptions
    from knowngood.config.installed import plugins
    from knowngood.config.models import (
        MemoryBankOptions,
        ModelOptions,
        PatchGaussianOptions,
        SharedGaussianOptions,
        VAEOptions,
    )
    from knowngood.config.nets import (
        MLP,
        Bernoulli,
        Conv,
        EluPool,
        Gaussian,
        LikelihoodOptions,
        NetOptions,
        StridedBatchNorm,
    )
    from knowngood.config.objectives import (
        CVAE,
        DANVAE,
        DCVAE,
        DIPVAE,
        RFVAE,
        TCVAE,
        VAE,
        BetaVAE,
        CorEx,
        FactorVAE,
        InfoVAE,
        ObjectiveOptions,
        TCOptions,
    )
    from knowngood.config.parsing import choices, parse, parse_settings, read_settings, read_yaml
    from knowngood.config.representations import (
        AutoOptions,
        BackboneOptions,
        EfficientNetLite0,
        EfficientNetLite1,
        EfficientNetLite2,
        FeatureOptions,
        HOGOptions,
        ImageOptions,
        LiteOptions,
        ONNXBackbone,
        OwnBackbone,
        PixelOptions,
        RepresentationOptions,
        TableOptions,
        TransformersBackbone,
    )
    from knowngood.config.scores import (
        IWAE,
        KL,
        Elbo,
        Fusion,
        Gradient,
        GradientMap,
        InputComplexity,
        LikelihoodRegret,
        Mahalanobis,
        Neighbours,
        PatchDistance,
        PriorDistance,
        Reconstruction,
        ReconstructionProbability,
        Restoration,
        ScoreChoice,
        ScoreOptions,
        SplitElbo,
        Typicality,
    )
    from knowngood.config.settings import Settings, Shift
    from knowngood.config.words import counted, nearest

_MODULES = (
    "words", "installed", "base", "groups", "nets", "objectives", "models", "representations", "scores", "settings",
    "parsing",
)  # fmt: skip

__all__ = [
    "CVAE", "DANVAE", "DCVAE", "DIPVAE", "IWAE", "KL", "MLP", "RFVAE", "TCVAE", "VAE", "AutoOptions",
    "BackboneOptions", "Bernoulli", "BetaVAE", "CalibrationOptions", "Conditioning", "Conv", "CorEx", "DataOptions",
    "EfficientNetLite0", "EfficientNetLite1", "EfficientNetLite2", "Elbo", "EluPool", "FactorVAE", "FeatureOptions",
    "Fusion", "Gaussian", "Gradient", "GradientMap", "Group", "HOGOptions", "ImageOptions", "InfoVAE",
    "InputComplexity", "LikelihoodOptions", "LikelihoodRegret", "LiteOptions", "Mahalanobis", "MemoryBankOptions",
    "ModelOptions", "Neighbours", "NetOptions", "ONNXBackbone", "ObjectiveOptions", "Options", "OwnBackbone",
    "PatchDistance", "PatchGaussianOptions", "PixelOptions", "PriorDistance", "Reconstruction",
    "ReconstructionProbability", "RepresentationOptions", "Restoration", "Role", "ScoreChoice", "ScoreOptions",
    "Settings", "SharedGaussianOptions", "Shift", "SplitElbo", "StridedBatchNorm", "TCOptions", "TableOptions",
    "TrainingOptions",
    "TransformersBackbone", "Typicality", "VAEOptions", "choices", "counted", "implementation", "loaded", "nearest",
    "parse", "parse_settings", "plugins", "read_settings", "read_yaml",
]  # fmt: skip


def __getattr__(name: str) -> object:
    # pydantic takes a third of a second; what only needs words does without.
    for module in _MODULES if name in __all__ else ():
        found = vars(import_module(f"knowngood.config.{module}"))
        if name in found:
            return found[name]
    raise AttributeError(f"module 'knowngood.config' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
