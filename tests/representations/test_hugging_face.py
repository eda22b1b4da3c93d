"""Networks of Hugging Face: the maps are those of the library; what is refused; a saved model is complete."""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood import Detector
from knowngood.config import TransformersBackbone
from knowngood.detector.explain.deviations import feature_names
from knowngood.errors import ArtifactError, SettingsError
from knowngood.representations.backbones.hugging_face import load_hugging_face, restore_hugging_face
from tiny_networks import FAMILIES, MEAN, PREFIX, STD, save_network

pytestmark = pytest.mark.slow  # the import of the library takes seconds
TOKENS = [family for family in FAMILIES if "patch_size" in FAMILIES[family]]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    folder = tmp_path_factory.mktemp("networks")
    return {family: (folder / family, save_network(folder / family, family)) for family in FAMILIES}


def images(height: int = 16, width: int = 24, n: int = 2) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def by_library(net: Any, family: str, layers: tuple[int, ...], x: Tensor) -> list[Tensor]:
    """The maps from the hidden states of the whole network."""
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    given = {"interpolate_pos_encoding": True} if family in ("vit", "deit", "vit_msn") else {}
    with torch.no_grad():
        states = net(pixel_values=x, output_hidden_states=True, **given).hidden_states
        if family not in TOKENS:
            return [states[layer] for layer in layers]
        norm = net.norm if family == "dinov3_vit" else net.layernorm
        grid = x.shape[2] // 4, x.shape[3] // 4
        tokens = [norm(states[layer])[:, PREFIX.get(family, 1) :] for layer in layers]
        return [t.reshape(len(x), *grid, -1).permute(0, 3, 1, 2) for t in tokens]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_maps_are_those_of_the_library(networks: dict[str, tuple[Path, Any]], family: str) -> None:
    folder, whole = networks[family]
    layers, size = ((1, 2, 3), (32, 48)) if family not in TOKENS else ((1, 3), (16, 24))
    net = load_hugging_face(TransformersBackbone(source=str(folder), layers=layers))
    x = images(*size)
    found, wanted = net.features(x), by_library(whole, family, layers, x)
    assert len(found) == len(layers)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=0, atol=1e-6)
    assert all(not p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("dinov2", "Dinov2Backbone"),
        ("dinov2_with_registers", "Dinov2WithRegistersBackbone"),
        ("dinov3_vit", "DINOv3ViTBackbone"),
        ("resnet", "ResNetBackbone"),
    ],
)
def test_the_maps_are_those_of_the_backbones_of_the_library(
    networks: dict[str, tuple[Path, Any]], family: str, name: str
) -> None:
    import transformers

    folder, _ = networks[family]
    whole = getattr(transformers, name).from_pretrained(folder, out_indices=[1, 2, 3], local_files_only=True).eval()
    x = images(32, 32)
    with torch.no_grad():
        wanted = whole((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).feature_maps
    found = load_hugging_face(TransformersBackbone(source=str(folder), layers=(1, 2, 3))).features(x)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=0, atol=1e-6)


def test_default_layers_and_only_these_are_kept(networks: dict[str, tuple[Path, Any]]) -> None:
    for family, layers in {"dinov2": (1, 2, 3), "resnet": (1, 2, 3), "convnext": (1, 2, 3)}.items():
        folder, whole = networks[family]
        net = load_hugging_face(TransformersBackbone(source=str(folder)))
        assert net.layers == layers
        kept, full = (sum(t.numel() for t in one.state_dict().values()) for one in (net, whole))
        assert kept < full


@pytest.mark.parametrize(("family", "multiple"), [("dinov2", 4), ("dinov3_vit", 4), ("convnext", 16)])
def test_other_sides_are_resized_to_the_next_multiple(
    networks: dict[str, tuple[Path, Any]], family: str, multiple: int
) -> None:
    net = load_hugging_face(TransformersBackbone(source=str(networks[family][0])))
    x = images(multiple + 1, 2 * multiple - 1)
    resized = torch.nn.functional.interpolate(x, size=(2 * multiple, 2 * multiple), mode="bilinear")
    for f, w in zip(net.features(x), net.features(resized), strict=True):
        torch.testing.assert_close(f, w, rtol=0, atol=0)


def test_an_image_does_not_depend_on_its_batch(networks: dict[str, tuple[Path, Any]]) -> None:
    for family in ("dinov2", "resnet"):
        net = load_hugging_face(TransformersBackbone(source=str(networks[family][0])))
        x = images(n=3)
        for together, alone in zip(net.features(x), net.features(x[1:2]), strict=True):
            torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)


