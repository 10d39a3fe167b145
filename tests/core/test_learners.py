import json
import math
import os
import pkgutil
import re
import signal
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_meta_training import (
    GENOTYPE,
    InterruptedWorkError,
    Memory,
    assert_same_state,
    changed,
    distracted,
    interrupt_at,
    source,
    tiny_network,
)

from metantk_core import stopping
from metantk_core.augmentation import NO_AUGMENTATION, augmented_copies
from metantk_core.batches import BatchSource
from metantk_core.episodes import EpisodeConfig, network_input
from metantk_core.errors import InputError
from metantk_core.meta_training import (
    EvaluationConfig,
    FewShotClassifier,
    ProtoNetTraining,
    RfsTraining,
    TrainingConfig,
    evaluate,
    load_model,
    meta_train,
    save_model,
    untrained_model,
)
from metantk_core.meta_training.answering import CLASSIFIERS, FEATURE_BATCH, InnerLoop, Shown, answers
from metantk_core.meta_training.feature_table import feature_table
from metantk_core.meta_training.protonet import ProtoNetLearner
from metantk_core.meta_training.supervised import RfsLearner
from metantk_core.networks import FewShotNetwork, NetworkConfig, Normalisation, build, dropping_paths, initialise
from metantk_core.seeding import generator, numpy_generator
from metantk_core.workflow.tracked import accuracy_metrics

WIDE = EpisodeConfig(ways=5, shots=2, queries=3)
FEW = EpisodeConfig(ways=3, shots=1, queries=3)
PROTONET = ProtoNetTraining(
    episode=WIDE,
    network=NetworkConfig(channels=4, cells=1),
    learning_rate=1e-2,
    halve_every=2,
    meta_batch=2,
    iterations=4,
    validate_every=2,
    validation_episode=FEW,
    validation_episodes=4,
)
RFS = RfsTraining(
    network=NetworkConfig(channels=4, cells=1),
    batch_size=16,
    epochs=2,
    decay_epochs=(1,),
    learning_rate=0.05,
    drop_path=0.3,
    validate_every=1,
    validation_episode=FEW,
    validation_episodes=4,
)
TRAININGS: dict[str, TrainingConfig] = {"maml": changed(), "protonet": PROTONET, "rfs": RFS}


def batches(training=RFS):
    whole = source("train")
    return BatchSource(whole.images, training.batch_size, whole.mean, whole.std, training.augmentation)


def origin_of(training):
    return batches(training) if isinstance(training, RfsTraining) else source("train", training.episode)


def learned(training, **ports):
    return meta_train(GENOTYPE, origin_of(training), source("val", training.validated_on), training, 0, **ports)


def shown(network, *, seed=0, episode=FEW, **values):
    """An episode of the test classes before a network, in double precision."""
    origin = source("test", episode)
    drawn = origin.normalised(origin.episode(seed, "test"))
    network = network.double()
    return Shown(
        network,
        drawn.support_images.double(),
        drawn.support_labels,
        drawn.query_images.double(),
        episode.ways,
        **values,
    )


def running_network(norm: Normalisation = "batch_running", seed=1):
    """A network whose running moments are those of some images, not 0 and 1."""
    network = build(
        GENOTYPE, NetworkConfig(channels=4, cells=1), in_channels=1, ways=3, variant="training", norm=norm
    ).double()
    initialise(network, seed)
    network.train()
    images = source("train").images.images
    with torch.no_grad():
        network(torch.from_numpy(images[:40] / 255).double())
    return network.eval()


def test_protonet_loss_and_gradient_are_those_of_the_definition_in_float64():
    network = tiny_network()
    learner = ProtoNetLearner(network, PROTONET, source("train", WIDE), 0)
    episodes = learner.draw(3)
    for episode in episodes:
        for name in ("support_images", "query_images"):
            object.__setattr__(episode, name, getattr(episode, name).double())
    step = learner.gradient(episodes)

    weights = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    losses = []
    for episode in episodes:

        def feature(image):
            return torch.tanh(weights["body.map.weight"] @ image.reshape(64) + weights["body.map.bias"])

        of_class = [episode.support_images[episode.support_labels == k] for k in range(5)]
        prototypes = [(feature(one) + feature(other)) / 2 for one, other in of_class]
        for image, label in zip(episode.query_images, episode.query_labels, strict=True):
            similar = [torch.exp(-((feature(image) - prototype) ** 2).sum()) for prototype in prototypes]
            losses.append(-torch.log(similar[int(label)] / sum(similar)))
    loss = torch.stack(losses).mean()
    loss.backward()
    assert step.loss == pytest.approx(loss.item(), abs=1e-12)
    assert step.images == 2 * 5 * (2 + 3)
    for name in ("body.map.weight", "body.map.bias"):
        torch.testing.assert_close(network.get_parameter(name).grad, weights[name].grad, atol=1e-12, rtol=1e-9)


