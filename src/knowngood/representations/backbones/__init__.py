"""Frozen nets that turn images into maps of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from knowngood.errors import SettingsError


class Backbone(Protocol):
    """A fixed function from images to feature maps. Nothing here trains it.

    One of your own is any object with these two methods; docs/guide/inspection.md has an example.

    A module is put in eval mode and moved to the device of the model; any other object is called with images on the
    CPU. Features of an image must not depend on the others of its batch.
    """

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """Images (B, 3, H, W), float32 in 0…1 → maps (B, F_i, h_i, w_i), finest first.

        Every map covers the whole image: cell (0, 0) its top left, cell (h_i − 1, w_i − 1) its bottom right. Any
        normalisation of the pixels is the backbone's own.
        """
        ...

    def fingerprint(self) -> str:
        """Names architecture and weights; two that differ in either must differ here. A saved model checks it."""
        ...


class SavedBackbone(Backbone, Protocol):
    """A backbone that is saved with the model: the function that its options name as `restore` makes it again."""

    def description(self) -> dict[str, Any]:
        """Plain JSON that, beside the options and the tensors, defines it."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors, by name."""
        ...


def check_backbone(backbone: Any) -> None:
    """Refuse what lacks a method of `Backbone`. Raises SettingsError: names what is missing and what it does."""
    for method, does in (
        ("features", "features(images) gives feature maps (B, F, h, w) of images (B, 3, H, W), the finest first"),
        ("fingerprint", "fingerprint() gives a text that names architecture and weights"),
    ):
        if isinstance(backbone, type) or not callable(getattr(backbone, method, None)):
            name = backbone.__name__ if isinstance(backbone, type) else type(backbone).__name__
            what = f"is the class {name}" if isinstance(backbone, type) else f"of type {name} has no method {method}"
            raise SettingsError(f"backbone {what}; expected an object with two methods: {does}")
