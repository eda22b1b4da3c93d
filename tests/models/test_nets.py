"""Every net at every size: shapes there and back, where the condition enters, sizes of the lineage's nets, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import gradients, toy_batch, toy_context, toy_model
from knowngood.config import MLP, Bernoulli, Conv, EluPool, Gaussian, Options, StridedBatchNorm
from knowngood.errors import SettingsError
from knowngood.models.nets.layers import ConditionBias, Upsample, Upward, doubled, halvings
from knowngood.models.objectives import elbo_terms
from knowngood.models.vae import ConditionalVAE
from training_helpers import options, same_bits, source, trained

NETS = {
    "mlp": MLP(hidden=(32, 16)),
    "conv": Conv(),
    "conv-explicit": Conv(channels=(4, 6), dense=16),
    "elu_pool": EluPool(),
    "strided_batch_norm": StridedBatchNorm(),
}
SMALLEST = {"mlp": 1, "conv": 8, "conv-explicit": 8, "elu_pool": 8, "strided_batch_norm": 16}
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 64, 64), (1, 11, 30), (2, 30, 17), (4, 16, 23), (5, 19, 16)]

CASES = [(net, shape) for net in NETS for shape in SHAPES if min(shape[1:]) >= SMALLEST[net]]
every_net = pytest.mark.parametrize("net", NETS)


def build(net: str | Options, shape: tuple[int, ...], condition_dim: int = 0, **options: object) -> ConditionalVAE:
    chosen = NETS[net] if isinstance(net, str) else net
    changes = {"condition_dim": condition_dim, "dtype": torch.float32, "jitter": 0.05, **options}
    return toy_model(shape, net=chosen, **changes).eval()  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(("net", "shape"), CASES)
def test_shapes_there_and_back(net: str, shape: tuple[int, ...], outputs: int) -> None:
    likelihood = Gaussian(sigma="input") if outputs == 2 else Bernoulli()
    model = build(net, shape, condition_dim=2, likelihood=likelihood)
    batch = toy_batch(model, n=3)
    q = model.encode(batch.x, batch.c)
    assert q.mean.shape == q.log_var.shape == (3, 3)
    params = model.decode(q.mean, batch.c)
    assert params.shape == (3, outputs * shape[0], *shape[1:])
    assert model.reconstruct(batch.x, batch.c).shape == (3, *shape)
    assert torch.isfinite(params).all()


@pytest.mark.parametrize(("net", "shape"), [("conv", (1, 256, 200)), ("strided_batch_norm", (3, 200, 256))])
def test_large_images(net: str, shape: tuple[int, ...]) -> None:
    model = build(net, shape)
    batch = toy_batch(model, n=1)
    assert model.reconstruct(batch.x).shape == (1, *shape)


@pytest.mark.parametrize("features", [1, 13])
def test_mlp_takes_tables(features: int) -> None:
    model = build("mlp", (features,), likelihood=Gaussian(sigma="input"))
    batch = toy_batch(model, n=3)
    assert model.decode(model.encode(batch.x).mean).shape == (3, 2 * features)
    assert model.reconstruct(batch.x).shape == (3, features)


@pytest.mark.parametrize(
    ("shape", "inner"),
    [
        ((1, 8, 8), (32, 4, 4)),
        ((1, 28, 28), (64, 7, 7)),
        ((1, 11, 30), (32, 6, 15)),
        ((3, 64, 64), (96, 4, 4)),
        ((1, 256, 200), (96, 8, 7)),
    ],
)
def test_conv_halves_until_the_shorter_side_is_seven_or_less(shape: tuple[int, ...], inner: tuple[int, ...]) -> None:
    assert Conv().build(shape, 0, 3, 1).inner == inner


def test_halvings_are_what_stride_two_makes_of_any_size() -> None:
    assert halvings((28, 28), 2) == [(28, 28), (14, 14), (7, 7)]
    strided, pooled = nn.Conv2d(1, 1, 3, stride=2, padding=1), nn.MaxPool2d(2, ceil_mode=True)
    for height in range(1, 20):
        h = torch.zeros(1, 1, height, 20 - height)
        expected = halvings((height, 20 - height), 1)[1]
        assert strided(h).shape[2:] == pooled(h).shape[2:] == expected
        assert Upsample((height, 20 - height))(strided(h)).shape == h.shape


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3), (7, 7)])
def test_a_convolution_at_twice_the_size_is_the_same_with_fewer_products(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1).double()
    h = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator, requires_grad=True)
    plain = conv(Upsample((2 * size[0], 2 * size[1]))(h))
    torch.testing.assert_close(doubled(h, conv), plain)
    pull = torch.randn(plain.shape, dtype=torch.float64, generator=generator)
    for made in (doubled(h, conv), Upward(Upsample((2 * size[0], 2 * size[1])), conv)(h)):
        slopes = torch.autograd.grad((made * pull).sum(), (h, conv.weight, conv.bias))
        expected = torch.autograd.grad((plain * pull).sum(), (h, conv.weight, conv.bias), retain_graph=True)
        for slope, own in zip(slopes, expected, strict=True):
            torch.testing.assert_close(slope, own)


def test_where_sizes_are_odd_the_way_up_is_step_by_step() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    h, up = torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(0)), Upsample((7, 6))
    assert torch.equal(Upward(up, conv, nn.SiLU())(h), nn.functional.silu(conv(up(h))))


@pytest.mark.parametrize("net", ["conv", "elu_pool", "strided_batch_norm"])
def test_decoder_walks_back_through_the_sizes_of_the_encoder(net: str) -> None:
    model = build(net, (1, 37, 50))
    seen: list[tuple[int, ...]] = []
    for module in model.net.up:
        module.register_forward_hook(
            lambda _, given, out: seen.extend((tuple(given[0].shape[2:]), tuple(out.shape[2:])))
        )
    model.decode(torch.zeros(1, 3))
    stages = {"conv": 3, "elu_pool": 2, "strided_batch_norm": 4}[net]
    assert list(dict.fromkeys(seen)) == halvings((37, 50), stages)[::-1]


@every_net
def test_items_of_a_batch_do_not_touch_each_other_when_scoring(net: str) -> None:
    model = build(net, (2, 17, 20), condition_dim=2)
    batch = toy_batch(model, n=5)
    assert batch.c is not None
    whole = model.reconstruct(batch.x, batch.c)
    for i in range(5):
        single = model.reconstruct(batch.x[i : i + 1], batch.c[i : i + 1])
        torch.testing.assert_close(single, whole[i : i + 1], rtol=1e-5, atol=1e-5)


@every_net
def test_every_pixel_reaches_the_latent_and_every_latent_every_pixel(net: str) -> None:
    """No border is cut off on the way down, none left out on the way up, at odd sizes too."""
    model = build(net, (1, 17, 21), jitter=0.1).double()
    x = toy_batch(model, n=1).x.requires_grad_()
    (to_x,) = torch.autograd.grad(model.encode(x).mean.sum(), x)
    if NETS[net].model_dump()["name"] in ("elu_pool", "mlp"):  # max pooling and ReLU may switch single pixels off
        assert (to_x != 0).double().mean() > 0.5
        assert to_x[..., -1, :].any()
        assert to_x[..., :, -1].any()
    else:
        assert (to_x != 0).all()
    zero = torch.zeros(1, 3, dtype=torch.float64)
    with torch.no_grad():
        moved = model.decode(torch.eye(3, dtype=torch.float64)) - model.decode(zero)  # item d: what latent d alone does
    assert (moved != 0).all()


# The condition ------------------------------------------------------------------------------------------------------


@every_net
def test_condition_matters_to_encoder_and_decoder(net: str) -> None:
    model = build(net, (1, 16, 16), condition_dim=2)
    x, z = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1), torch.zeros(2, 3)
    eye = torch.eye(2)
    mean, log_var = model.encode(x, eye)
    params = model.decode(z, eye)
    for out in (mean, log_var, params.flatten(1)):
        assert (out[0] - out[1]).abs().min() > 0


@every_net
def test_condition_is_ignored_by_a_model_without_one(net: str) -> None:
    model = build(net, (1, 16, 16), condition_dim=0)
    batch = toy_batch(model, n=4)
    for c in (torch.eye(4), torch.full((4, 1), 7.0)):
        assert torch.equal(model.reconstruct(batch.x, c), model.reconstruct(batch.x))


@pytest.mark.slow
@every_net
def test_one_condition_for_all_is_the_unconditional_model(net: str) -> None:
    """c = 1 for every item only moves biases: with those moved back, loss and gradient are the unconditional ones."""
    plain = build(net, (1, 16, 16), condition_dim=0, prior="learned").double()
    given = build(net, (1, 16, 16), condition_dim=1, prior="learned", seed=5).double()
    with torch.no_grad():
        given.load_state_dict(_with_constant_condition(plain, given))
    batch = toy_batch(given, n=4)
    losses = []
    for model in (plain, given):
        terms = elbo_terms(model, batch, toy_context(batch))
        losses.append((terms.reconstruction + terms.kl).sum())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=1e-10)
    expected, found = gradients(losses[0], plain), gradients(losses[1], given)
    for name, slope in expected.items():
        part = found[name][:, : slope.shape[1]] if slope.dim() == 2 else found[name]
        torch.testing.assert_close(part, slope, rtol=1e-8, atol=1e-8)


def _with_constant_condition(plain: ConditionalVAE, given: ConditionalVAE) -> dict[str, Tensor]:
    """State for `given` (condition of width 1) that equals `plain` when c = 1: each bias gives back what c adds."""
    state, known = dict(given.state_dict()), plain.state_dict()
    for name, value in known.items():
        if value.dim() == 2 and state[name].shape[1] == value.shape[1] + 1:
            bias = name.replace("weight", "bias")
            state[bias] = known[bias] - state[name][:, -1]
            state[name] = torch.cat((value, state[name][:, -1:]), dim=1)
        elif name not in state or not _owes_to_condition(name, known, state):
            state[name] = value
    state["prior_bias"] = known["prior_bias"] - state["prior_weight"][:, 0]
    if "net.condition.weight.weight" in state:
        stem = "net.stem.bias" if "net.stem.bias" in state else "net.first.bias"
        state[stem] = known[stem] - state["net.condition.weight.weight"][:, 0]
    return state


def _owes_to_condition(name: str, known: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    weight = name.replace("bias", "weight")
    return name.endswith("bias") and weight in known and known[weight].shape != state[weight].shape


def test_condition_bias_is_a_constant_map_beside_the_image() -> None:
    """Away from the padded border, adding the offset equals convolving with constant maps of c joined to the image."""
    stem, bias = nn.Conv2d(2, 5, 3, padding=1), ConditionBias(3, 5)
    maps = nn.Conv2d(5, 5, 3, padding=1)
    assert bias.weight is not None
    x, c = torch.rand(4, 2, 8, 9), torch.randn(4, 3)
    with torch.no_grad():
        maps.weight[:, :2], maps.bias[:] = stem.weight, stem.bias  # type: ignore[index]
        bias.weight.weight.copy_(maps.weight[:, 2:].sum((2, 3)))
        joined = torch.cat((x, c[:, :, None, None].expand(-1, -1, 8, 9)), dim=1)
        expected, found = maps(joined), bias(stem(x), c)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-5, atol=1e-5)


# Noise on what the encoder sees --------------------------------------------------------------------------------------


def test_noise_is_on_the_encoders_input_in_training_alone() -> None:
    noisy, plain = (build(MLP(hidden=(16,), noise=noise), (6,), condition_dim=2) for noise in (0.5, 0.0))
    plain.load_state_dict(noisy.state_dict())
    batch = toy_batch(noisy, n=5)
    before = torch.random.get_rng_state()
    assert torch.equal(noisy.encode(batch.x, batch.c).mean, plain.encode(batch.x, batch.c).mean)
    assert torch.equal(before, torch.random.get_rng_state())
    noisy.train()
    assert not torch.equal(noisy.encode(batch.x, batch.c).mean, plain.encode(batch.x, batch.c).mean)
    z = torch.zeros(5, 3)
    assert torch.equal(noisy.decode(z, batch.c), plain.decode(z, batch.c))


def test_no_noise_is_no_draw() -> None:
    plain = build(MLP(hidden=(16,), noise=0.0), (6,)).train()
    batch = toy_batch(plain, n=5)
    before = torch.random.get_rng_state()
    one, same = plain.encode(batch.x).mean, plain.encode(batch.x).mean
    assert torch.equal(one, same)
    assert torch.equal(before, torch.random.get_rng_state())


def test_noise_has_its_standard_deviation_on_every_value_and_none_on_the_condition() -> None:
    """A linear encoder without a hidden layer shows it: the code moves by the weights times the noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MLP(hidden=(), noise=0.3).build((2, 3), 2, 4, 1).train()
        x = torch.rand(20_000, 2, 3)
        c = torch.zeros(20_000, 2)
        with torch.no_grad():
            linear = net.encoder[0]
            linear.weight.zero_()
            linear.weight[:, :] = torch.eye(8)
            linear.bias.zero_()
            moved = net.encode(x, c) - torch.cat([x.flatten(1), c], 1)
    covariance = moved[:, :6].T @ moved[:, :6] / len(x)
    torch.testing.assert_close(covariance, 0.09 * torch.eye(6), rtol=0, atol=0.004)
    assert moved[:, :6].mean(0).abs().max() < 0.01
    assert (moved[:, 6:] == 0).all()


