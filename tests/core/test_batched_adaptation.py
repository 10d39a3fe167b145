"""Episodes side by side give the meta-gradient that learn2learn gives one by one, and that differences approach."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metantk_core.candidates import parse_genotype
from metantk_core.datasets import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training import MamlTraining
from metantk_core.meta_training.batched_adaptation import batched_query_logits
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.meta_training.maml import MamlLearner
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, forget_moments, initialise
from metantk_core.networks.normalisation import NORMALISATIONS

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"
LEARNING_RATE, STEPS = 0.1, 2


def meta_batch(tasks=3, ways=5, size=16):
    torch.manual_seed(1)
    images = torch.randn(tasks, ways * 4, 1, size, size, dtype=torch.float64)
    labels = torch.arange(ways).repeat(tasks, 4)
    return SimpleNamespace(
        support=images[:, :ways], support_labels=labels[:, :ways], query=images[:, ways:], query_labels=labels[:, ways:]
    )


def network_of(space, text, norm):
    network = build(
        parse_genotype(space, text),
        NetworkConfig(channels=4, cells=2),
        in_channels=1,
        ways=5,
        variant="training",
        norm=norm,
    )
    initialise(network, 0, "test")
    return network.double()


def loss_of_learn2learn(network, batch, algorithm, *, first_order):
    """Return the mean query loss as learn2learn's own examples write MAML and ANIL."""
    anil = algorithm == "anil"
    learner = load_maml()(
        network.head if anil else network, lr=LEARNING_RATE, first_order=first_order, allow_unused=True
    )
    losses = []
    for support, labels, query, wanted in zip(
        batch.support, batch.support_labels, batch.query, batch.query_labels, strict=True
    ):
        clone = learner.clone()
        if anil:
            network.train()
            support = network.features(support)
            network.eval()
            query = network.features(query)
        clone.train()
        for _ in range(STEPS):
            clone.adapt(F.cross_entropy(clone(support), labels))
        if not anil:
            clone(support)
        clone.eval()
        losses.append(F.cross_entropy(clone(query), wanted))
    return torch.stack(losses).mean()


def loss_of_ours(network, batch, algorithm, *, first_order):
    logits = batched_query_logits(
        network,
        batch.support,
        batch.support_labels,
        batch.query,
        algorithm=algorithm,
        learning_rate=LEARNING_RATE,
        steps=STEPS,
        first_order=first_order,
    )
    return F.cross_entropy(logits.flatten(0, 1), batch.query_labels.flatten())


def gradient(network, loss):
    parts = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    forget_moments(network)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("norm", ["batch_support", "batch_transductive", "group"])
@pytest.mark.parametrize(("space", "text"), [("nasbench201", CELL), ("darts_fewshot", "paper-mini-5-a")])
def test_an_outer_step_is_that_of_learn2learn(space, text, norm, algorithm, first_order):
    network, batch = network_of(space, text, norm), meta_batch()
    theirs = loss_of_learn2learn(network, batch, algorithm, first_order=first_order)
    ours = loss_of_ours(network, batch, algorithm, first_order=first_order)
    assert abs(ours.item() - theirs.item()) < 1e-10
    wanted = gradient(network, theirs)
    assert (gradient(network, ours) - wanted).abs().max() < 1e-10
    assert wanted.abs().max() > 1e-2


@pytest.mark.parametrize("norm", ["batch_support", "batch_transductive", "group"])
def test_the_second_order_gradient_is_the_one_that_finite_differences_approach(norm):
    torch.manual_seed(0)
    layer = NORMALISATIONS[norm]
    # Smooth: a ReLU at exactly 0 would have another derivative on either side.
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), layer(4), nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1), layer(4), nn.Tanh()
    )
    network, batch = FewShotNetwork(body, 4, 5).double(), meta_batch(tasks=2)
    found = gradient(network, loss_of_ours(network, batch, "maml", first_order=False))
    start = nn.utils.parameters_to_vector(network.parameters()).detach()
    direction = torch.randn(len(start), dtype=torch.float64)
    values = []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(start + sign * 1e-5 * direction, network.parameters())
        values.append(loss_of_ours(network, batch, "maml", first_order=False).item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(found @ direction), rel=1e-6)


def test_no_moments_of_an_episode_stay_behind():
    network, batch = network_of("nasbench201", CELL, "batch_support"), meta_batch()
    loss_of_ours(network, batch, "maml", first_order=True)
    with pytest.raises(RuntimeError, match="no moments"):
        network(batch.query[0])


def learner_of(engine, network, **settings):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8 * 6, 1, 12, 12), dtype=np.uint8)
    names = tuple("abcdefgh")
    source = EpisodeSource(
        LabelledImages(images, np.repeat(np.arange(8), 6), names, "train", "noise"),
        EpisodeConfig(ways=5, shots=1, queries=3),
        (0.5,),
        (0.3,),
    )
    config = MamlTraining.model_validate({"engine": engine, "meta_batch": 3, "inner_steps": 2, **settings})
    return MamlLearner(network, config, source, 0)


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
def test_a_learner_takes_the_same_step_with_either_engine(algorithm):
    steps, gradients = [], []
    for engine in ("learn2learn", "batched"):
        learner = learner_of(engine, network_of("nasbench201", CELL, "group").float(), algorithm=algorithm)
        steps.append(learner.gradient(learner.draw(0)))
        gradients.append(torch.cat([cast(torch.Tensor, part.grad).flatten() for part in learner.network.parameters()]))
    assert steps[0].loss == pytest.approx(steps[1].loss, rel=1e-5)
    assert (steps[0].accuracy, steps[0].images) == (steps[1].accuracy, steps[1].images)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_the_engine_that_would_be_wrong_about_batch_normalisation_refuses_it():
    network = FewShotNetwork(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), 4, 5)
    learner_of("learn2learn", network)
    with pytest.raises(InputError, match=r"training\.engine=learn2learn"):
        learner_of("batched", network)


def test_a_loss_that_is_not_finite_is_told_and_leaves_no_gradient():
    network = network_of("nasbench201", CELL, "group").float()
    learner = learner_of("batched", network, inner_learning_rate=1000.0, inner_steps=20)
    with torch.no_grad():
        network.get_parameter("head.weight").mul_(1e30)
    step = learner.gradient(learner.draw(0))
    assert "the loss is" in step.problem
    assert all(part.grad is None for part in network.parameters())