def test_each_classifier_is_its_definition_in_float64():
    network = running_network()
    seen = shown(network, episode=EpisodeConfig(ways=3, shots=2, queries=3))
    found = answers(seen, ["prototypes", "nearest_centroid", "cosine", "logistic_regression"])
    with torch.no_grad():
        support, queries = (network.features(images) for images in (seen.support_images, seen.query_images))
    labels = seen.support_labels
    raw = torch.stack([support[labels == k].mean(dim=0) for k in range(3)])
    unit = torch.stack([(support / support.norm(dim=1, keepdim=True))[labels == k].mean(dim=0) for k in range(3)])
    for row, query in enumerate(queries):
        direction = query / query.norm()
        torch.testing.assert_close(found["prototypes"][row], -((query - raw) ** 2).sum(dim=1))
        torch.testing.assert_close(found["nearest_centroid"][row], -((direction - unit) ** 2).sum(dim=1))
        torch.testing.assert_close(found["cosine"][row], unit @ direction / unit.norm(dim=1))
    weights, intercepts = logistic_optimum(support / support.norm(dim=1, keepdim=True), labels, 3)
    expected = queries / queries.norm(dim=1, keepdim=True) @ weights.mT + intercepts
    torch.testing.assert_close(
        found["logistic_regression"], expected - expected.mean(1, keepdim=True), atol=1e-6, rtol=0
    )


def logistic_optimum(features, labels, ways):
    """Minimise the sum of cross-entropies plus half the squared weights (C = 1) by a general method."""
    weights = torch.zeros(ways, features.shape[1], dtype=torch.float64, requires_grad=True)
    intercepts = torch.zeros(ways, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, intercepts], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective():
        optimiser.zero_grad()
        value = (
            F.cross_entropy(features @ weights.mT + intercepts, labels, reduction="sum") + weights.square().sum() / 2
        )
        value.backward()
        return value

    optimiser.step(objective)
    with torch.no_grad():
        return weights - weights.mean(0), intercepts - intercepts.mean()


@pytest.mark.parametrize("norm", ["batch_running", "group"])
def test_features_are_the_same_to_the_last_digit_however_many_images_are_asked_for(norm):
    network = running_network(norm).float()
    images = torch.randn(FEATURE_BATCH + 9, 1, 8, 8)
    together = Shown(network, images[:3], torch.arange(3), images[3:], 3).features[1]
    for rows in ([0, 1], [5], [*range(40)]):
        some = Shown(network, images[:3], torch.arange(3), images[3:][rows], 3).features[1]
        assert torch.equal(some, together[rows])


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("norm", ["batch_support", "batch_transductive", "batch_running", "group"])
def test_every_classifier_tells_apart_what_is_far_apart(name, norm):
    if name == "gradient_steps" and norm == "batch_running":
        pytest.skip("weights that adapt have no running moments")
    network = running_network(norm)
    seen = shown(network, inner_loop=InnerLoop("anil", 0.5, 300))
    # Queries that are the support images themselves, in another order.
    order = torch.tensor([2, 0, 1])
    again = Shown(network, seen.support_images, seen.support_labels, seen.support_images[order], 3, seen.inner_loop)
    assert torch.equal(answers(again, [name])[name].argmax(dim=1), order)


