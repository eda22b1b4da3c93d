"""Tiny networks of every family with random weights, saved as Hugging Face saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

BLOCKS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1]}
FAMILIES: dict[str, dict[str, Any]] = {
    "vit": {**BLOCKS, "intermediate_size": 32},
    "deit": {**BLOCKS, "intermediate_size": 32},
    "vit_msn": {**BLOCKS, "intermediate_size": 32},
    "dinov2": BLOCKS,
    "dinov2_with_registers": {**BLOCKS, "num_register_tokens": 3},
    "dinov3_vit": {**BLOCKS, "intermediate_size": 32, "num_register_tokens": 3},
    "resnet": {**STAGES, "embedding_size": 8},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "dinov3_convnext": STAGES,
}
PREFIX = {"deit": 2, "dinov2_with_registers": 4, "dinov3_vit": 4}  # class, distillation and register tokens; else 1
MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]


def save_network(folder: Path, family: str, shard: str | None = None, **options: Any) -> Any:
    """The network that was saved to `folder`, with what its images are normalised by."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    net = AutoModel.from_config(AutoConfig.for_model(family, **{**FAMILIES[family], **options})).eval()
    with torch.no_grad():
        for p in net.parameters():  # the initial ones are so small that the layers hardly differ
            p.add_(0.1 * torch.randn_like(p))
    net.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return net
