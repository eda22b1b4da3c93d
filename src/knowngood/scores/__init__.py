"""How odd an item is: one file a family. `knowngood.config` names them; `build_score` makes one.

`scores.marginal` puts the rows of an item of unknown condition together.
"""

from knowngood.config import WAIC, Fusion, Options, Settings
from knowngood.errors import SettingsError
from knowngood.scores.base import Score, ScoreResult

__all__ = ["Score", "ScoreResult", "build_score"]


def build_score(options: Options, settings: Settings) -> Score:
    """The score of these options: on patches where there are features, over views, and adjusted for light, as asked.

    Of a fusion each score is so before they are fused: one view alone says too little of what is usual.
    """
    if settings.features != "none":
        from knowngood.scores.patches import PatchScore

        return PatchScore(options.build(), settings.features.smoothing)
    if isinstance(options, Fusion):
        return options.build(lambda inner: build_score(inner, settings))
    if isinstance(options, WAIC) and settings.ensemble < 2:
        raise SettingsError("score 'waic' is what the models of an ensemble disagree on; set ensemble=5, say")
    score: Score = options.build()
    if settings.ensemble > 1 and not isinstance(options, WAIC):
        from knowngood.scores.ensemble import EnsembleScore

        score = EnsembleScore(score)
    if settings.augment_condition:
        from knowngood.scores.views import ViewScore

        score = ViewScore(score)
    if settings.light_tolerance is None:
        return score
    from knowngood.scores.steady import SteadyScore

    return SteadyScore(score, settings.light_tolerance)
