"""The server's steps: closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crfl import rng
from crfl.server import norm, perturb, project, shrink


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_norms_are_of_the_last_dimension_and_in_float64():
    params = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[5.0, 12.0], [3e38, 3e38]]])
    assert norm(params).tolist() == [[5.0, 0.0], [13.0, pytest.approx(3e38 * math.sqrt(2), rel=1e-6)]]


@given(arrays("float64", 5, elements=st.floats(-1e3, 1e3)), st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_a_projection_is_the_nearest_vector_of_the_ball(values, radius):
    params = torch.from_numpy(values)
    found, length = project(params, radius), float(params.norm())
    if length <= radius:
        assert torch.equal(found, params)
    else:
        torch.testing.assert_close(found, params * (radius / length), rtol=1e-14, atol=1e-300)
        assert float(found.norm()) == pytest.approx(radius, rel=1e-14)


def test_a_projection_has_a_radius_for_each_vector():
    params = normal(3, 4, 50)
    radii = torch.tensor([0.5, math.inf, 3.0, 1e9]).double()
    for vectors, projected in zip(params, project(params, radii), strict=True):
        for vector, radius, found in zip(vectors, radii, projected, strict=True):
            assert torch.equal(found, project(vector, float(radius)))
    assert torch.equal(project(torch.zeros(4), 1.0), torch.zeros(4))


@pytest.mark.parametrize("radius", [1.0, 1e-2, 1e-4, 1e-6, 1e-30])
def test_the_largest_and_the_smallest_numbers_are_projected_too(radius):
    for update in (
        torch.full((7850,), 3e38),
        normal(7850, dtype=torch.float32) * 7e37,
        torch.full((50,), 1e150, dtype=torch.float64),
    ):
        assert float(norm(project(update, radius))) == pytest.approx(radius, rel=1e-6)
    inside = torch.tensor([1e-45, 1e-40, 0.5])
    assert torch.equal(project(inside, 1.0), inside)


def test_what_has_no_finite_norm_has_no_projection():
    for value in (math.nan, math.inf, 1e200):
        assert project(torch.full((3,), value, dtype=torch.float64), 1.0).isnan().all()


def test_shrinking_takes_a_share_away():
    params = normal(2, 3)
    torch.testing.assert_close(
        shrink(params, torch.tensor([0.25, 1.0]).double()), params * torch.tensor([[0.75], [0.0]])
    )
    assert torch.equal(shrink(params, torch.zeros(2).double()), params)
    tiny = torch.tensor([2.0**-23]).double()  # which float32 tells from 0 in 1 - kappa, but only just
    assert torch.equal(shrink(torch.ones(1, 4), tiny), torch.full((1, 4), 1 - 2.0**-23))


def test_noise_is_one_draw_for_all_runs_times_their_deviation():
    params = normal(3, 20_000)
    noisy = perturb(params, torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64), seed=4, round_=7)
    _, second, third = noisy - params
    assert torch.equal(noisy[0], params[0])
    torch.testing.assert_close(second * 20, third, rtol=1e-10, atol=1e-12)
    draw = torch.randn(20_000, generator=rng.stream(4, "noise", 7))
    torch.testing.assert_close(third, 2 * draw.double(), rtol=1e-12, atol=1e-14)
    assert float(second.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(second.mean())) < 0.003
    assert not torch.equal(perturb(params[0], 1.0, 4, 8), perturb(params[0], 1.0, 4, 7))
    assert torch.equal(perturb(params, 0.0, 4, 7), params)


def test_the_noise_does_not_depend_on_the_precision():
    exact, single = (perturb(torch.zeros(100, dtype=t), 0.3, 0, 1) for t in (torch.float64, torch.float32))
    torch.testing.assert_close(exact.float(), single, rtol=2e-7, atol=0)
