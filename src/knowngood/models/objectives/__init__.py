"""What is minimised: one file a method. `knowngood.config` names them; `Options.build()` makes one."""

from knowngood.models.objectives.base import Context, ElboTerms, Objective, elbo_terms

__all__ = ["Context", "ElboTerms", "Objective", "elbo_terms"]
