"""How anomalous an item is: one file a score. `knowngood.config` names them; `Options.build()` makes one.

`scores.adjustment` corrects a score afterwards; `scores.marginal` joins the rows of an item of unknown condition.
"""

from knowngood.scores.adjustment import Adjustment, scored
from knowngood.scores.base import Score, ScoreResult

__all__ = ["Adjustment", "Score", "ScoreResult", "scored"]