@pytest.mark.slow
def test_runs_with_noise_are_repeatable_and_go_on_with_the_same_bits(tmp_path: Path) -> None:
    chosen = options(epochs=12, patience=100)
    make: dict[str, Any] = {"options": chosen, "net": MLP(hidden=(16,), noise=0.5), "held_out": source(30, seed=2)}
    whole, _ = trained(**make)
    assert same_bits(whole, trained(**make)[0])
    still = {**make, "net": MLP(hidden=(16,), noise=0.0)}
    assert not same_bits(whole, trained(**still)[0])

    def stop(step: int) -> None:
        if step == 23:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        trained(**make, run_dir=tmp_path, on_step=stop)
    assert same_bits(whole, trained(**make, run_dir=tmp_path, resume=True)[0])


# Gradients ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["standard", "learned"])
@pytest.mark.parametrize("condition_dim", [0, 2])
@every_net
def test_every_parameter_gets_gradient(net: str, condition_dim: int, prior: str) -> None:
    model = build(net, (2, 16, 17), condition_dim, prior=prior, likelihood=Gaussian(sigma="pixel"), jitter=0.02)
    model = model.double().train()
    batch = toy_batch(model, n=16)
    terms = elbo_terms(model, batch, toy_context(batch))
    (terms.reconstruction + terms.kl).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if net == "strided_batch_norm" and name.endswith("bias") and parameter.grad.abs().max() < 1e-12:
            continue  # batch norm takes off the bias of the convolution before it
        assert parameter.grad.any(), name