def test_sharded_weights_and_half_precision_and_a_classifier_give_the_same_maps(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    x = images()
    for family in ("dinov2", "resnet"):
        whole = save_network(tmp_path / family, family)
        wanted = load_hugging_face(TransformersBackbone(source=str(tmp_path / family))).features(x)
        save_network(tmp_path / f"{family}-parts", family, shard="8KB")
        assert len(list((tmp_path / f"{family}-parts").glob("model-*.safetensors"))) > 1
        classifier = AutoModelForImageClassification.from_config(whole.config)
        classifier.base_model.load_state_dict(whole.state_dict())
        classifier.save_pretrained(tmp_path / f"{family}-classifier")
        shutil.copy(tmp_path / family / "preprocessor_config.json", tmp_path / f"{family}-classifier")
        for kind in ("parts", "classifier"):
            found = load_hugging_face(TransformersBackbone(source=str(tmp_path / f"{family}-{kind}"))).features(x)
            assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))
        whole.bfloat16().save_pretrained(tmp_path / f"{family}-half")
        shutil.copy(tmp_path / family / "preprocessor_config.json", tmp_path / f"{family}-half")
        half = load_hugging_face(TransformersBackbone(source=str(tmp_path / f"{family}-half"))).features(x)
        assert all(
            f.dtype == torch.float32 and torch.allclose(f, w, atol=0.2) for f, w in zip(half, wanted, strict=True)
        )


