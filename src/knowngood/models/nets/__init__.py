"""Encoders and decoders, and the likelihoods that read what a decoder gives.

A net is an `nn.Module` built as `Net(options, shape, condition_dim, latent_dim, outputs)` with
`encode(x, c) → (B, 2·latent_dim)` and `decode(z, c) → (B, outputs·C, H, W)`; c is None when condition_dim is 0.
"""
