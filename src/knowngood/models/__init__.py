"""What learns from tensors: the conditional VAE with its nets and objectives, and Gaussians of locations."""
