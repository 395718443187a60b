"""Paths, predictions, times and losses of diffusion and flow matching, against what is known in closed form."""

import itertools
import math

import pytest
import scipy.integrate
import torch
from diffusion_toys import GaussianData, process_of

from meshgpt.errors import ConfigError
from meshgpt.shapes.diffusion.floors import explained_fraction, floor_loss, optimal_loss, zero_loss
from meshgpt.shapes.diffusion.parameterizations import PARAMETERIZATIONS, Parts
from meshgpt.shapes.diffusion.process import EDM_CONFIG, PATHS, V_CONFIG, WEIGHTINGS, Diffusion, DiffusionConfig

KINDS = tuple(PARAMETERIZATIONS)
EVERY = list(itertools.product(PATHS, KINDS))


def inner_times(process, count=9):
    """Times within a path, away from its ends."""
    ends = (10.0, 0.05) if process.config.path == "edm" else (0.05, 0.95)
    return torch.linspace(*ends, count, dtype=torch.float64)


# paths


@pytest.mark.parametrize("path", PATHS)
def test_the_derivatives_of_a_path_are_those_of_its_coefficients(path):
    process = process_of(path)
    t = inner_times(process)
    before, at, after = (process.path.at(t + d) for d in (-1e-5, 0.0, 1e-5))
    assert torch.allclose((after.alpha - before.alpha) / 2e-5, at.alpha_dot, atol=1e-6)
    assert torch.allclose((after.sigma - before.sigma) / 2e-5, at.sigma_dot, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_noise_grows_from_nothing_at_the_data_to_all_at_the_noise(path):
    path = process_of(path).path
    ends = path.at(torch.tensor([path.noise_time, path.data_time], dtype=torch.float64))
    ratio = ends.sigma / ends.alpha
    assert ratio[0] >= 80 and ratio[1] < 1e-15
    assert path.progress(torch.tensor([path.noise_time, path.data_time], dtype=torch.float64)).tolist() == [0, 1]


@pytest.mark.parametrize("path", PATHS)
def test_a_time_is_known_by_its_ratio_of_noise_to_data(path):
    process = process_of(path)
    t = inner_times(process)
    at = process.path.at(t)
    assert torch.allclose(process.path.time_of(at.sigma / at.alpha), t)


@pytest.mark.parametrize("path", ["gvp", "vp"])
def test_variance_preserving_paths_preserve_the_variance(path):
    at = process_of(path).path.at(torch.linspace(0, 0.999, 50, dtype=torch.float64))
    assert torch.allclose(at.alpha.square() + at.sigma.square(), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize(
    ("path", "kind", "training", "interval"),
    [
        ("linear", "velocity", True, (0, 1)),
        ("gvp", "velocity", False, (0, 1)),
        ("linear", "noise", True, (1e-3, 1 - 1e-3)),
        ("gvp", "score", False, (1e-3, 1 - 1e-3)),
        ("vp", "velocity", True, (0, 1 - 1e-5)),
        ("vp", "velocity", False, (0, 1 - 1e-3)),  # where upstream leaves it undefined and then fails
        ("vp", "noise", False, (1e-3, 1 - 1e-3)),
    ],
)
def test_a_little_is_left_out_at_ends_where_something_is_infinite(path, kind, training, interval):
    process = process_of(path, kind)
    assert process.path.interval(process.regular, training) == pytest.approx(interval)


# predictions


@pytest.mark.parametrize(("path", "kind"), EVERY)
def test_predictions_become_each_other_and_come_back(path, kind):
    process = process_of(path, kind, sigma_data=0.7)
    t = inner_times(process)
    parts = Parts(GaussianData().draw(9, 5, seed=1), GaussianData().draw(9, 5, seed=2))
    x = process.noised(parts.data, parts.noise, t)
    said = process.parameterization.of(parts, process.path.at(t), 0.7)
    for other in KINDS:
        there = process.convert(said, x, t, other)
        assert torch.allclose(there, PARAMETERIZATIONS[other].of(parts, process.path.at(t), 0.7), atol=1e-9)
        assert torch.allclose(process_of(path, other, sigma_data=0.7).convert(there, x, t, kind), said, atol=1e-9)


def test_predictions_are_what_their_papers_say():
    data, noise = GaussianData().draw(4, 3, seed=3), GaussianData().draw(4, 3, seed=4)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    linear, vp = process_of("linear").path.at(t), process_of("vp").path.at(t)
    parts = Parts(data, noise)
    assert torch.allclose(PARAMETERIZATIONS["velocity"].of(parts, linear), data - noise)
    expected = vp.alpha[:, None] * noise - vp.sigma[:, None] * data
    assert torch.allclose(PARAMETERIZATIONS["v"].of(parts, vp), expected)
    velocity = process_of("linear")
    x = velocity.noised(data, noise, t)
    assert torch.allclose(velocity.convert(data - noise, x, t, "data"), x + (1 - t)[:, None] * (data - noise))
    assert torch.allclose(velocity.convert(data - noise, x, t, "score"), -noise / (1 - t)[:, None])


def test_the_preconditioned_prediction_is_that_of_the_edm_paper():
    process = process_of("edm", "edm", sigma_data=0.5)
    sigma, sd = torch.tensor([0.01, 0.5, 30.0], dtype=torch.float64)[:, None], 0.5
    said, x = GaussianData().draw(3, 4, seed=5), GaussianData().draw(3, 4, seed=6)
    skip, out = sd**2 / (sigma**2 + sd**2), sigma * sd / (sigma**2 + sd**2).sqrt()
    assert torch.allclose(process.convert(said, x, sigma[:, 0], "data"), skip * x + out * said)
    read = []
    process.predict(lambda scaled, clock: read.append((scaled, clock)) or scaled, x, sigma[:, 0])
    assert torch.allclose(read[0][0], x / (sigma**2 + sd**2).sqrt())
    assert torch.allclose(read[0][1], sigma[:, 0].log() / 8)


def test_the_loss_of_the_preconditioned_prediction_is_that_of_the_edm_paper():
    process = process_of("edm", "edm", sigma_data=0.5)
    data, noise = GaussianData().draw(6, 4, seed=7), GaussianData().draw(6, 4, seed=8)
    sigma = torch.logspace(-2, 1, 6, dtype=torch.float64)
    x = data + sigma[:, None] * noise
    denoised = process.convert(0.3 * x / torch.hypot(sigma, torch.tensor(0.5))[:, None], x, sigma, "data")
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    expected = weight * (denoised - data).square().mean(dim=1)
    assert torch.allclose(process.losses(lambda scaled, clock: 0.3 * scaled, data, sigma, noise).double(), expected)


def test_on_data_of_variance_1_v_and_the_preconditioned_prediction_are_one():
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    at = process_of("vp").path.at(t)
    (a, b), (c, d) = (PARAMETERIZATIONS[kind].mixture(at, 1.0) for kind in ("v", "edm"))
    assert torch.allclose(a, -c) and torch.allclose(b, -d)


# times


def test_times_are_drawn_as_their_density_says():
    u = torch.tensor([0.1, 0.5, 0.9])
    assert process_of("linear").times(u).tolist() == pytest.approx([0.1, 0.5, 0.9])
    assert process_of("linear", "noise").times(u)[0] == pytest.approx(1e-3 + 0.1 * 0.998)
    logit = process_of("linear", times="logit_normal", logit_mean=0.5)
    assert logit.times(u)[1] == pytest.approx(1 / (1 + math.exp(-0.5)))
    edm = process_of("edm", "edm")
    assert edm.times(u)[1] == pytest.approx(math.exp(-1.2))
    at = process_of("gvp", times="log_normal").path.at(process_of("gvp", times="log_normal").times(u))
    assert torch.allclose((at.sigma / at.alpha).log(), edm.times(u).log())  # the same noise on another path


def test_the_shift_of_times_is_by_the_root_of_its_scale():
    plain, shifted = (process_of(times="logit_normal", shift_scale=s).times(torch.tensor([0.3]))[0] for s in (1.0, 9.0))
    assert shifted == pytest.approx(3 * plain / (1 + 2 * plain))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("times", ["uniform", "logit_normal", "log_normal"])
def test_no_draw_is_so_rare_that_it_is_not_finite(path, times):
    process = process_of(path, "edm", times=times)
    t = process.times(torch.tensor([0.0, 1.0]))
    losses = process.losses(lambda x, clock: x, torch.ones(2, 3), t, torch.ones(2, 3))
    assert bool(losses.isfinite().all())


# floors


def mean_loss(process, network, data):
    """The mean over evenly spread times, dense where some integrands are steep."""
    z = (torch.arange(len(data), dtype=torch.float64) + 0.5) / len(data)
    u, density = 0.5 - 0.5 * (math.pi * z).cos(), 0.5 * math.pi * (math.pi * z).sin()
    losses = process.losses(network, data, process.times(u), GaussianData().draw(*data.shape, seed=11))
    return float((losses * density).mean())


@pytest.mark.parametrize("std", [1.0, 0.5])
@pytest.mark.parametrize(("path", "kind"), EVERY)
def test_the_best_network_on_a_gaussian_attains_the_floor(path, kind, std):
    process, gaussian = process_of(path, kind), GaussianData(std=std)
    attained = mean_loss(process, gaussian.network(process), gaussian.draw(20_000, 16))
    assert attained == pytest.approx(floor_loss(process, std), rel=0.01)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", ["noise", "score", "v"])
def test_it_does_so_under_each_weighting_of_errors(kind, weighting):
    process, gaussian = process_of("gvp", kind, weighting=weighting), GaussianData(std=0.5)
    attained = mean_loss(process, gaussian.network(process), gaussian.draw(20_000, 16))
    assert attained == pytest.approx(floor_loss(process, 0.5), rel=0.01)


def test_floors_are_the_closed_forms():
    assert floor_loss(process_of("linear")) == pytest.approx(math.pi / 2, rel=1e-6)
    assert floor_loss(process_of("linear"), std=0.5) == pytest.approx(math.pi / 4, rel=1e-6)
    assert floor_loss(process_of("gvp")) == pytest.approx((math.pi / 2) ** 2, rel=1e-6)
    assert floor_loss(Diffusion(EDM_CONFIG)) == pytest.approx(1, rel=1e-6)
    assert floor_loss(Diffusion(V_CONFIG)) == pytest.approx(1, rel=1e-6)
    assert zero_loss(process_of("linear")) == pytest.approx(2, rel=1e-6)
    assert zero_loss(process_of("gvp")) == pytest.approx(floor_loss(process_of("gvp")), rel=1e-6)


def test_the_floor_of_vp_is_its_integral():
    def rate(back):
        log_alpha, slope = -0.25 * 19.9 * back**2 - 0.05 * back, 0.5 * 19.9 * back + 0.05
        return (slope * math.exp(log_alpha)) ** 2 / -math.expm1(2 * log_alpha)

    integral = scipy.integrate.quad(rate, 1e-5, 1, points=[1e-4, 1e-3, 1e-2, 0.1], limit=200)[0] / (1 - 1e-5)
    assert floor_loss(process_of("vp")) == pytest.approx(integral, rel=1e-5)


def test_weighted_as_velocities_the_losses_of_all_predictions_are_one():
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    data, noise = GaussianData().draw(2, 5, seed=1), GaussianData().draw(2, 5, seed=2)
    losses = []
    for kind in KINDS:
        process = process_of("gvp", kind, weighting="velocity")
        losses.append(process.losses(GaussianData(0.3, 0.8).network(process), data, t, noise))
    for other in losses[1:]:
        assert torch.allclose(losses[0], other, rtol=1e-5)


def test_the_likelihood_weighting_is_that_of_the_noise():
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    noise_weight = process_of("vp", "noise", weighting="likelihood").weight(process_of("vp").path.at(t))
    at = process_of("vp").path.at(t)
    rate = at.alpha_dot / at.alpha * at.sigma**2 - at.sigma * at.sigma_dot
    assert torch.allclose(noise_weight, rate / at.sigma**2)


def test_the_optimum_is_what_knowing_every_row_by_heart_leaves():
    process, rows = process_of("linear"), GaussianData().draw(8, 256)
    known = optimal_loss(process, rows)
    assert 0 < known < 0.3  # eight rows lie far apart: only close to the noise are they hidden
    single = optimal_loss(process, rows[:1])
    assert single == pytest.approx(0, abs=1e-12)
    many = optimal_loss(process, GaussianData().draw(4096, 1))
    assert many == pytest.approx(floor_loss(process), rel=0.12)  # a crowd on a line is a Gaussian again


def test_the_explained_fraction_is_0_at_the_floor_and_1_at_the_optimum():
    floor = floor_loss(process_of("linear"))
    assert explained_fraction(floor, floor) == 0 and explained_fraction(0.2, floor, 0.2) == 1
    assert explained_fraction(1.9, floor) < 0  # the loss that users of a well-known trainer ask about
    assert math.isnan(explained_fraction(1.0, 1.0, 1.0))


def test_a_process_that_cannot_be_is_refused():
    for fields, word in [
        ({"path": "lineer"}, "linear, gvp"),
        ({"parameterization": "x"}, "velocity, data"),
        ({"times": "even"}, "logit_normal"),
        ({"weighting": "some"}, "likelihood"),
        ({"sigma_data": 0.0}, "be positive"),
        ({"beta_max": 0.05}, "beta_min = 0.1"),
        ({"sigma_max": 0.001}, "sigma_min = 0.002"),
    ]:
        with pytest.raises(ConfigError, match=word):
            DiffusionConfig(**fields)


def test_a_process_comes_back_from_its_json():
    assert DiffusionConfig.from_json(EDM_CONFIG.to_json()) == EDM_CONFIG
