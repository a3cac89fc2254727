"""Algorithm 2's votes: against one model at a time, whatever the blocks, and with ties and overflow."""

import numpy as np
import pytest
import torch

from crfl.certification import exact_bounds
from crfl.certification.smoothing import smooth
from crfl.errors import CertificateError
from crfl.models.softmax import SoftmaxRegression

MODEL = SoftmaxRegression(7, 4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(samples=30, seed=1):
    g = generator(seed)
    return torch.randn(MODEL.num_params, generator=g), torch.randn(samples, 7, generator=g)


class Plain:
    """The same model, a user's own; it says how many models judge samples together."""

    num_classes, num_params = MODEL.num_classes, MODEL.num_params

    def __init__(self, together=16):
        self.together = together

    def noisy_logits(self, models, x):
        return MODEL.logits(models, x).permute(2, 0, 1)

    def models_per_block(self, limit):
        return self.together


def one_by_one(params, x, noise, samples, seed=0):
    """Votes of each model alone, from the same draws: P numbers, rounded up to whole lanes, a model."""
    g, counts = generator(seed), np.zeros((len(x), 4), dtype=np.int64)
    width = -(-MODEL.num_params // 16) * 16
    for _ in range(samples):
        noisy = params + noise * torch.randn(width, generator=g)[: MODEL.num_params]
        for row, choice in enumerate(MODEL.logits(noisy, x).argmax(dim=1).tolist()):
            counts[row, choice] += 1
    return counts


@pytest.mark.parametrize("model", [MODEL, Plain()])
def test_equals_one_model_at_a_time(model):
    params, x = problem()
    found = smooth(model, params, x, noise=0.5, samples=137, generator=generator())
    np.testing.assert_array_equal(found.counts, one_by_one(params, x, 0.5, 137))
    assert (found.samples, found.noise) == (137, 0.5)
    assert found.counts.dtype == np.int64
    assert (found.counts.sum(axis=1) == 137).all()


def test_the_default_dtype_does_not_matter():
    """bfloat16 would count to 256 only, and two classes have 512 models in a block."""
    model, (_, x) = SoftmaxRegression(7, 2), problem()
    params = torch.randn(model.num_params, generator=generator(5))
    expected = smooth(model, params, x, noise=1.0, samples=1000, generator=generator())
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = smooth(model, params, x, noise=1.0, samples=1000, generator=generator())
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found.counts, expected.counts)


def test_finite_samples_whose_sum_overflows():
    params, x = problem(samples=4)
    x[:, 0] = 2e38
    found = smooth(MODEL, params * 1e-3, x, noise=1e-4, samples=20, generator=generator())
    assert (found.counts.sum(axis=1) == 20).all()


class Broken(Plain):
    """Its logits (C, k, m) are what it is given, whatever the samples."""

    num_classes = 2

    def __init__(self, logits):
        super().__init__()
        self.found = logits

    def noisy_logits(self, models, x):
        return self.found


@pytest.mark.parametrize("shape", [(2, 1, 2), (2, 2, 1)], ids=["another sample", "another model"])
def test_an_overflow_is_not_made_up_for_by_a_tie(shape):
    """One vote too few here and one too many there would have the right total."""
    model, (params, x) = Broken(torch.tensor([torch.nan, 1.0, 0.0, 1.0]).view(shape)), problem(shape[2])
    with pytest.raises(CertificateError, match="logits: got infinite or NaN"):
        smooth(model, params, x, noise=0.1, samples=shape[1], generator=generator())


def test_more_models_and_samples_than_fit_in_a_block():
    """512 samples and 256 models of four classes are judged together."""
    params, x = problem(1100)
    found = smooth(MODEL, params, x, noise=0.5, samples=300, generator=generator())
    rows = [0, 511, 512, 1023, 1024, 1099]
    np.testing.assert_array_equal(found.counts[rows], one_by_one(params, x[rows], 0.5, 300))


@pytest.mark.parametrize("together", [1, 7, 49, 50, 10**6])
def test_blocks_do_not_matter(together):
    params, x = problem()
    whole = smooth(MODEL, params, x, noise=0.5, samples=50, generator=generator())
    assert smooth(Plain(together), params, x, noise=0.5, samples=50, generator=generator()) == whole


def test_a_large_model_is_judged_in_pieces():
    """16 models of a million parameters fill the memory for a block."""
    model = SoftmaxRegression(2**18, 4)
    params, x = (
        1e-3 * torch.randn(model.num_params, generator=generator(3)),
        torch.randn(5, 2**18, generator=generator(4)),
    )
    whole = smooth(model, params, x, noise=1e-3, samples=18, generator=generator())
    g, counts = generator(), np.zeros((5, 4), dtype=np.int64)
    for _ in range(18):
        noisy = params + 1e-3 * torch.randn(-(-model.num_params // 16) * 16, generator=g)[: model.num_params]
        counts[np.arange(5), model.logits(noisy, x).argmax(dim=1).numpy()] += 1
    np.testing.assert_array_equal(whole.counts, counts)


def test_float64_parameters_vote_in_float64():
    """Logits that differ by less than float32 can hold."""
    params, x = torch.zeros(MODEL.num_params, dtype=torch.float64), torch.zeros(3, 7)
    params[-4:] = torch.tensor([1.0, 1.0 + 1e-12, 0.0, 0.0], dtype=torch.float64)
    votes = smooth(MODEL, params, x, noise=0.0, samples=5, generator=generator())
    assert votes.counts.tolist() == [[0, 5, 0, 0]] * 3


def test_votes_are_short_and_compared_by_content():
    params, x = problem(3000)
    first, again = (smooth(MODEL, params, x, noise=0.5, samples=5, generator=generator()) for _ in range(2))
    assert first == again
    assert first != smooth(MODEL, params, x, noise=0.5, samples=5, generator=generator(1))
    assert len(repr(first)) < 100
    assert first.to_frame().shape == (3000, 4)


def test_models_do_not_depend_on_the_test_samples():
    params, x = problem()
    whole = smooth(MODEL, params, x, noise=0.5, samples=50, generator=generator())
    part = smooth(MODEL, params, x[[3, 17]], noise=0.5, samples=50, generator=generator())
    np.testing.assert_array_equal(whole.counts[[3, 17]], part.counts)
    other = smooth(MODEL, params, x, noise=0.5, samples=50, generator=generator(1))
    assert (whole.counts != other.counts).any()


def test_arguments_stay_as_they_were():
    params, x = problem()
    copies = params.clone(), x.clone()
    smooth(MODEL, params, x, noise=0.5, samples=5, generator=generator())
    assert torch.equal(params, copies[0])
    assert torch.equal(x, copies[1])


def test_frequencies_are_the_exact_probabilities():
    """Noise on every coordinate, the bias included: logits spread by sigma ||(x, 1)||."""
    params, x = problem(200)
    votes = smooth(MODEL, params, x, noise=0.8, samples=4000, generator=generator())
    logits, norms = MODEL.logits(params, x).double().numpy(), np.hypot(1.0, x.norm(dim=1).double().numpy())
    exact = exact_bounds(logits, 0.8 * norms)
    share = votes.counts[np.arange(200), exact.prediction] / 4000
    deviation = np.sqrt(exact.p_a * (1 - exact.p_a) / 4000)
    assert np.abs((share - exact.p_a) / deviation).max() < 5
    assert np.abs(share - exact.p_a).mean() < 0.7 / np.sqrt(4000)


def test_without_noise_all_models_agree():
    params, x = problem()
    votes = smooth(MODEL, params, x, noise=0.0, samples=9, generator=generator())
    assert (votes.counts.max(axis=1) == 9).all()
    np.testing.assert_array_equal(votes.counts.argmax(axis=1), MODEL.logits(params, x).argmax(dim=1).numpy())


@pytest.mark.parametrize("model", [MODEL, Plain()])
def test_ties_go_to_the_lowest_class(model):
    params = torch.zeros(MODEL.num_params)
    params[-3:] = 1.0  # the biases of classes 1, 2 and 3
    votes = smooth(model, params, torch.zeros(5, 7), noise=0.0, samples=3, generator=generator())
    assert votes.counts.tolist() == [[0, 3, 0, 0]] * 5


def test_wrong_inputs_are_named():
    params, x = problem()

    def fails(match, params=params, x=x, noise=0.1, samples=5):
        with pytest.raises(CertificateError, match=match):
            smooth(MODEL, params, x, noise=noise, samples=samples, generator=generator())

    fails("params", params=params * torch.nan)
    fails("x: got", x=x / 0)
    fails("noise", noise=-0.1)
    fails("samples", samples=0)
    fails("logits", params=params * 1e30, x=x * 1e30)
