"""Logistic regression of episodes is the minimum that scikit-learn approaches, whatever lies beside an episode."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from benchmarks.logistic_regression import features_of
from metantk_core.errors import InputError
from metantk_core.meta_training.logistic_regression import fit_logistic_regression


def gradient_of_the_definition(features, labels, weights, intercepts, inverse_regularisation):
    """Return the gradient of the objective as the papers and scikit-learn write it, in all d features."""
    weights, intercepts = weights.clone().requires_grad_(), intercepts.clone().requires_grad_()
    loss = F.cross_entropy(features @ weights.T + intercepts, labels, reduction="sum")
    objective = loss + weights.square().sum() / (2 * inverse_regularisation)
    return torch.cat([part.flatten() for part in torch.autograd.grad(objective, [weights, intercepts])])


@pytest.mark.parametrize(("shots", "copies"), [(1, 1), (5, 1)])
def test_of_7500_predictions_none_differs_from_scikit_learn_at_its_most_exact(shots, copies):
    support, labels, queries = features_of(100, shots, copies=copies)
    logits = fit_logistic_regression(support, labels, 5).logits(queries)
    for episode in range(100):
        theirs = LogisticRegression(C=1, tol=1e-10, max_iter=10_000).fit(support[episode], labels[episode])
        assert np.array_equal(theirs.predict(queries[episode]), logits[episode].argmax(1))
        assert np.abs(theirs.decision_function(queries[episode]) - logits[episode].numpy()).max() < 1e-5
    accuracy = (logits.argmax(2) == torch.arange(5).repeat_interleave(15)).double().mean()
    assert 0.3 < accuracy < 0.95  # neither guessing nor obvious: a wrong solution would show


@pytest.mark.parametrize("inverse_regularisation", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize(
    "sizes",
    [
        {"shots": 1},
        {"shots": 3, "copies": 5},
        {"shots": 9, "width": 8},  # more images than features
        {"shots": 2, "ways": 2},
        {"shots": 1, "ways": 20},
    ],
)
def test_the_gradient_of_the_written_out_objective_vanishes(sizes, inverse_regularisation):
    support, labels, _ = features_of(3, **sizes)
    ways = sizes.get("ways", 5)
    found = fit_logistic_regression(support, labels, ways, inverse_regularisation=inverse_regularisation)
    for episode in range(3):
        gradient = gradient_of_the_definition(
            support[episode], labels[episode], found.weights[episode], found.intercepts[episode], inverse_regularisation
        )
        assert gradient.abs().max() < 1e-9
        assert found.weights[episode].sum(0).abs().max() < 1e-9
        assert found.intercepts[episode].sum().abs() < 1e-9


def test_copies_that_are_all_the_same_count_as_more_of_the_same_image():
    support, labels, queries = features_of(2, 1)
    thrice = fit_logistic_regression(support.repeat(1, 3, 1), labels.repeat(1, 3), 5)
    weighted = fit_logistic_regression(support, labels, 5, inverse_regularisation=3.0)
    assert torch.allclose(thrice.logits(queries), weighted.logits(queries), atol=1e-10, rtol=0)


@pytest.mark.parametrize("length", [1e-3, 30.0, 1e4])
def test_features_of_any_length_are_brought_to_the_minimum(length):
    support, labels, _ = features_of(2, 5)
    found = fit_logistic_regression(support * length, labels, 5)
    assert (found.gradient <= 1e-11 * max(1, length)).all()
    assert (found.steps < 40).all()


def test_an_episode_is_the_same_whatever_lies_beside_it():
    support, labels, _ = features_of(37, 2)
    together = fit_logistic_regression(support, labels, 5)
    for episode in (0, 15, 16, 36):
        alone = fit_logistic_regression(support[episode : episode + 1], labels[episode : episode + 1], 5)
        assert torch.allclose(alone.weights[0], together.weights[episode], rtol=0, atol=1e-14)
        assert alone.steps[0] == together.steps[episode]
    assert torch.equal(fit_logistic_regression(support, labels, 5).weights, together.weights)


def test_features_that_are_not_finite_spoil_their_own_episode_alone():
    support, labels, queries = features_of(3, 1)
    broken = support.clone()
    broken[1, 2, 3] = torch.nan
    logits = fit_logistic_regression(broken, labels, 5).logits(queries)
    whole = fit_logistic_regression(support, labels, 5).logits(queries)
    assert logits[1].isnan().all()
    assert torch.equal(logits[::2], whole[::2])


def test_single_precision_features_are_taken_as_they_are_and_solved_in_double():
    support, labels, _ = features_of(2, 1)
    single = fit_logistic_regression(support.float(), labels, 5)
    assert torch.equal(single.weights, fit_logistic_regression(support.float().double(), labels, 5).weights)


@pytest.mark.parametrize(("first", "ways", "regularisation"), [(1, 5, 1.0), (-1, 5, 1.0), (0, 1, 1.0), (0, 5, 0.0)])
def test_labels_and_settings_that_make_no_problem_are_refused(first, ways, regularisation):
    support, labels, _ = features_of(2, 1)
    with pytest.raises(InputError, match="Expected"):
        fit_logistic_regression(support, labels + first, ways, inverse_regularisation=regularisation)
