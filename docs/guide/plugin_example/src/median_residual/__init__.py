"""For knowngood: a quantile of the absolute residual as anomaly score, and a VAE with an annealed KL."""
