"""How anomalous an item is: one file a score. `knowngood.config` names them; `build_score` makes one.

`scores.adjustment` corrects a score afterwards; `scores.marginal` joins the rows of an item of unknown condition.
"""

from knowngood.config import Options
from knowngood.scores.adjustment import Adjustment, scored
from knowngood.scores.base import Score, ScoreResult

__all__ = ["Adjustment", "Score", "ScoreResult", "build_score", "scored"]


def build_score(options: Options) -> Score:
    """The score of these options."""
    return options.build()
