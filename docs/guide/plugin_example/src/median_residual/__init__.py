"""An anomaly score for knowngood: a quantile of the absolute residual."""
