"""How odd an item is: one file a family. `knowngood.config` names them; `Options.build()` makes one.

`scores.marginal` puts the rows of an item of unknown condition together.
"""

from knowngood.scores.base import Score, ScoreResult

__all__ = ["Score", "ScoreResult"]
