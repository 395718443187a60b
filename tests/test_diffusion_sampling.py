"""Samplers: their orders, the Gaussian they must reproduce, churn, SDEs, guidance, and seeds."""

import math

import pytest
import torch
from diffusion_toys import GaussianData, process_of

from meshgpt.errors import GenerationError
from meshgpt.shapes.diffusion.process import EDM_CONFIG, PATHS, Diffusion
from meshgpt.shapes.diffusion.sampler import DIFFUSIONS, METHODS, Flow, Sampler, guided, sample, sde_step
from meshgpt.shapes.diffusion.solvers import STEPS, dopri5, integrate
from meshgpt.shapes.diffusion.streams import NoiseStreams

GAUSSIAN = GaussianData(mean=0.7, std=0.5)
ORDERS = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
SPANS = {"edm": (2.0, 0.3)}
SPAN = (0.1, 0.7)


class Wide(NoiseStreams):
    """Streams in double precision, so that only the error of the method is left."""

    def normal(self, *shape):
        return super().normal(*shape).double()


def flow_of(path, kind="velocity"):
    process = process_of(path, kind)
    return Flow(process, GAUSSIAN.network(process))


def order_between(errors):
    """The powers of the step's size with which the errors of 1, 1/2, 1/4, ... of it fall."""
    return [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]


# orders of convergence


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", STEPS)
def test_the_error_of_a_solver_falls_with_its_order(method, path):
    flow, (start, end) = flow_of(path), SPANS.get(path, SPAN)
    x = GAUSSIAN.draw(1, 8)
    exact, errors = GAUSSIAN.carried(flow.process, x, start, end), []
    for steps in (8, 16, 32):
        reached = integrate(flow.velocity, x, torch.linspace(start, end, steps + 1, dtype=torch.float64), method)
        errors.append(float((reached - exact).abs().max()))
    assert (
        order_between(errors)[-1] > ORDERS[method] - 0.3
    )  # half way is of order 3 where the Gaussian's path is straight
    assert errors[-1] < 0.05


