"""`python -m benchmarks fuzz`: mutated pictures, archives, manifests and models; each is read or refused by name."""
