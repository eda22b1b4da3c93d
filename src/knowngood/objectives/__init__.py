"""What is minimised: one file a method. `knowngood.config` names them; `Options.build()` makes one."""

from knowngood.objectives.base import Batch, Context, Objective, elbo_terms

__all__ = ["Batch", "Context", "Objective", "elbo_terms"]