@pytest.mark.parametrize("net", ["mlp", "conv-explicit", "elu_pool"])
def test_gradients_are_right(net: str) -> None:
    """Along a random direction in the space of all weights, against central differences."""
    model = build(net, (2, 8, 9), condition_dim=2, prior="learned").double()
    batch = toy_batch(model, n=4)

    def loss() -> Tensor:
        terms = elbo_terms(model, batch, toy_context(batch))
        return (terms.reconstruction + terms.kl).sum()

    generator = torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) / math.sqrt(p.numel())
        for name, p in model.named_parameters()
    }
    slope = sum((g * direction[name]).sum() for name, g in gradients(loss(), model).items())
    step, ends = 1e-6, []
    for sign in (1, -2):  # to +step, then from there to −step
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += sign * step * direction[name]
        ends.append(loss().item())
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


@every_net
def test_bf16_gives_nearly_the_same(net: str) -> None:
    model = build(net, (2, 16, 17), condition_dim=2)
    batch = toy_batch(model, n=4)
    expected = model.reconstruct(batch.x, batch.c)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.net.decode(torch.zeros(4, 3), batch.c).dtype == torch.bfloat16
        found = model.reconstruct(batch.x, batch.c)
    assert found.dtype == torch.float32
    spread = expected.std()
    assert (found - expected).abs().max() < 0.1 * spread


