"""The training loop: data on the device or streamed, samplers, players, averages, checkpoints."""

from knowngood.models.base import BatchSource
from knowngood.training.loop import History, train
from knowngood.training.sampler import PlainSampler, StratifiedSampler
from knowngood.training.source import Source, StreamSource

__all__ = ["BatchSource", "History", "PlainSampler", "Source", "StratifiedSampler", "StreamSource", "train"]