@pytest.mark.parametrize(("name", "stop"), [("protonet", 1), ("protonet", 2), ("rfs", 2), ("rfs", 4), ("rfs", 5)])
def test_interrupted_training_of_each_learner_continues_with_the_same_bits(name, stop, monkeypatch):
    monkeypatch.setattr("metantk_core.meta_training.training.CHECKPOINT_SECONDS", 0.0)
    expected, memory = learned(TRAININGS[name]), Memory()
    with pytest.raises(InterruptedWorkError):
        learned(TRAININGS[name], checkpoint=memory, progress=interrupt_at(stop))
    model = learned(TRAININGS[name], checkpoint=memory)
    assert model.history == expected.history
    assert_same_state(model.state, expected.state)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("maml", "step"),
        ("protonet", "features"),
        ("protonet", "validation"),
        ("rfs", "features"),
        ("rfs", "step"),
        ("rfs", "validation"),
    ],
)
def test_signal_saves_where_training_is_whatever_it_was_at(name, place, monkeypatch):
    expected, memory, passed = learned(TRAININGS[name]), Memory(), []
    signalled = partial(os.kill, os.getpid(), signal.SIGTERM)
    calls = {"features": 23, "step": 3, "validation": 7}[place]
    target = {
        "features": "metantk_core.networks.build.FewShotNetwork.features",
        "step": f"torch.optim.{'sgd.SGD' if name == 'rfs' else 'adam.Adam'}.step",
        "validation": "metantk_core.meta_training.training.answers",
    }[place]
    module, _, attribute = target.rpartition(".")
    owner = pkgutil.resolve_name(module)
    work = getattr(owner, attribute)

    def interrupted(*values, **named):
        passed.append(1)
        if len(passed) == calls:
            signalled()
        return work(*values, **named)

    monkeypatch.setattr(owner, attribute, interrupted)
    with stopping.raising(), pytest.raises(SystemExit) as ended:
        learned(TRAININGS[name], checkpoint=memory)
    assert ended.value.code == 128 + signal.SIGTERM
    assert memory.saves > 0
    told = []
    model = learned(TRAININGS[name], checkpoint=memory, progress=lambda done, *_: told.append(done))
    if place == "step":
        assert told[0] == 3  # the step that was under way was ended, and isn't done again
    assert model.history == expected.history
    assert_same_state(model.state, expected.state)


def test_protonet_learns_to_tell_new_classes_apart():
    training = PROTONET.model_copy(
        update={
            "episode": EpisodeConfig(ways=8, shots=1, queries=4),
            "network": NetworkConfig(channels=8, cells=1),
            "iterations": 60,
            "validate_every": 60,
            "halve_every": 1000,
            "validation_episodes": 40,
        }
    )
    sources = [distracted("train", 60, [1]), distracted("val", 40, [2])]
    object.__setattr__(sources[0], "config", training.episode)
    object.__setattr__(sources[1], "config", FEW)
    before, after = (p.validation_accuracy for p in meta_train(GENOTYPE, sources[0], sources[1], training, 0).history)
    assert after > max(before, 1 / 3) + 0.2


def test_step_size_of_protonet_is_halved_at_intervals():
    learner = ProtoNetLearner(tiny_network(), PROTONET, source("train", WIDE), 0)
    assert [learner.learning_rate(iteration) for iteration in range(6)] == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]


def test_weights_of_a_diverged_network_are_the_last_good_ones_and_what_happened_is_said():
    model = learned(PROTONET.model_copy(update={"learning_rate": 1e30, "validate_every": 1}))
    assert model.outcome == "diverged"
    assert "at iteration" in model.reason
    assert all(value.isfinite().all() for value in model.state.values())


def test_metric_learner_answers_more_ways_and_shots_than_it_was_trained_with(tmp_path):
    model = learned(PROTONET)
    save_model(model, tmp_path)
    model = load_model(tmp_path)
    asked = EvaluationConfig(
        episode=EpisodeConfig(ways=7, shots=1, queries=2), episodes=3, further_shots=(3,), beside=("cosine",)
    )
    found = evaluate(model, source("test", asked.episode), asked, 0)
    assert (found.ways, found.classifier, found.algorithm, found.inner_steps) == (7, "prototypes", "protonet", None)
    assert [(other.classifier, other.shots) for other in found.others] == [
        ("cosine", 1),
        ("prototypes", 3),
        ("cosine", 3),
    ]
    alone = evaluate(
        model,
        source("test", EpisodeConfig(ways=7, shots=3, queries=2)),
        EvaluationConfig(episode=EpisodeConfig(ways=7, shots=3, queries=2), episodes=3),
        0,
    )
    assert (found.others[1].accuracy, found.others[1].half_width) == (alone.accuracy, alone.half_width)
    assert "by prototypes" in found.summary()
    images = source("test").images.images
    request = images[[0, 8, 16, 24]], np.array([0, 1, 2, 3]), images[[1, 9]]
    assert FewShotClassifier(model).predict_proba(*request).shape == (2, 4)


