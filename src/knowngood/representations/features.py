"""Images as features of a frozen backbone on a grid of cells, and the way back for maps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, PrivateAttr
from torch import Tensor, nn

from knowngood.config import FeatureOptions, LiteOptions
from knowngood.data.columns import Column
from knowngood.data.imageset import ImageSet
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.representations.alignment.references import References, Registered, as_it_is
from knowngood.representations.alignment.warping import Transform, unwarp
from knowngood.representations.backbones import Backbone
from knowngood.representations.backbones.efficientnet_lite import EfficientNetLite
from knowngood.representations.pixels import Pixels

IMAGE_SIZE = 384  # both sides, where the settings say nothing
HALF_LIMIT = 6e4  # float16 ends at 65,504
ROUNDING = 0.01  # of a feature's spread that rounding to float16 may cost
PROBED = 8  # training images that show what the features are like
TOGETHER, TOGETHER_ON_CPU = 64, 2  # images that go through the backbone at a time: on a CPU few stay in its cache
NOT_FINITE = "its features are NaN or infinite"
REFERENCES = "references."  # begins the names of the tensors that are not the backbone's


class Features(BaseModel):
    """How images become features (F, h, w). Fitted once; plain JSON, and a backbone beside it.

    Images are prepared by `pixels`, scaled to 0…1, and brought to their usual place and light if the settings `align`
    and `illumination` say so; grey ones become three equal channels. Every map of the backbone is averaged over
    `average`² cells, borders over what they have, brought to `grid` and put below the others (arXiv:2106.08265,
    section 3.1, keeps places in the same way).

    grid: (h, w), the image's sides over `stride`, rounded.
    widths: features of each map; their sum is F.
    fingerprint: of the backbone; another is refused.
    stored: how features are kept, float16 unless rounding to it would cost some of them 1 % of their spread.
    references: what is usual, None where images are taken as they are. Kinds of image are told apart by the conditions
        that the images carry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: FeatureOptions
    pixels: Pixels
    grid: tuple[int, int]
    widths: tuple[int, ...]
    fingerprint: str
    stored: Literal["float16", "float32"]
    references: References | None = None

    _backbone: Any = PrivateAttr(None)
    _device: torch.device = PrivateAttr(torch.device("cpu"))

    @classmethod
    def fit(
        cls,
        images: ImageSet,
        options: FeatureOptions,
        backbone: Backbone | None = None,
        columns: tuple[Column, ...] = (),
    ) -> Features:
        """From the training images and `settings.features`. Without an `image_size` they become 384×384.

        Args:
            backbone: one of your own, for the features "own" only.
            columns: conditions of the images, by which kinds of image have a usual place and light of their own.

        Raises:
            SettingsError: no features are set, the backbone or its weights are missing or superfluous, or the grid is
                finer or coarser than can be.
            DataError: as `Pixels.fit` and `References.fit`; images with other than 1 or 3 channels; a backbone that
                breaks its contract.
        """
        if backbone is None:
            backbone = options.backbone.build()
        elif options.backbone.name != "own":
            raise SettingsError(
                f"a backbone object of your own goes with backbone='own', not with '{options.backbone.name}'; set "
                "representation={'name': 'features', 'backbone': 'own'}"
            )
        assert backbone is not None
        sized = options if options.image_size else options.model_copy(update={"image_size": IMAGE_SIZE})
        pixels = Pixels.fit(images, sized)
        channels, height, width = pixels.shape
        if channels not in (1, 3):
            raise DataError(f"features are of grey or colour images; these have {channels} channels")
        if options.stride > min(height, width):
            raise SettingsError(
                f"features: stride = {options.stride} is larger than the resized image, {height}×{width}"
            )
        found = cls(
            options=options,
            pixels=pixels,
            grid=(round(height / options.stride), round(width / options.stride)),
            widths=(),
            fingerprint=backbone.fingerprint(),
            stored="float32",
            references=References.fit(images, pixels, sized, columns),
        )
        found._adopt(backbone)
        chosen = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))
        prepared, errors = pixels.read(images, chosen)
        if errors:
            first = min(errors)
            raise DataError(f"{images.ids[first]}: {errors[first]}")
        maps = found._maps(found._register(prepared, found._kinds(images, chosen)).images)
        probe = found._on_grid(maps)
        if not probe.isfinite().all():
            raise DataError(f"{images.name}: the backbone makes NaN or infinite features of the training images")
        fitted = found.model_copy(
            update={
                "widths": tuple(m.shape[1] for m in maps),
                "stored": "float16" if _fits_half(probe) else "float32",
            }
        )
        fitted._adopt(backbone)
        return fitted

    # What the nets see ----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int]:
        """(F, h, w) of a prepared image."""
        return (sum(self.widths), *self.grid)

    @property
    def bytes_per_image(self) -> int:
        """Memory of one prepared image."""
        return int(np.prod(self.shape)) * np.dtype(self.stored).itemsize

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Raise DataError if an image (h, w, c) of this dtype does not fit."""
        self.pixels.check(shape, dtype)

    def prepare(self, image: np.ndarray, conditions: Mapping[str, Any] | None = None) -> np.ndarray:
        """One image (h, w, c), with what is known of it, → its features (F, h, w), as `read` gives them.

        Raises:
            DataError: the image does not fit the model, or its features are not finite.
        """
        told = {name: np.array([value], dtype=object) for name, value in (conditions or {}).items()}
        kinds = None if self.references is None else self.references.kinds(told, 1)
        values = self._features(self._register(self.pixels.prepare(image)[None], kinds).images)
        if not np.isfinite(values).all():
            raise DataError(NOT_FINITE)
        return values.astype(self._holding(values))[0]

    def read(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """`read_and_locate` without the places."""
        return self.read_and_locate(images, index, workers)[:2]

    def read_and_locate(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str], list[Transform]]:
        """The images at `index` (M,), default all, prepared: (M, F, h, w); why some could not be, by index; and where
        each one lay, see `transforms`.

        Those have zeros. The dtype is `stored`, or float32 if some feature of these images is beyond float16.
        `workers`: threads that read and prepare files.

        Raises:
            DataError: images of an array, all alike, do not fit.
        """
        index = np.arange(len(images)) if index is None else index
        found = np.zeros((len(index), *self.shape), dtype=self.stored)
        errors: dict[int, str] = {}
        transforms: list[Transform] = []
        together = TOGETHER_ON_CPU if self._device.type == "cpu" else TOGETHER
        for start in range(0, len(index), together):
            rows = index[start : start + together]
            prepared, bad = self.pixels.read(images, rows, workers)
            registered = self._register(prepared, self._kinds(images, rows))
            values = self._features(registered.images)
            finite = np.isfinite(values).reshape(len(rows), -1).all(axis=1)
            transforms += self._transforms(registered, rows, bad)
            bad = {**{int(i): NOT_FINITE for i in rows[~finite]}, **bad}
            values[[int(i) in bad for i in rows]] = 0
            found = found.astype(np.result_type(found, self._holding(values)), copy=False)
            found[start : start + len(rows)] = values
            errors.update(bad)
        return found, errors, transforms

    def scale(self, batch: Tensor) -> Tensor:
        """Prepared features (B, F, h, w) → float32."""
        return batch.float()

    def unscale(self, x: Tensor) -> Tensor:
        """Features as they are: they have no other units."""
        return x

    def transforms(self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0) -> list[Transform]:
        """Where each of the images at `index` (M,), default all, lay; those not `accepted` are seen as they lie."""
        return self._found(images, index, workers)[0]

    def illumination_factors(self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0) -> np.ndarray:
        """How many times as light as usual the images at `index` are, (M,): .82 is 18 % darker.

        All of that is undone within `illumination_limits`, else as far as these. NaN without `illumination`, for an image
        that cannot be read, or whose kind is not known.
        """
        return self._found(images, index, workers)[1]

    def illumination_limits(self, images: ImageSet, index: np.ndarray | None = None) -> np.ndarray:
        """(M, 2) the smallest and the largest factor of light that is undone in each image; NaN as for `light`."""
        index = np.arange(len(images)) if index is None else index
        limits = np.full((len(index), 2), np.nan)
        kinds = self._kinds(images, index)
        if self.references is not None and kinds is not None:
            for row, kind in zip(limits, kinds.tolist(), strict=True):
                light = self.references.references[kind].illumination if kind >= 0 else None
                row[:] = (light.low, light.high) if light is not None else np.nan
        return limits

    def to_image(
        self, map: np.ndarray, source_shape: tuple[int, ...], transform: Transform | None = None
    ) -> np.ndarray:
        """Maps over the grid (..., h, w) → (..., H, W) float32 over the source image of shape (H, W[, C]).

        Bilinear between the centres of cells, constant beyond the outermost; by `transform` to where the image lay, the
        smallest value where it shows what aligned images do not; then as `Pixels.to_image`.
        """
        if map.shape[-2:] != self.grid:
            raise ValueError(f"a map has shape {map.shape}; expected (..., {self.grid[0]}, {self.grid[1]})")
        flat = torch.from_numpy(np.ascontiguousarray(map, dtype=np.float32).reshape(-1, 1, *self.grid))
        size = self.pixels.shape[1:]
        whole = F.interpolate(flat, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()
        if transform is not None and not transform.identity:
            lowest = np.fmin.reduce(whole, axis=(1, 2))
            whole = np.stack([unwarp(m - low, transform, size) + low for m, low in zip(whole, lowest, strict=True)])
        return self.pixels.to_image(whole.reshape(*map.shape[:-2], *size), source_shape)

    # The backbone ---------------------------------------------------------------------------------------------------

    def to(self, device: str | torch.device) -> Features:
        """Move the backbone to a device, in place, if it is a module; `read` and `prepare` work there."""
        if isinstance(self._backbone, nn.Module):
            self._backbone.to(device)
            self._device = torch.device(device)
        return self

    def state(self) -> dict[str, Tensor]:
        """What a saved model keeps: the backbone's folded weights, nothing of one of your own; and what is usual."""
        usual = {} if self.references is None else self.references.tensors()
        weights = dict(self._ready().state_dict()) if isinstance(self.options.backbone, LiteOptions) else {}
        return weights | {REFERENCES + name: tensor for name, tensor in usual.items()}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Features:
        """A copy with the backbone that `tensors` gave; one of your own still has to come by `with_backbone`.

        Raises:
            ArtifactError: they are not the tensors of this backbone, or what is usual is missing.
        """
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(REFERENCES)}
        if self.references is not None:
            usual = {name.removeprefix(REFERENCES): t for name, t in tensors.items() if name not in weights}
            loaded = self.model_copy(update={"references": self.references.with_tensors(usual)})
        else:
            loaded = self.model_copy()
        if not isinstance(self.options.backbone, LiteOptions):
            return loaded
        net = EfficientNetLite(self.options.backbone.name, self.options.backbone.blocks)
        try:
            net.load_state_dict(weights)
        except RuntimeError as error:
            raise ArtifactError(f"these are no tensors of {self.options.backbone.name}: {error}") from None
        return loaded.with_backbone(net.to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    def with_backbone(self, backbone: Backbone) -> Features:
        """A copy with this backbone.

        Raises:
            ArtifactError: it is not the one that the model was fitted with.
        """
        given = backbone.fingerprint()
        if given != self.fingerprint:
            raise ArtifactError(
                f"the model was fitted on features of the backbone '{self.fingerprint}'; this one is '{given}'"
            )
        copy = self.model_copy()
        copy._adopt(backbone)
        return copy

    # Inside ---------------------------------------------------------------------------------------------------------

    def _adopt(self, backbone: Backbone) -> None:
        self._backbone, self._device = backbone, torch.device("cpu")
        if isinstance(backbone, nn.Module):
            backbone.eval()
            tensors = chain(backbone.parameters(), backbone.buffers())
            self._device = next((t.device for t in tensors), self._device)

    def _ready(self) -> Any:
        if self._backbone is None:
            raise ArtifactError(
                f"this model scores features of a backbone of your own, '{self.fingerprint}', which a saved model does "
                "not hold; pass the object as backbone="
            )
        return self._backbone

    def _kinds(self, images: ImageSet, index: np.ndarray) -> np.ndarray | None:
        """(M,) which reference each image has, where there are any."""
        if self.references is None:
            return None
        conditions = {name: np.asarray(values)[index] for name, values in images.conditions.items()}
        return self.references.kinds(conditions, len(index))

    def _register(self, prepared: np.ndarray, kinds: np.ndarray | None) -> Registered:
        """Prepared pixels (B, C, H, W) → scaled, at their usual place and light."""
        x = torch.from_numpy(prepared)
        if self.references is not None and kinds is not None:
            return self.references.register(self.pixels.scale(x), kinds)
        return Registered(self.pixels.scale(x.to(self._device)), [], np.full(len(x), np.nan))

    def _found(self, images: ImageSet, index: np.ndarray | None, workers: int) -> tuple[list[Transform], np.ndarray]:
        """Where images lay and how light they were."""
        index = np.arange(len(images)) if index is None else index
        if self.references is None:
            return self._transforms(None, index, {}), np.full(len(index), np.nan)
        transforms: list[Transform] = []
        factors: list[float] = []
        for start in range(0, len(index), TOGETHER):
            rows = index[start : start + TOGETHER]
            prepared, bad = self.pixels.read(images, rows, workers)
            registered = self._register(prepared, self._kinds(images, rows))
            transforms += self._transforms(registered, rows, bad)
            factors += np.where(np.isin(rows, list(bad)), np.nan, registered.factors).tolist()
        return transforms, np.array(factors)

    def _transforms(self, registered: Registered | None, rows: np.ndarray, bad: Mapping[int, str]) -> list[Transform]:
        """Where the images `rows` lay, and of those in `bad` why that is not known."""
        size = self.pixels.shape[1:]
        found = (
            registered.transforms
            if registered is not None and registered.transforms
            else [as_it_is(size) for _ in rows]
        )
        return [as_it_is(size, bad[i]) if i in bad else one for i, one in zip(rows.tolist(), found, strict=True)]

    def _features(self, images: Tensor) -> np.ndarray:
        """Scaled images (B, C, H, W) → (B, F, h, w) float32."""
        return self._on_grid(self._maps(images)).cpu().numpy()

    @torch.no_grad()
    def _maps(self, images: Tensor) -> list[Tensor]:
        """Scaled images (B, C, H, W) → the backbone's maps (B, F_i, h_i, w_i), checked."""
        images = images.to(self._device)
        maps = list(self._ready().features(images.expand(-1, 3, -1, -1)))
        shapes = [tuple(m.shape) for m in maps]
        if not maps or any(len(shape) != 4 or shape[0] != len(images) for shape in shapes):
            raise DataError(
                f"the backbone made {shapes} of {len(images)} images; expected maps ({len(images)}, F, h, w)"
            )
        if self.widths and tuple(shape[1] for shape in shapes) != self.widths:
            told = " and ".join(map(str, self.widths))
            raise DataError(f"the backbone made {shapes}; the model was fitted on maps of {told} features")
        return maps

    @torch.no_grad()
    def _on_grid(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, F_i, h_i, w_i) → averaged, on the grid, one below the other: (B, F, h, w) float32."""
        side, found = self.options.average, []
        for m in maps:
            m = F.avg_pool2d(m.float(), side, 1, side // 2, count_include_pad=False) if side > 1 else m.float()
            if tuple(m.shape[-2:]) != self.grid:
                m = F.interpolate(m, size=self.grid, mode="bilinear", align_corners=False, antialias=True)
            found.append(m)
        return torch.cat(found, dim=1)

    def _holding(self, values: np.ndarray) -> str:
        """The dtype that holds these values."""
        return "float32" if values.size and float(np.abs(values).max()) > HALF_LIMIT else self.stored


def _fits_half(values: Tensor) -> bool:
    """Whether float16 holds (B, F, h, w) well: rounding costs no feature more than a small share of its spread."""
    if not float(values.abs().amax()) <= HALF_LIMIT:
        return False
    each = values.double().transpose(0, 1).flatten(1)  # (F, ·)
    spread = each.std(1, correction=0)
    lost = (each.half().double() - each).std(1, correction=0)
    constant = spread <= 1e-6 * each.abs().amax(1)  # but for float32's own rounding
    return bool((constant | (lost <= ROUNDING * spread)).all())