# The lineage's nets, layer by layer ---------------------------------------------------------------------------------


def conv(before: int, after: int) -> int:
    return 9 * before * after + after


def dense(before: int, after: int) -> int:
    return before * after + after


def test_elu_pool_is_the_published_net() -> None:
    """28×28, latent 128: 16-16-pool-32-32-pool-64-64, dense 512, and the mirror."""
    model = build(EluPool(), (1, 28, 28), latent_dim=128, likelihood=Bernoulli())
    down = conv(1, 16) + conv(16, 16) + conv(16, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64)
    encoder = down + dense(64 * 7 * 7, 512) + dense(512, 2 * 128)
    up = 2 * conv(64, 64) + conv(64, 32) + conv(32, 32) + conv(32, 16) + conv(16, 16) + conv(16, 1)
    decoder = dense(128, 512) + dense(512, 64 * 7 * 7) + up
    assert parameters(model) == encoder + decoder == 3_592_737
    convolutions = [m for m in model.net.modules() if isinstance(m, nn.Conv2d)]
    assert {m.kernel_size for m in convolutions} == {(3, 3)}
    activations = {type(m) for m in model.net.modules() if not parameters(m)} - {nn.MaxPool2d, Upsample, ConditionBias}
    assert activations == {nn.ELU}


def test_padded_mlp_is_the_published_net() -> None:
    """28×28 padded to 32×32 = 1024 values, 1024-512-256-2D and its mirror, D = 20: the default widths."""
    model = build(MLP(), (1, 32, 32), latent_dim=20, likelihood=Bernoulli())
    encoder = dense(1024, 512) + dense(512, 256) + dense(256, 40)
    decoder = dense(20, 256) + dense(256, 512) + dense(512, 1024)
    assert parameters(model) == encoder + decoder == 1_328_680
    conditional = build(MLP(), (1, 32, 32), condition_dim=10, latent_dim=20, likelihood=Bernoulli())
    assert parameters(conditional) - parameters(model) == 10 * 512 + 10 * 256  # one-hot joined at both ends


