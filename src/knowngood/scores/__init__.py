"""How odd an item is: one file a family. `knowngood.config` names them; `build_score` makes one.

`scores.marginal` puts the rows of an item of unknown condition together.
"""

from knowngood.config import Options, Settings
from knowngood.scores.base import Score, ScoreResult

__all__ = ["Score", "ScoreResult", "build_score"]


def build_score(options: Options, settings: Settings) -> Score:
    """The score of these options, on patches where there are features, adjusted for light where that is asked for."""
    score: Score = options.build()
    if settings.features != "none":
        from knowngood.scores.patches import PatchScore

        return PatchScore(score, settings.features.smoothing)
    if settings.light_tolerance is None:
        return score
    from knowngood.scores.steady import SteadyScore

    return SteadyScore(score, settings.light_tolerance)