@pytest.mark.parametrize("copies", [0, 2])
def test_features_that_are_computed_once_give_the_accuracies_of_features_that_are_computed_anew(copies, monkeypatch):
    model = learned(RFS)
    asked = EvaluationConfig(episode=FEW, episodes=20, augmented_copies=copies)
    looked_up = evaluate(model, source("test", FEW), asked, 0)
    network = model.network()
    images = network_input(torch.from_numpy(source("test").images.images), (0.5,), (0.3,))
    table = feature_table(network, source("test", FEW), lambda done: None)
    assert table is not None
    rows = torch.tensor([3, 40, 7, 63])
    assert torch.equal(table[rows], Shown(network, images[:1], torch.arange(1), images[rows], 1).features[1])
    monkeypatch.setattr("metantk_core.meta_training.evaluation.table_pays", lambda *_: False)
    assert evaluate(model, source("test", FEW), asked, 0) == looked_up


def test_interrupted_evaluation_of_several_ways_continues_with_the_same_numbers(monkeypatch):
    monkeypatch.setattr("metantk_core.meta_training.evaluation.CHECKPOINT_SECONDS", 0.0)
    model = untrained_model(GENOTYPE, source("train", WIDE), PROTONET, 0)
    asked = EvaluationConfig(episode=FEW, episodes=4, further_shots=(2,), beside=("cosine",))
    run, memory = partial(evaluate, model, source("test", FEW), asked, 0), Memory()
    with pytest.raises(InterruptedWorkError):
        run(checkpoint=memory, progress=interrupt_at(5))
    assert run(checkpoint=memory) == run()


def test_weights_that_do_not_adapt_are_not_asked_for_gradient_steps():
    model = untrained_model(GENOTYPE, source("train", WIDE), PROTONET, 0)
    asked = EvaluationConfig(episode=FEW, episodes=2, beside=("gradient_steps",))
    with pytest.raises(InputError, match=r"gradient_steps, which maml and anil alone learn; give some of prototypes"):
        evaluate(model, source("test", FEW), asked, 0)


def test_progress_says_loss_and_images_a_second():
    told = []
    learned(PROTONET, progress=lambda done, total, detail="": told.append(detail))
    assert "images/s" in told[-1]
    assert "loss " in told[-1]
    assert math.isfinite(float(told[-1].partition("loss ")[2].split(",")[0]))


