"""Settings: what is refused and how it is said, YAML, round trips, and what became of flat settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knowngood.config import (
    CVAE,
    DCVAE,
    MLP,
    Elbo,
    FeatureOptions,
    Fusion,
    HOGOptions,
    ONNXBackbone,
    Settings,
    TrainingOptions,
    TransformersBackbone,
    VAEOptions,
    choices,
    nearest,
    parse_settings,
    read_settings,
)
from knowngood.errors import SettingsError

SLOTS = {
    "representation": (Settings, "representation", lambda value: {"representation": value}),
    "model": (Settings, "model", lambda value: {"model": value}),
    "score": (Settings, "score", lambda value: {"score": value}),
    "objective": (VAEOptions, "objective", lambda value: {"model": {"name": "vae", "objective": value}}),
    "net": (VAEOptions, "net", lambda value: {"model": {"name": "vae", "net": value}}),
    "likelihood": (VAEOptions, "likelihood", lambda value: {"model": {"name": "vae", "likelihood": value}}),
    "backbone": (FeatureOptions, "backbone", lambda v: {"representation": {"name": "features", "backbone": v}}),
}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_settings(values)
    return str(caught.value)


# Choices and groups --------------------------------------------------------------------------------------------------


def test_a_name_stands_for_a_choice_with_its_defaults() -> None:
    settings = parse_settings({"representation": "hog", "model": {"name": "vae", "objective": "dcvae", "net": "mlp"}})
    assert settings.representation == HOGOptions()
    assert settings.model == VAEOptions(objective=DCVAE(), net=MLP())


@pytest.mark.parametrize("value", [["elbo", "prior_distance"], "elbo, prior_distance"])
def test_several_scores_stand_for_their_fusion(value: Any) -> None:
    score = parse_settings({"score": value}).score
    assert isinstance(score, Fusion)
    assert [one.name for one in score.scores] == ["elbo", "prior_distance"]
    assert score.weights is None


@pytest.mark.parametrize(
    ("value", "backbone"),
    [
        ("./dinov2", TransformersBackbone(source="./dinov2")),
        ("~/dinov2", TransformersBackbone(source="~/dinov2")),
        ("facebook/dinov2-small", TransformersBackbone(source="facebook/dinov2-small")),
        ("C:\\nets\\dinov2", TransformersBackbone(source="C:\\nets\\dinov2")),
        (Path("dinov2"), TransformersBackbone(source="dinov2")),
        (Path("nets/a.onnx"), ONNXBackbone(path="nets/a.onnx")),
        ("a.onnx", ONNXBackbone(path="a.onnx")),
        ({"name": "transformers", "source": Path("nets")}, TransformersBackbone(source="nets")),
    ],
)
def test_a_path_stands_for_the_backbone_it_holds(value: Any, backbone: Any) -> None:
    settings = parse_settings({"representation": {"name": "features", "backbone": value}})
    assert settings.representation.backbone == backbone
    assert parse_settings(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(("name", "option"), [("transformers", "source"), ("onnx", "path")])
def test_an_option_that_a_choice_needs_is_named(name: str, option: str) -> None:
    text = refusal({"representation": {"name": "features", "backbone": name}})
    assert f"backbone '{name}' needs the option '{option}': " in text


def test_option_models_are_taken_as_they_are() -> None:
    settings = parse_settings({"model": VAEOptions(objective=DCVAE(beta=3)), "score": Elbo(samples=0)})
    assert settings.model.objective == DCVAE(beta=3)
    assert settings.score == Elbo(samples=0)


def test_a_group_without_values_has_its_defaults() -> None:
    assert parse_settings({"training": None, "data": {}, "conditioning": None}) == Settings()


def test_networks_of_pixels_are_trained_by_their_own_defaults_where_nothing_is_said() -> None:
    training = parse_settings({"representation": "pixels", "training": {"lr": 0.1}}).training
    assert (training.batch_size, training.lr, training.beta2, training.ema) == (32, 0.1, 0.99, 0.995)
    for name in ("hog", "table", "auto"):
        assert parse_settings({"representation": name}).training == TrainingOptions()
    of_pixels = parse_settings({"representation": "pixels"})
    assert parse_settings(of_pixels.model_dump(mode="json")) == of_pixels


def test_a_calibration_method_is_named_by_a_word() -> None:
    assert parse_settings({"calibration": "split"}) == parse_settings({"calibration": {"method": "split"}})
    assert "calibration" in refusal({"calibration": "spilt"})


def test_a_choice_without_a_name_lists_the_names() -> None:
    with pytest.raises(
        SettingsError, match=r"net = {'channels': \[16, 32\]} says no name; give 'name' too, one of mlp, conv"
    ):
        parse_settings({"model": {"name": "vae", "net": {"channels": [16, 32]}}})


def test_an_unknown_setting_names_the_nearest_one() -> None:
    assert "unknown setting 'modle'; did you mean 'model'?" in refusal({"modle": "vae"})


@pytest.mark.parametrize("slot", SLOTS)
def test_an_unknown_choice_names_the_nearest_one(slot: str) -> None:
    model, field, put = SLOTS[slot]
    name = next(iter(choices(model, field)))
    assert f"unknown {slot} '{name}x'; did you mean '{name}'?" in refusal(put(f"{name}x"))


@pytest.mark.parametrize("slot", SLOTS)
def test_an_unknown_option_of_a_choice_names_the_choice(slot: str) -> None:
    model, field, put = SLOTS[slot]
    for name in choices(model, field):
        if name != "fusion":
            assert f"{slot} '{name}' has no option 'surprise'" in refusal(put({"name": name, "surprise": 1}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"representation": {"name": "features", "backbone": object()}},
            r"backbone is of type object; .*known: eff.* goes to fit\(X, backbone=…\), and here stands 'own'",
        ),
        (
            {"representation": object},
            r"representation is the class object; .*known: pixels.*'knowngood.representations'",
        ),
        (
            {"model": {"name": "vae", "objective": 3}},
            "objective is of type int; .*'knowngood.objectives' of an installed package",
        ),
    ],
)
def test_an_object_where_a_name_is_expected_says_where_ones_own_goes(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_settings(settings)


def test_an_unknown_option_of_a_group_names_the_nearest_one() -> None:
    for name, here in (("β-TCVAE", "tc_vae"), ("beta_tcvae", "tc_vae"), ("dC-VAE", "dcvae"), ("betavae", "beta_vae")):
        assert f"it is called '{here}' here" in refusal({"model": {"name": "vae", "objective": name}})
    assert "unknown model 'PaDiM'; it is called 'patch_gaussian' here" in refusal({"model": "PaDiM"})
    assert "training has no option 'batchsize'; did you mean 'batch_size'?" in refusal({"training": {"batchsize": 3}})


def test_of_names_equally_near_the_first_is_meant() -> None:
    assert nearest("b", ["ba", "bz"]) == "; did you mean 'ba'? (known: ba, bz)"
    assert nearest("b", ["cz"]) == " (known: cz)"
    many = [f"{i:03}.png" for i in range(1000)]
    assert nearest("99.png", many).startswith("; did you mean '099.png'? (nearest of 1,000: 099.png, ")
    assert nearest("99.png", many).count(".png") == 6
    assert nearest("b", []) == "; there are none"


def test_every_problem_is_reported_at_once() -> None:
    text = refusal({"training": {"epochs": 0, "lr": -1}, "colour": True})
    assert [word in text for word in ("'training.epochs' = 0", "'training.lr' = -1", "'colour'")] == [True] * 3


def test_a_wrong_type_names_setting_and_value() -> None:
    assert "setting 'training.epochs' = 'many'" in refusal({"training": {"epochs": "many"}})


# Combinations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"name": "vae", "objective": {"name": "dcvae", "tc": "bound", "beta": 2}}}, "tc='bound'"),
        (
            {"model": {"name": "vae", "objective": {"name": "dcvae", "density": "mws"}}},
            "dcvae: density = 'mws' is an option of tc='sampled', and tc is 'moments'; set tc='sampled', or leave",
        ),
        (
            {"model": {"name": "vae", "objective": {"name": "tc_vae", "tc": "sampled", "discriminator_width": 9}}},
            "tc_vae: discriminator_width = 9 is an option of tc='discriminator', and tc is 'sampled'",
        ),
        ({"calibration": {"select_fraction": 0.5, "fraction": 0.5}}, "must be below 1"),
        ({"model": "patch_gaussian", "representation": "hog"}, "model 'patch_gaussian' takes features"),
        ({"model": "vae", "representation": "features"}, "model 'vae' takes pixels or hog or table"),
        (
            {"model": "vae", "score": "patch_distance"},
            "defined for model patch_gaussian or shared_gaussian",
        ),
        ({"model": "patch_gaussian", "score": ["patch_distance", "elbo"]}, "not 'patch_gaussian'"),
        ({"representation": "pixels", "data": {"tile": 512}}, "tile needs representation 'features'"),
        ({"representation": {"name": "features", "align": "rigid"}, "data": {"tile": 512}}, "align compares whole"),
        (
            {"representation": {"name": "features", "crop": 64}, "data": {"ignore": "mask.png"}},
            "leave crop and pad out",
        ),
        ({"model": "memory_bank", "data": {"ignore": "mask.png"}}, "'memory_bank' compares them all"),
        ({"representation": {"name": "features", "average": 2}}, "give an odd number"),
        ({"score": {"name": "fusion", "scores": ["elbo", "kl"], "weights": [1]}}, "one finite number for each score"),
        ({"score": {"name": "fusion", "scores": ["elbo", "kl"], "weights": [1, np.inf]}}, "one finite number"),
        ({"data": {"ignore": 3}}, "ignore: got a int"),
        ({"data": {"ignore": {"polygons": 3}}}, "ignore: got a int"),
    ],
)
def test_contradictions_say_what_to_change(values: dict[str, Any], message: str) -> None:
    assert message in refusal(values)


def test_the_estimate_of_models_saved_before_is_now_called_sampled() -> None:
    explicit = {"name": "dcvae", "beta": 2.0, "tc": "explicit", "density": "mss"}
    assert parse_settings({"model": {"name": "vae", "objective": explicit}}).model.objective == DCVAE(
        beta=2, tc="sampled"
    )


def test_the_bound_form_takes_its_own_beta() -> None:
    model = {"name": "vae", "objective": {"name": "dcvae", "tc": "bound", "beta": 1}}
    assert parse_settings({"model": model}).model.objective.name == "dcvae"


# Flat settings of earlier versions -----------------------------------------------------------------------------------

MOVED = {
    "image_size": "representation",
    "crop": "representation",
    "pad": "representation",
    "grey": "representation",
    "scaling": "representation",
    "align": "representation",
    "objective": "model",
    "net": "model",
    "latent_dim": "model",
    "likelihood": "model",
    "prior": "model",
    "separation": "model",
    "class_aware": "model",
    "roles": "conditioning",
    "measure": "conditioning",
    "unknown": "conditioning",
    "marginalise": "conditioning",
    "select_fraction": "calibration",
    "ignore": "data",
    "tile": "data",
    "tile_overlap": "data",
    "tolerance": "data",
    "strict": "data",
    "epochs": "training",
    "batch_size": "training",
    "lr": "training",
    "lr_secondary": "training",
    "weight_decay": "training",
    "schedule": "training",
    "ema": "training",
    "clip": "training",
    "patience": "training",
    "devices": "training",
    "precision": "training",
    "compile": "training",
    "memory_gb": "training",
    "workers": "training",
    "warmup": "training",
}


@pytest.mark.parametrize("name", MOVED)
def test_a_flat_setting_is_refused_with_where_it_is_now(name: str) -> None:
    text = refusal({name: 1})
    assert f"unknown setting '{name}'" in text
    assert f"it is an option of {MOVED[name]}" in text


@pytest.mark.parametrize(
    "name",
    ["labelled", "augment_condition", "features", "light_tolerance", "scoring", "calibrate_fraction", "calibrate_by",
     "ensemble"],
)  # fmt: skip
def test_a_flat_setting_of_another_name_is_refused_with_the_known_ones(name: str) -> None:
    text = refusal({name: 1})
    assert f"unknown setting '{name}'" in text
    assert "known: representation, model, score" in text


# Round trips ---------------------------------------------------------------------------------------------------------

names = st.sampled_from
sizes = st.one_of(st.none(), st.integers(1, 512), st.tuples(st.integers(1, 512), st.integers(1, 512)))
positive = st.floats(0.001, 1000, allow_nan=False)
shares = st.floats(0.001, 0.999)
images = {
    "image_size": sizes,
    "grey": st.booleans(),
    "scaling": st.one_of(names(["auto", "data"]), st.tuples(positive, positive)),
}


def some(name: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"name": st.just(name)}, optional=fields)


representations = {
    "pixels": some("pixels", illumination=shares, pad=sizes, **images),
    "hog": some("hog", crop=sizes, **images),
    "features": some(
        "features",
        backbone=st.one_of(names(["own", "efficientnet_lite1"]), some("efficientnet_lite0", blocks=st.just([1, 2]))),
        align=names(["none", "shift", "affine"]),
        average=names([1, 3, 5]),
        **images,
    ),
    "table": st.just("table"),
    "auto": st.one_of(st.just("auto"), some("auto", crop=sizes, **images)),
}
objectives = st.one_of(
    names(list(choices(VAEOptions, "objective"))),
    some("dcvae", beta=positive, tc=names(["moments", "gaussian", "discriminator", "sampled", "explicit"])),
    some("beta_vae", capacity=st.one_of(st.none(), positive)),
    some("dan_vae", factors=st.just(["camera"]), labelled_share=shares),
)
nets = st.one_of(names(["auto", "mlp", "conv"]), some("mlp", hidden=st.lists(st.integers(1, 64), min_size=1)))
likelihoods = st.one_of(names(["auto", "bernoulli"]), some("gaussian", sigma=st.one_of(names(["pixel"]), positive)))
models = {
    "vae": some("vae", objective=objectives, net=nets, likelihood=likelihoods, latent_dim=st.integers(1, 64)),
    "patch_gaussian": some("patch_gaussian", shrinkage=st.one_of(st.none(), shares), few=names(["refuse", "pool"])),
    "memory_bank": some("memory_bank", coreset=st.one_of(st.none(), st.integers(1, 99))),
}
vae_scores = [
    some("elbo", samples=st.integers(0, 9)),
    some("neighbours", k=st.integers(1, 9), coreset=st.none()),
    names(["kl", "reconstruction", "iwae"]),
]
scores = {
    "vae": st.one_of(*vae_scores, st.lists(st.one_of(*vae_scores), min_size=1, max_size=3)),
    "patch_gaussian": some("patch_distance", pooling=names(["top", "max"]), standardise=st.booleans()),
    "memory_bank": names(["neighbours", "patch_distance"]),
}
pairs = [
    ("auto", "auto"),
    ("pixels", "vae"),
    ("hog", "vae"),
    ("table", "vae"),
    ("features", "patch_gaussian"),
    ("hog", "memory_bank"),
]


def fits(representation: str, model: dict[str, Any]) -> bool:
    return representation in ("pixels", "auto") or model.get("likelihood") != "bernoulli"


@st.composite
def any_settings(draw: st.DrawFn) -> dict[str, Any]:
    representation, model = draw(names(pairs))
    values: dict[str, Any] = {
        "representation": draw(representations[representation]),
        "model": model if model == "auto" else draw(models[model].filter(lambda given: fits(representation, given))),
        "score": "auto" if model == "auto" else draw(st.one_of(st.just("auto"), scores[model])),
        "conditioning": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "roles": st.dictionaries(st.text(min_size=1), st.lists(names(["model", "infer"]), unique=True)),
                    "measure": st.just(["brightness"]),
                    "unknown": names(["error", "infer"]),
                },
            )
        ),
        "alpha": draw(shares),
        "calibration": draw(
            st.fixed_dictionaries({}, optional={"method": names(["split", "cross"]), "folds": st.integers(2, 9)})
        ),
        "labels": draw(st.one_of(names(["auto", "ignore", "shift"]), some("shift", weight=positive, shift=positive))),
        "data": draw(
            st.fixed_dictionaries({}, optional={"tolerance": st.one_of(st.none(), shares), "strict": st.booleans()})
        ),
        "training": draw(
            st.fixed_dictionaries(
                {}, optional={"epochs": st.integers(1, 99), "ema": st.one_of(st.none(), shares), "lr": positive}
            )
        ),
        "random_state": draw(st.one_of(st.none(), st.integers(0, 2**31))),
    }
    return {name: value for name, value in values.items() if draw(st.booleans()) or name in ("representation", "model")}


@pytest.mark.slow
@given(any_settings())
@settings(max_examples=60)
def test_settings_survive_json(values: dict[str, Any]) -> None:
    parsed = parse_settings(values)
    assert parse_settings(parsed.model_dump(mode="json")) == parsed
    assert Settings.model_validate_json(parsed.model_dump_json()) == parsed
    assert parse_settings(parsed.model_dump(exclude_unset=True)) == parsed


@pytest.mark.parametrize(
    "ignore",
    ["mask.png", [[[0, 0], [4, 0], [4, 4]]], {"polygons": [[[0, 0], [4, 0], [4, 4]]], "size": [8, 8]}, {"a": "a.png"}],
)
def test_ignored_regions_survive_json(ignore: Any) -> None:
    parsed = parse_settings({"data": {"ignore": ignore}})
    assert parse_settings(parsed.model_dump(mode="json")) == parsed


@pytest.mark.parametrize("representation", ["hog", "table"])
def test_a_likelihood_of_values_from_0_to_1_is_refused_of_others(representation: str) -> None:
    said = refusal({"representation": representation, "model": {"name": "vae", "likelihood": "bernoulli"}})
    assert f"'bernoulli' is of values from 0 to 1, and those of representation '{representation}' are not" in said


# YAML ----------------------------------------------------------------------------------------------------------------


def test_yaml_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "ein stellung ü.yaml"
    path.write_text("model: {name: vae, objective: {name: dcvae, beta: 3}}\ntraining: {ema: null}\n", encoding="utf-8")
    settings = read_settings(path, alpha=0.1)
    assert (settings.model, settings.training.ema, settings.alpha) == (VAEOptions(objective=DCVAE(beta=3)), None, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 7\n", "unknown setting 'epoch'"),
        ("- 1\n- 2\n", "found a list"),
        ("a: [", "this is not YAML"),
        ("alpha: 0.05\nseed: 1\nalpha: 0.1\n", "'alpha' comes twice\n.*line 3"),
        ("model: {name: vae, name: memory_bank}\n", "'name' comes twice"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        read_settings(path)


def test_an_empty_yaml_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("# nothing\n", encoding="utf-8")
    assert read_settings(path) == Settings()
    assert isinstance(VAEOptions().objective, CVAE)
