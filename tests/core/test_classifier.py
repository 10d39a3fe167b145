from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_meta_training import GENOTYPE, TRAIN, changed, source

from metantk_core.errors import InputError
from metantk_core.meta_training import FewShotClassifier, untrained_model
from metantk_core.meta_training.adaptation import adapted_logits

TEST = source("test")
IMAGES = TEST.images.images
SUPPORT, LABELS, QUERIES = IMAGES[[0, 8, 16, 17]], np.array([0, 1, 2, 2]), IMAGES[[1, 2, 9, 10, 18]]


def classifier(**values):
    return FewShotClassifier(untrained_model(GENOTYPE, TRAIN, changed(**values), 0))


def test_probabilities_are_the_softmax_of_adapted_logits():
    found = classifier().predict_proba(SUPPORT, LABELS, QUERIES)
    config = changed()

    def numbers(pixels):
        return torch.from_numpy((pixels / 255 - 0.5) / 0.3).float()

    network = untrained_model(GENOTYPE, TRAIN, config, 0).network()
    logits = adapted_logits(
        network, numbers(SUPPORT), torch.from_numpy(LABELS), numbers(QUERIES),
        algorithm="maml", learning_rate=config.inner_learning_rate, steps=config.inner_steps,
    )  # fmt: skip
    np.testing.assert_allclose(found, logits.softmax(dim=1).numpy(), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)
    assert found.shape == (5, 3)


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("norm", ["batch_support", "group"])
def test_a_prediction_does_not_depend_on_the_other_queries(norm, algorithm):
    model = classifier(norm=norm, algorithm=algorithm)
    together = model.predict_proba(SUPPORT, LABELS, QUERIES)
    for index in range(len(QUERIES)):
        alone = model.predict_proba(SUPPORT, LABELS, QUERIES[[index]])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-6)


def test_transductive_predictions_do_depend_on_the_other_queries():
    model = classifier(norm="batch_transductive")
    together = model.predict_proba(SUPPORT, LABELS, QUERIES)
    assert np.abs(model.predict_proba(SUPPORT, LABELS, QUERIES[[0]])[0] - together[0]).max() > 1e-4


def test_calls_do_not_influence_each_other_not_even_at_the_same_time():
    model = classifier()
    others = IMAGES[[24, 32, 40]], np.array([0, 1, 2]), IMAGES[[25, 33]]
    expected = model.predict_proba(SUPPORT, LABELS, QUERIES), model.predict_proba(*others)
    with ThreadPoolExecutor(4) as pool:
        requests = [(SUPPORT, LABELS, QUERIES), others] * 8
        for index, found in enumerate(pool.map(lambda request: model.predict_proba(*request), requests)):
            assert np.array_equal(found, expected[index % 2])


def test_relabelling_does_not_need_sorted_support_images():
    model = classifier(norm="group")
    order = np.array([3, 0, 2, 1])
    np.testing.assert_allclose(
        model.predict_proba(SUPPORT[order], LABELS[order].astype(np.int32), QUERIES),
        model.predict_proba(SUPPORT, LABELS, QUERIES),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ((SUPPORT[:2], LABELS[:2], QUERIES), "exactly 3 classes"),
        ((SUPPORT, np.array([0, 1, 2, 3]), QUERIES), "exactly 3 classes"),
        ((SUPPORT, np.array([1, 2, 3, 3]), QUERIES), "exactly 3 classes"),
        ((SUPPORT, LABELS[:3], QUERIES), "4 integers"),
        ((SUPPORT, LABELS.astype(float), QUERIES), "4 integers"),
        ((SUPPORT / 255, LABELS, QUERIES), "support_images to be uint8"),
        ((SUPPORT, LABELS, QUERIES[:, :, :4]), "query_images to be uint8"),
        ((SUPPORT, LABELS, QUERIES[:0]), "at least one"),
        ((SUPPORT, LABELS, QUERIES[0]), "query_images to be uint8"),
    ],
)
def test_unusable_requests_are_refused(request_, message):
    with pytest.raises(InputError, match=message):
        classifier().predict_proba(*request_)