class Thin(torch.nn.Module):
    """Convolution, batch normalisation with running moments, ReLU: small enough to be written out."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


def written_out_features(images, weight, mean, variance):
    patches = F.pad(images, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # n 1 h w 3 3
    maps = torch.einsum("nxhwij,oxij->nohw", patches, weight)
    if mean is None:
        mean, variance = maps.mean(dim=(0, 2, 3)), maps.var(dim=(0, 2, 3), correction=0)
    normal = (maps - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-5)
    return normal.clamp(min=0).mean(dim=(2, 3)), maps


def test_an_rfs_step_is_the_written_out_definition_in_float64_loss_features_weights_and_predictions():
    network = FewShotNetwork(Thin(), 3, 8).double()
    initialise(network, 3)
    training = RFS.model_copy(update={"drop_path": 0.0, "augmentation": NO_AUGMENTATION})
    learner = RfsLearner(network, training, batches(training), 0)
    images = source("train").images
    weights = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    moment = {name: torch.zeros_like(value) for name, value in weights.items()}
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for iteration in (0, 1, 4):  # 4 is the second epoch's first, after the decay
        _, batch = learner.draw(iteration)
        shown = torch.from_numpy((images.images[batch.rows] / 255 - 0.5) / 0.3)
        assert np.array_equal(batch.labels, images.labels[batch.rows])
        torch.testing.assert_close(batch.images.double(), shown, atol=1e-6, rtol=0)
        object.__setattr__(batch, "images", shown)
        step = learner.gradient((iteration, batch))
        learner.optimiser.param_groups[0]["lr"] = learner.learning_rate(iteration)
        learner.optimiser.step()

        features, maps = written_out_features(shown, weights["body.conv.weight"], None, None)
        logits = features @ weights["head.weight"].T + weights["head.bias"]
        likely = torch.exp(logits) / torch.exp(logits).sum(dim=1, keepdim=True)
        loss = -torch.log(likely[torch.arange(16), batch.labels]).mean()
        assert step.loss == pytest.approx(loss.item(), abs=1e-12)
        mean = 0.9 * mean + 0.1 * maps.mean(dim=(0, 2, 3)).detach()
        variance = 0.9 * variance + 0.1 * maps.var(dim=(0, 2, 3)).detach()
        used = [value for name, value in weights.items() if "norm" not in name]
        gradients = torch.autograd.grad(loss, used)
        rate = 0.05 if iteration < 4 else 0.005
        for (name, value), gradient in zip(
            ((name, value) for name, value in weights.items() if "norm" not in name), gradients, strict=True
        ):
            moment[name] = 0.9 * moment[name] + gradient + 5e-4 * value.detach()
            value.data -= rate * moment[name]
            torch.testing.assert_close(network.get_parameter(name).detach(), value.detach(), atol=1e-12, rtol=0)
        # The scale and shift of the normalisation learn, too; here they are given back, to keep the formula short.
        with torch.no_grad():
            network.get_parameter("body.norm.weight").fill_(1)
            network.get_parameter("body.norm.bias").fill_(0)
    seen = shown_of(network, images)
    support, _ = written_out_features(seen.support_images, weights["body.conv.weight"], mean, variance)
    queries, _ = written_out_features(seen.query_images, weights["body.conv.weight"], mean, variance)
    torch.testing.assert_close(seen.features[0], support.detach(), atol=1e-12, rtol=0)
    unit = support.detach() / support.detach().norm(dim=1, keepdim=True)
    matrix, intercepts = logistic_optimum(unit, seen.support_labels, 3)
    expected = queries.detach() / queries.detach().norm(dim=1, keepdim=True) @ matrix.mT + intercepts
    found = answers(seen, ["logistic_regression"])["logistic_regression"]
    torch.testing.assert_close(found.softmax(dim=1), expected.softmax(dim=1), atol=1e-7, rtol=0)


def shown_of(network, images):
    rows = [0, 1, 8, 9, 16, 17, 2, 10, 18, 11]
    pixels = torch.from_numpy((images.images[rows] / 255 - 0.5) / 0.3)
    return Shown(network, pixels[:6], torch.tensor([0, 0, 1, 1, 2, 2]), pixels[6:], 3)


def test_dropped_paths_keep_the_mean_and_leave_the_rest_of_the_network_alone():
    network = running_network("group")
    cell = next(module for module in network.modules() if hasattr(module, "kept"))
    images, maps = torch.randn(400, 1, 8, 8, dtype=torch.float64), torch.randn(400, 4, 8, 8, dtype=torch.float64)
    plain = cell(maps)
    with dropping_paths(network, 0.4, images, generator(0, "test")):
        dropped = cell(maps)
    assert torch.equal(cell(maps)[-1], plain[-1])
    # Node 1 is an operation of node 0 alone: there or not, scaled, for each image.
    share = (dropped[1] / plain[1]).flatten(1)
    for row in share:
        row = row[row.isfinite()]
        assert torch.allclose(row, row[0])
        assert row[0].item() == pytest.approx(0, abs=1e-9) or row[0].item() == pytest.approx(1 / 0.6)
    present = sum(bool(row[row.isfinite()][0]) for row in share)
    assert abs(present / 400 - 0.6) < 0.1


def test_share_of_dropped_paths_rises_with_the_epochs():
    learner = RfsLearner(running_network(), RFS.model_copy(update={"epochs": 4, "decay_epochs": ()}), batches(), 0)
    assert [learner.drop_path(iteration) for iteration in (0, 3, 4, 8, 15)] == pytest.approx([0, 0, 0.075, 0.15, 0.225])


def test_rfs_learns_features_that_tell_new_classes_apart():
    clean = distracted("train", 30, [1])
    training = RFS.model_copy(
        update={
            "network": NetworkConfig(channels=8, cells=1),
            "epochs": 8,
            "decay_epochs": (6,),
            "learning_rate": 0.1,
            "drop_path": 0.0,
            "augmentation": NO_AUGMENTATION,
            "validate_every": 8,
            "validation_episode": EpisodeConfig(ways=3, shots=1, queries=4),
            "validation_episodes": 40,
        }
    )
    shuffled = BatchSource(clean.images, 16, clean.mean, clean.std)
    model = meta_train(GENOTYPE, shuffled, distracted("val", 40, [2]), training, 0)
    before, after = (point.validation_accuracy for point in model.history)
    assert after > max(before, 1 / 3) + 0.2
    assert [point.epoch for point in model.history] == [0, 8]
    assert model.protocol == "RFS, 30 base classes, 8 epochs"
    assert (model.outputs, model.ways, model.best_iteration) == (30, None, 8 * 15)


def test_rfs_answers_by_augmented_copies_with_other_classifiers_beside(tmp_path):
    save_model(learned(RFS), tmp_path)
    model = load_model(tmp_path)
    asked = EvaluationConfig(episode=FEW, episodes=3)
    found = evaluate(model, source("test", FEW), asked, 0)
    assert (found.classifier, found.augmented_copies) == ("logistic_regression", 5)
    assert [other.classifier for other in found.others] == ["nearest_centroid", "cosine"]
    assert "by logistic regression with 5 augmented copies of each support image" in found.summary()
    names = [metric.name for metric in accuracy_metrics(found, "best")]
    assert len(set(names)) == len(names) == 5
    assert all(re.fullmatch(r"[\w./ -]+", name) for name in names)  # what every tracker takes
    origin = source("test", FEW)
    drawn = origin.episode(0, "evaluate", "test", 1)
    copies = augmented_copies(
        drawn.support_pixels, 5, RFS.augmentation, numpy_generator(0, "evaluate", "test", 1, "augmentation")
    )
    seen = Shown(
        model.network(),
        network_input(copies, origin.mean, origin.std),
        drawn.support_labels.repeat(5),
        network_input(drawn.query_pixels, origin.mean, origin.std),
        3,
    )
    right = answers(seen, ["logistic_regression"])["logistic_regression"].argmax(dim=1) == drawn.query_labels
    assert found.per_episode[1] == right.double().mean().item()
    classifier, images = FewShotClassifier(model), origin.images.images
    request = images[[0, 8, 16, 24]], np.array([0, 1, 2, 3]), images[[1, 9]]
    assert np.array_equal(classifier.predict_proba(*request), classifier.predict_proba(*request))


def test_model_of_before_there_were_several_learners_is_read(tmp_path):
    model = untrained_model(GENOTYPE, source("train"), TRAININGS["maml"], 0)
    save_model(model, tmp_path)
    values = json.loads((tmp_path / "model.json").read_text())
    del values["outputs"], values["training"]["algorithm"]
    (tmp_path / "model.json").write_text(json.dumps(values))
    assert load_model(tmp_path).digest == model.digest
    assert load_model(tmp_path).ways == 3


def test_rfs_keeps_the_last_weights_or_the_best_ones_as_it_is_told():
    last = learned(RFS)
    assert last.best_iteration == last.iterations
    best = learned(RFS.model_copy(update={"keep": "best"}))
    accuracies = [point.validation_accuracy for point in best.history]
    assert best.best_iteration == best.history[accuracies.index(max(accuracies))].iteration


def test_learners_are_not_given_what_they_do_not_learn_from():
    with pytest.raises(InputError, match="source of batches"):
        meta_train(GENOTYPE, source("train"), source("val", FEW), RFS, 0)
    with pytest.raises(InputError, match="source of episodes"):
        meta_train(GENOTYPE, origin_of(RFS), source("val", FEW), PROTONET, 0)


def test_decay_after_the_end_is_refused():
    with pytest.raises(ValueError, match=r"decay_epochs are \[60, 80\] of 20 epochs"):
        RfsTraining(epochs=20)