def test_strided_batch_norm_is_the_published_net() -> None:
    """64×64×3, latent 200: 32-64-64-64 of stride 2 with batch norm, dense 1024 = 4×4×64, four times upsample + conv."""
    model = build(StridedBatchNorm(), (3, 64, 64), latent_dim=200)
    assert model.net.inner == (64, 4, 4)
    norm = 2 * (32 + 64 + 64 + 64)
    encoder = conv(3, 32) + conv(32, 64) + 2 * conv(64, 64) + norm + dense(1024, 2 * 200)
    decoder = dense(200, 1024) + 2 * conv(64, 64) + conv(64, 32) + conv(32, 3) + 2 * (64 + 64 + 32)
    sigma = 1
    assert parameters(model) == encoder + decoder + sigma == 803_028
    slopes = [m.negative_slope for m in model.net.down if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.1, 0.1, 0.2, 0.2]
    assert {m.p for m in model.net.modules() if isinstance(m, nn.Dropout)} == {0.1}
    assert sum(isinstance(m, Upsample) for m in model.net.up) == 4


def test_residual_blocks_start_as_the_identity() -> None:
    net = Conv(channels=(4, 6)).build((1, 8, 8), 0, 2, 1)
    h = torch.rand(2, 4, 4, 4)
    assert torch.equal(net.down[1](h), h)
    with torch.no_grad():
        net.down[1].last.weight += 0.1
    assert not torch.equal(net.down[1](h), h)


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["conv", "elu_pool", "strided_batch_norm"])
def test_too_small_an_image_is_refused_by_name_and_with_a_way_out(net: str) -> None:
    least = SMALLEST[net]
    with pytest.raises(SettingsError) as caught:
        build(net, (1, least - 1, 40))
    assert str(caught.value) == (
        f"net '{net}' needs images of at least {least} × {least} px, these are 40 × {least - 1}; "
        "use net 'mlp' or a larger image_size"
    )
    with pytest.raises(SettingsError, match=f"these are {least - 1} × 40;"):
        build(net, (1, 40, least - 1))
    build(net, (1, least, least))


@pytest.mark.parametrize("net", ["conv", "elu_pool", "strided_batch_norm"])
def test_a_table_is_refused_by_convolutions_and_sent_to_the_mlp(net: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(net, (13,))
    expected = f"net '{net}' takes images (C, H, W), and these are tables of 13 columns; use net 'mlp'"
    assert str(caught.value) == expected


@pytest.mark.parametrize("net", NETS)
def test_one_item_is_a_batch(net: str) -> None:
    """Where maps are 1×1 in the middle, batch norm has one value a channel, and no variance."""
    model, x = build(net, (1, 16, 16)).train(), torch.rand(1, 1, 16, 16)
    made = model.decode(model.encode(x, None).mean, None)
    assert torch.isfinite(made).all()
    made.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