@pytest.mark.parametrize("method", STEPS)
def test_on_an_equation_of_no_symmetry_the_order_is_just_that(method):
    def reached(steps, method):
        times, x = torch.linspace(0, 2, steps + 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
        return float(integrate(lambda x, t: x * t.cos()[:, None] + x.square() / 8, x, times, method))

    errors = [abs(reached(steps, method) - reached(200, "rk4")) for steps in (8, 16, 32)]
    assert order_between(errors)[-1] == pytest.approx(ORDERS[method], abs=0.2)


@pytest.mark.parametrize("path", ["gvp", "vp"])
def test_steps_with_data_and_noise_as_predicted_are_of_order_1(path):
    flow, x = flow_of(path), GAUSSIAN.draw(1, 8)
    exact, errors = GAUSSIAN.carried(flow.process, x, 0.1, 0.9), []
    for steps in (8, 16, 32):
        times, reached = torch.linspace(0.1, 0.9, steps + 1, dtype=torch.float64), x
        for t, after in zip(times[:-1], times[1:], strict=True):
            reached = flow.ddim_step(reached, t[None], after[None])
        errors.append(float((reached - exact).abs().max()))
    assert order_between(errors)[-1] == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("path", ["linear", "edm"])
def test_on_straight_paths_such_a_step_is_the_step_along_the_velocity(path):
    flow, x = flow_of(path), GAUSSIAN.draw(3, 8)
    t, after = (torch.full((3,), value, dtype=torch.float64) for value in (0.4, 0.3))
    assert torch.allclose(flow.ddim_step(x, t, after), STEPS["euler"](flow.velocity, x, t, after))


@pytest.mark.parametrize("path", PATHS)
def test_the_adaptive_solver_is_as_near_as_it_is_asked_to_be(path):
    flow, (start, end) = flow_of(path), SPANS.get(path, SPAN)
    x = GAUSSIAN.draw(5, 8)
    exact = GAUSSIAN.carried(flow.process, x, start, end)
    for tolerance in (1e-3, 1e-6, 1e-9):
        calls = []

        def velocity(x, t, calls=calls):
            calls.append(t)
            return flow.velocity(x, t)

        reached = dopri5(velocity, x, start, end, (tolerance, tolerance))
        assert float((reached - exact).abs().max()) < 20 * tolerance
        assert len(calls) < 400
    alone = dopri5(flow.velocity, x[2:3], start, end, (1e-3, 1e-3))
    assert torch.equal(alone, dopri5(flow.velocity, x, start, end, (1e-3, 1e-3))[2:3])  # its steps are its own


def test_a_fifth_order_step_has_an_error_of_sixth_order():
    errors = []
    for size in (0.2, 0.1, 0.05):  # one step, taken whatever its error
        reached = dopri5(lambda x, t: x, torch.ones(1, 1, dtype=torch.float64), 0.0, size, (1e-30, 1e-30), max_steps=1)
        errors.append(abs(float(reached) - math.exp(size)))
    assert order_between(errors)[-1] == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize("path", PATHS)
def test_the_way_back_to_the_noise_returns(path):
    flow, (start, end) = flow_of(path), SPANS.get(path, SPAN)
    x, times = GAUSSIAN.draw(4, 8), torch.linspace(start, end, 41, dtype=torch.float64)
    there = integrate(flow.velocity, x, times, "rk4")
    assert torch.allclose(integrate(flow.velocity, there, times.flip(0), "rk4"), x, atol=1e-4)


class Impulses:
    """Noise by which a linear sampler shows its variance exactly: row i is 1 in the i-th draw, 0 in others."""

    def __init__(self, rows):
        self.rows, self.drawn = rows, 0

    def normal(self, *shape):
        values = torch.zeros(self.rows, *shape, dtype=torch.float64)
        values[self.drawn] = 1
        self.drawn += 1
        return values


@pytest.mark.parametrize("form", ["sigma", "constant"])
@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("path", ["linear", "edm"])
def test_the_variance_from_an_sde_nears_the_true_one_with_order_1(path, method, form):
    centred, process = GaussianData(0.0, 0.5), process_of(path)
    flow, (start, end), errors = Flow(process, centred.network(process)), SPANS.get(path, SPAN), []
    for steps in (8, 16, 32):
        source, times = Impulses(steps + 1), torch.linspace(start, end, steps + 1, dtype=torch.float64)
        x = centred.spread(process, start) * source.normal(1)
        for t, after in zip(times[:-1], times[1:], strict=True):
            ends = (t.expand(len(x)), after.expand(len(x)))
            x = sde_step(Sampler(method=method, diffusion=form), flow, source, x, *ends)
        errors.append(abs(float(x.square().sum()) - centred.spread(process, end) ** 2))
    assert order_between(errors)[-1] > 0.7 and errors[-1] < 0.05


# a Gaussian is reproduced


@pytest.mark.parametrize("kind", ["velocity", "noise", "score", "data", "v", "edm"])
@pytest.mark.parametrize("path", PATHS)
def test_samples_of_a_known_gaussian_have_its_mean_and_spread(path, kind):
    process = process_of(path, kind)
    drawn = sample(process, GAUSSIAN.network(process), Wide(0, 300), (64,), Sampler(num_steps=40))
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("path", ["gvp", "edm"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_at_the_data(method, path):
    process, steps = process_of(path), 80 if method in ("euler", "ddim") else 25
    drawn = sample(process, GAUSSIAN.network(process), Wide(0, 200), (64,), Sampler(method=method, num_steps=steps))
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.06)


@pytest.mark.parametrize(
    ("path", "form"), [*(("linear", form) for form in DIFFUSIONS), ("gvp", "sbdm"), ("vp", "sbdm"), ("edm", "sigma")]
)
def test_every_sde_ends_at_the_data(path, form):
    process = process_of(path)
    sampler = Sampler(method="heun", diffusion=form, num_steps=50)
    drawn = sample(process, GAUSSIAN.network(process), Wide(0, 100), (64,), sampler)
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.08)


@pytest.mark.parametrize("path", PATHS)
def test_noise_added_on_the_way_leaves_the_spread_as_it_is(path):
    process = process_of(path)
    sampler = Sampler(num_steps=60, churn=20.0, churn_range=(0.05, 50.0), spacing="karras")
    drawn = sample(process, GAUSSIAN.network(process), Wide(0, 200), (64,), sampler)
    plain = sample(process, GAUSSIAN.network(process), Wide(0, 200), (64,), Sampler(num_steps=60, spacing="karras"))
    assert not torch.allclose(drawn, plain)
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.04)


