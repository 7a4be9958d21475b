from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from bettersynth_assets.config.recipe import Sampling
from bettersynth_assets.models.sampling import draw_tokens, draw_uniforms, generate_arguments, limits

LOGITS = torch.log(torch.tensor([0.4, 0.1, 0.3, 0.05, 0.15]))
DRAWS = 20_000


@cache
def uniforms():
    """Numbers of the first token of all rows. They depend on nothing but keys and seed, as a test below shows."""
    return torch.from_numpy(draw_uniforms(Sampling(), [f"row{index}" for index in range(DRAWS)], 1)[:, 0])


def shares(sampling, logits=LOGITS, draws=DRAWS):
    """Return how often each token is the first one, over this many rows."""
    scores = limits(sampling)(None, logits.expand(draws, -1))
    return np.bincount(draw_tokens(scores, uniforms()[:draws]).numpy(), minlength=len(logits)) / draws


@pytest.mark.slow
def test_token_frequencies_match_their_probabilities():
    np.testing.assert_allclose(shares(Sampling()), [0.4, 0.1, 0.3, 0.05, 0.15], atol=0.012)


def test_temperature_flattens_and_sharpens():
    for temperature in (0.5, 2.0):
        expected = (LOGITS / temperature).softmax(0).numpy()
        np.testing.assert_allclose(shares(Sampling(temperature=temperature)), expected, atol=0.012)


def test_top_k_samples_only_from_the_likeliest_tokens():
    np.testing.assert_allclose(shares(Sampling(top_k=2)), [4 / 7, 0, 3 / 7, 0, 0], atol=0.012)


def test_top_p_samples_only_from_the_likeliest_tokens_that_reach_it():
    np.testing.assert_allclose(shares(Sampling(top_p=0.75)), np.array([8, 0, 6, 0, 3]) / 17, atol=0.012)


@pytest.mark.slow
def test_sampling_reaches_the_last_token_of_a_full_size_vocabulary():
    logits = torch.full((50_304,), float("-inf"))
    logits[[0, 777, 50_303]] = 0.0
    found = shares(Sampling(), logits, draws=500)[[0, 777, 50_303]]  # more of them would take gigabytes
    np.testing.assert_allclose(found, 1 / 3, atol=0.07)
    assert found.sum() == pytest.approx(1)
    last = torch.tensor([1 - 2.0**-24])
    assert draw_tokens(torch.zeros(1, 50_304), last).item() == 50_303


def test_random_numbers_of_a_row_depend_only_on_its_key_and_the_random_seed():
    both = draw_uniforms(Sampling(seed=3), ["a", "b"], 6)
    assert both.shape == (2, 6) and both.dtype == np.float32 and (both >= 0).all() and (both < 1).all()
    np.testing.assert_array_equal(draw_uniforms(Sampling(seed=3, top_k=9), ["b"], 6)[0], both[1])
    np.testing.assert_array_equal(draw_uniforms(Sampling(seed=3), ["b"], 4)[0], both[1, :4])
    assert not np.array_equal(both[0], both[1])
    assert not np.array_equal(draw_uniforms(Sampling(seed=4), ["a"], 6)[0], both[0])


def test_without_sampling_generate_gets_only_the_arguments_for_greedy_decoding():
    assert generate_arguments(None, None) == {"do_sample": False, "num_beams": 1}