def test_normalisation_is_read_from_the_folder_or_said(tmp_path: Path) -> None:
    for family, mean in {"dinov2": 0.485, "vit": 0.5}.items():
        folder = tmp_path / family
        save_network(folder, family)
        written = folder / "preprocessor_config.json"
        written.unlink()
        with pytest.warns(UserWarning, match=r"no preprocessor_config\.json; .* as usual for"):
            net = load_hugging_face(TransformersBackbone(source=str(folder)))
        assert net.mean[0] == pytest.approx(mean)
        written.write_text(json.dumps({"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1] * 3}))
        net = load_hugging_face(TransformersBackbone(source=str(folder)))  # 2 x - 1
        assert (net.mean[0], net.std[0]) == (0.5, 0.5)
        written.write_text(json.dumps({"do_normalize": False, "image_mean": MEAN, "image_std": STD}))
        net = load_hugging_face(TransformersBackbone(source=str(folder)))
        assert (net.mean[0], net.std[0]) == (0, 1)
        written.write_text(json.dumps({"image_mean": [0.5], "image_std": [0, 1, 1]}))
        with pytest.raises(SettingsError, match="image_mean and image_std must be three numbers"):
            load_hugging_face(TransformersBackbone(source=str(folder)))


def test_what_is_no_such_network_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_network(tmp_path / "good", "dinov2")

    def changed(name: str, **settings: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "good", folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **settings}))
        return folder

    (tmp_path / "empty").mkdir()
    text, grey = changed("text", model_type="bert"), changed("grey", num_channels=1)
    none, wide = changed("none", model_type=None), changed("wide", hidden_size=32)
    pickled, without = changed("pickled"), changed("without")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (without / "model.safetensors").unlink()
    damaged, deeper = changed("damaged"), changed("deeper", num_hidden_layers=8)
    (damaged / "model.safetensors").write_bytes(b"no tensors")
    broken = changed("broken")
    (broken / "config.json").write_text("{")
    save_network(tmp_path / "parts", "dinov2", shard="8KB")
    next((tmp_path / "parts").glob("model-00002*")).unlink()
    for source, message in {
        tmp_path / "missing" / "one": "there is no such folder",
        tmp_path / "empty": "empty: no config.json",
        tmp_path / "good" / "config.json": "is a file; give the folder",
        text: "model_type 'bert'; expected one of resnet",
        none: "no model_type; expected one of",
        grey: "the number of channels is 1; expected 3",
        wide: "wide: this network cannot be read",
        pickled: "only pytorch_model.bin, which can run code.*save_pretrained",
        without: "without: model.safetensors missing",
        damaged: "damaged: this network cannot be read",
        deeper: "deeper: the weights lack",
        broken: "broken/config.json cannot be read",
        tmp_path / "parts": "model-00002-of-.* missing",
        "nobody/nothing": "HF_HUB_OFFLINE is set and the cache lacks it.*hf download nobody/nothing",
    }.items():
        with pytest.raises(SettingsError, match=message):
            load_hugging_face(TransformersBackbone(source=str(source), layers=(6,) if source == deeper else None))
    for options, message in {
        "layers": ({"layers": (3, 5)}, "layers = 3,5: this dinov2 has the blocks 1 to 4"),
        "order": ({"layers": (3, 1)}, "give some of them, rising"),
        "revision": ({"revision": "main"}, "is a folder and revision = main"),
    }.values():
        with pytest.raises(SettingsError, match=message):
            load_hugging_face(TransformersBackbone(source=str(tmp_path / "good"), **options))


def test_a_folder_cannot_name_code_that_is_run(tmp_path: Path) -> None:
    save_network(tmp_path / "net", "dinov2")
    options, written = TransformersBackbone(source=str(tmp_path / "net")), tmp_path / "net" / "config.json"
    wanted = load_hugging_face(options)
    config = json.loads(written.read_text())
    code = {"auto_map": {"AutoModel": "code.Net"}, "attn_implementation": "owner/kernel", "_attn_implementation": "a/b"}
    written.write_text(json.dumps({**config, **code}))
    (tmp_path / "net" / "code.py").write_text("raise SystemExit('code was run')")
    net = load_hugging_face(options)
    assert not set(code) & set(net.config)
    assert all(torch.equal(f, w) for f, w in zip(net.features(images()), wanted.features(images()), strict=True))
    again = restore_hugging_face(options, {**net.description(), "config": {**net.config, **code}}, net.state_dict())
    assert again.fingerprint() == net.fingerprint()


def test_the_fingerprint_tells_networks_layers_and_normalisation_apart(
    networks: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = networks["dinov2"][0]
    whole = load_hugging_face(TransformersBackbone(source=str(folder)))
    again = load_hugging_face(TransformersBackbone(source=str(folder)))
    fewer = load_hugging_face(TransformersBackbone(source=str(folder), layers=(1, 3)))
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "preprocessor_config.json").write_text(json.dumps({"image_mean": STD, "image_std": STD}))
    other = load_hugging_face(TransformersBackbone(source=str(tmp_path / "other")))
    assert whole.fingerprint() == again.fingerprint()
    assert len({whole.fingerprint(), fewer.fingerprint(), other.fingerprint()}) == 3
    assert whole.weights == other.weights
    assert whole.weights in whole.fingerprint()


@pytest.mark.parametrize("family", ["dinov3_vit", "convnext"])
def test_a_saved_model_works_without_the_source(tmp_path: Path, family: str) -> None:
    save_network(tmp_path / "net", family)
    draw = np.random.default_rng(0)
    parts, new = (draw.integers(90, 160, (n, 16, 16, 3), dtype=np.uint8) for n in (12, 4))
    backbone = {"name": "transformers", "source": str(tmp_path / "net"), "layers": [1, 2]}
    features = {"name": "features", "backbone": backbone, "image_size": 16, "stride": 4, "average": 1}
    detector = Detector(features, "memory_bank", calibration={"method": "split", "fraction": 0.3}, device="cpu")
    detector.fit(parts)
    detector.save(tmp_path / "model")
    shutil.rmtree(tmp_path / "net")
    again = Detector.load(tmp_path / "model")
    np.testing.assert_array_equal(again.score_samples(new), detector.score_samples(new))
    representation: Any = again.pipeline_.representation
    assert representation.network["layers"] == [1, 2]
    assert feature_names(representation)[0] == "layer 1, feature 0"
    assert representation.network["config"]["model_type"] == family


def test_tensors_of_another_network_are_refused(networks: dict[str, tuple[Path, Any]]) -> None:
    options = TransformersBackbone(source=str(networks["dinov2"][0]))
    net = load_hugging_face(options)
    description, tensors = net.description(), net.state_dict()
    same = restore_hugging_face(options, description, tensors)
    assert same.fingerprint() == net.fingerprint()
    with pytest.raises(ArtifactError, match=r"cannot be made again.*pip install transformers=="):
        restore_hugging_face(options, description, {name: t for name, t in tensors.items() if name != "mean"})
    with pytest.raises(ArtifactError, match="unknown kind 'bert'"):
        restore_hugging_face(options, {**description, "config": {"model_type": "bert"}}, tensors)


def test_a_missing_library_is_named_with_its_extra(
    networks: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SettingsError, match=r'pip install "knowngood\[transformers\]"'):
        load_hugging_face(TransformersBackbone(source=str(networks["dinov2"][0])))


def test_neither_import_nor_settings_import_the_libraries() -> None:
    code = (
        "import sys, knowngood; from knowngood.config import parse_settings;"
        "parse_settings({'representation': {'name': 'features', 'backbone': './dinov2'}});"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