def test_the_steps_on_edm_are_those_of_its_paper():
    times = Sampler(num_steps=18).times(Diffusion(EDM_CONFIG))
    expected = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert times.tolist() == pytest.approx(expected)
    calls = []
    process = Diffusion(EDM_CONFIG)
    sample(process, lambda x, clock: calls.append(clock) or x, NoiseStreams(0, 1), (2,), Sampler(num_steps=18))
    assert len(calls) == 35


def test_steps_go_to_the_very_end_where_the_path_lets_them():
    assert Sampler(num_steps=4).times(process_of("linear")).tolist() == [0, 0.25, 0.5, 0.75, 1]
    ends = Sampler(num_steps=4, spacing="uniform").times(process_of("linear", "noise"))
    assert ends[[0, -1]].tolist() == pytest.approx([1e-3, 1 - 1e-3]) and len(ends) == 4


def test_steps_are_small_where_a_prediction_says_nothing():
    process, unsure = process_of("gvp", "noise"), GAUSSIAN.network(process_of("gvp", "noise"))
    generator = torch.Generator().manual_seed(0)

    def network(x, clock):
        return unsure(x, clock) + 0.02 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    drawn = [sample(process, network, NoiseStreams(0, 200), (16,), Sampler(num_steps=20, spacing=spacing))
             for spacing in (None, "uniform")]  # fmt: skip
    off = [abs(float(found.std()) - GAUSSIAN.std) for found in drawn]
    assert off[0] < 0.05 < off[1]


# seeds and guidance


def test_what_a_seed_gives_does_not_depend_on_its_batch():
    process = process_of("linear")
    network = GAUSSIAN.network(process)
    for sampler in (Sampler(), Sampler(method="euler", diffusion="sigma"), Sampler(method="dopri5")):
        together = sample(process, network, NoiseStreams([5, 6, 7], 3), (4, 2), sampler)
        alone = sample(process, network, NoiseStreams(6, 1), (4, 2), sampler)
        assert torch.equal(together[1:2], alone)
        assert not torch.equal(together[0], together[2])


def test_no_samples_are_an_answer_too():
    process = process_of("linear")
    assert sample(process, GAUSSIAN.network(process), NoiseStreams(0, 0), (4, 2)).shape == (0, 4, 2)


def test_guidance_is_the_standard_formula():
    x, clock = torch.zeros(2, 3), torch.zeros(2)

    def both(x, clock):
        return torch.full_like(x, 3.0), torch.full_like(x, 1.0)

    for scale, expected in ((0.0, 1.0), (1.0, 3.0), (2.5, 6.0)):
        assert torch.equal(guided(both, scale)(x, clock), torch.full((2, 3), expected))


def test_guidance_moves_a_gaussian_as_far_as_it_should():
    process = process_of("linear")
    asked, unasked = (GaussianData(mean, 0.5).network(process) for mean in (1.0, 0.0))
    network = guided(lambda x, clock: (asked(x, clock), unasked(x, clock)), 3.0)
    drawn = sample(process, network, Wide(0, 400), (16,), Sampler(num_steps=50))
    assert float(drawn.mean()) == pytest.approx(3.0, abs=0.05)  # the difference of the means is constant
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"method": "eular"}, "euler, heun"),
        ({"num_steps": 1}, "at least 2"),
        ({"spacing": "even"}, "karras"),
        ({"diffusion": "some"}, "sbdm"),
        ({"churn": -1.0}, "not be negative"),
        ({"rho": 0.0}, "be positive"),
        ({"sigma_max": 0.001}, "above sigma_min"),
        ({"churn": 1.0, "diffusion": "sigma"}, "be 0 with an SDE"),
        ({"method": "rk4", "diffusion": "sigma"}, "euler or heun"),
        ({"method": "dopri5", "churn": 1.0}, "dopri5"),
        ({"tolerances": (1e-3,)}, "two numbers"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(fields, word):
    with pytest.raises(GenerationError, match=word):
        Sampler(**fields)
