import copy
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import nn

from metantk_core.candidates import parse_genotype
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training import (
    FewShotClassifier,
    MamlTraining,
    Validation,
    load_model,
    meta_train,
    save_model,
    untrained_model,
)
from metantk_core.meta_training.adaptation import adapted_logits, gradient_descent
from metantk_core.meta_training.checkpoint import pack, unpack
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.meta_training.maml import MamlLearner
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, initialise

GENOTYPE = parse_genotype(
    "nasbench201", "|nor_conv_1x1~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
)
EPISODE = EpisodeConfig(ways=3, shots=1, queries=3)
CONFIG = MamlTraining(
    episode=EPISODE,
    network=NetworkConfig(channels=4, cells=1),
    inner_steps=2,
    inner_learning_rate=0.2,
    outer_learning_rate=1e-2,
    meta_batch=2,
    iterations=4,
    validate_every=2,
    validation_episodes=4,
)


def patterns(split, classes, seed, *, size=8, per_class=8, noise=40.0):
    """Classes are random coarse patterns; images are noisy copies."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, size=(classes, 1, 1, size // 2, size // 2)) * 160 + 40
    clean = np.broadcast_to(coarse.repeat(2, axis=-1).repeat(2, axis=-2), (classes, per_class, 1, size, size))
    images = np.clip(clean + rng.normal(0, noise, clean.shape), 0, 255).astype(np.uint8)
    names = tuple(f"{split}{number}" for number in range(classes))
    labels = np.arange(classes, dtype=np.int64).repeat(per_class)
    return LabelledImages(images.reshape(-1, 1, size, size), labels, names, split, "patterns")


def source(split, config=EPISODE, *, classes=8, seed=0, **values):
    return EpisodeSource(patterns(split, classes, [seed, len(split)], **values), config, (0.5,), (0.3,))


TRAIN, VALIDATION = source("train"), source("val")


def train(config=CONFIG, seed=0, **ports):
    return meta_train(GENOTYPE, TRAIN, VALIDATION, config, seed, **ports)


def changed(**values):
    return CONFIG.model_copy(update=values)


@dataclass
class Memory:
    data: bytes | None = None
    saves: int = 0

    def load(self):
        return self.data

    def save(self, data):
        self.data = data
        self.saves += 1


class InterruptedWorkError(Exception):
    pass


def interrupt_at(iteration):
    def progress(done, total, detail=""):
        if done == iteration:
            raise InterruptedWorkError

    return progress


def assert_same_state(one, other):
    assert set(one) == set(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()
        self.map = nn.Linear(64, 4)

    def forward(self, x):
        return torch.tanh(self.map(self.flat(x)))[:, :, None, None]


def tiny_network(seed=0):
    network = FewShotNetwork(Tiny(), 4, EPISODE.ways).double()
    initialise(network, seed)
    return network


def tensors(seed=0):
    episode = TRAIN.normalised(TRAIN.episode(seed, "test"))
    return (
        episode.support_images.double(),
        episode.support_labels,
        episode.query_images.double(),
        episode.query_labels,
    )


def explicit_query_loss(network, parameters, *, algorithm, first_order, rate, steps):
    """Query loss after the inner loop, written out with autograd."""
    support, support_labels, query, query_labels = tensors()
    inner = [name for name in parameters if algorithm == "maml" or name.startswith("head.")]
    current = dict(parameters)
    for _ in range(steps):
        loss = F.cross_entropy(torch.func.functional_call(network, current, (support,)), support_labels)
        gradients = torch.autograd.grad(loss, [current[name] for name in inner], create_graph=True)
        for name, gradient in zip(inner, gradients, strict=True):
            current[name] = current[name] - rate * (gradient.detach() if first_order else gradient)
    return F.cross_entropy(torch.func.functional_call(network, current, (query,)), query_labels)


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("first_order", [True, False])
def test_meta_gradient_of_learn2learn_is_that_of_the_inner_loop_written_out(algorithm, first_order):
    network = tiny_network()
    config = changed(algorithm=algorithm, first_order=first_order, inner_steps=3, inner_learning_rate=0.5)
    support, _, query, query_labels = tensors()
    episode = copy.copy(TRAIN.normalised(TRAIN.episode(0, "test")))
    for name, value in zip(("support_images", "query_images"), (support, query), strict=True):
        object.__setattr__(episode, name, value)
    loss = F.cross_entropy(MamlLearner(network, config, TRAIN, 0).query_logits(episode), query_labels)
    loss.backward()

    parameters = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    expected = explicit_query_loss(network, parameters, algorithm=algorithm, first_order=first_order, rate=0.5, steps=3)
    gradients = torch.autograd.grad(expected, list(parameters.values()))
    assert abs(loss.item() - expected.item()) < 1e-12
    for (name, parameter), gradient in zip(network.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-12, rtol=1e-10, msg=name)


def test_second_order_meta_gradient_is_the_derivative_by_finite_differences():
    network = tiny_network()
    parameters = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
    options = {"algorithm": "maml", "first_order": False, "rate": 0.5, "steps": 2}
    gradient = torch.autograd.grad(explicit_query_loss(network, parameters, **options), parameters["body.map.weight"])[
        0
    ]
    step = 1e-5
    shifted = []
    for sign in (1, -1):
        moved = {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}
        moved["body.map.weight"].data[1, 7] += sign * step
        shifted.append(explicit_query_loss(network, moved, **options).item())
    assert abs((shifted[0] - shifted[1]) / (2 * step) - gradient[1, 7].item()) < 1e-7


def test_first_order_leaves_out_exactly_the_hessian_term():
    # Support loss w'Aw/2, query loss b'w: one step gives b'(I - rate A)w; the meta-gradients are (I - rate A)b and b.
    class Vector(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))

        def forward(self):
            return self.w

    a = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    b = torch.tensor([0.7, -1.1], dtype=torch.float64)
    gradients = {}
    for first_order in (True, False):
        vector = Vector()
        learner = load_maml()(vector, lr=0.1, first_order=first_order).clone()
        learner.adapt(learner() @ a @ learner() / 2)
        (b @ learner()).backward()
        gradients[first_order] = vector.w.grad
    torch.testing.assert_close(gradients[True], b)
    torch.testing.assert_close(gradients[True] - gradients[False], 0.1 * a @ b)


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("norm", ["batch_support", "batch_transductive", "group"])
@pytest.mark.parametrize(
    "space_text", [("nasbench201", str(GENOTYPE)), ("nasbench201", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")]
)
def test_plain_adaptation_gives_the_logits_of_learn2learn(algorithm, norm, space_text):
    config = changed(algorithm=algorithm, norm=norm, inner_steps=4)
    network = build(
        parse_genotype(*space_text), config.network, in_channels=1, ways=EPISODE.ways, variant="training", norm=norm
    ).double()
    initialise(network, 1)
    episode = copy.copy(TRAIN.normalised(TRAIN.episode(0, "test")))
    for name in ("support_images", "query_images"):
        object.__setattr__(episode, name, getattr(episode, name).double())
    expected = MamlLearner(network, config, TRAIN, 0).query_logits(episode).detach()
    with torch.inference_mode():
        found = adapted_logits(
            network,
            episode.support_images,
            episode.support_labels,
            episode.query_images,
            algorithm=algorithm,
            learning_rate=config.inner_learning_rate,
            steps=config.inner_steps,
        )
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_gradient_descent_leaves_a_parameter_without_influence_as_it_is():
    used, unused = torch.ones(3, 3), torch.full((2,), 7.0)
    found = gradient_descent(
        lambda p: p["used"], torch.tensor([0, 1, 2]), {"used": used, "unused": unused}, learning_rate=1.0, steps=2
    )
    assert torch.equal(found["unused"], unused)
    assert not torch.equal(found["used"], used)


def test_anil_adapts_the_head_alone():
    network = tiny_network()
    seen = []
    network.body.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    support, support_labels, query, _ = tensors()
    logits = {
        steps: adapted_logits(network, support, support_labels, query, algorithm="anil", learning_rate=0.5, steps=steps)
        for steps in (0, 3)
    }
    assert not torch.equal(logits[0], logits[3])
    assert torch.equal(seen[1], seen[3])  # query features, before and after
    features = seen[1][:, :, 0, 0]
    # What a changed head can do to these features, and nothing else: logits are affine in them.
    design = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    residual = logits[3] - design @ torch.linalg.lstsq(design, logits[3]).solution
    assert residual.abs().max() < 1e-10


def distracted(split, classes, seed):
    """The first channel tells the class, the second a random pattern: untrained networks look at both."""
    clean = patterns(split, classes, [*seed, 0], noise=30.0)
    other = patterns(split, len(clean.labels), [*seed, 1], per_class=1, noise=0.0)
    faint = (128 + (clean.images.astype(float) - 128) * 0.7).astype(np.uint8)
    images = LabelledImages(
        np.concatenate([faint, other.images], axis=1), clean.labels, clean.class_names, split, "distracted"
    )
    return EpisodeSource(images, EpisodeConfig(ways=3, shots=1, queries=4), (0.5, 0.5), (0.3, 0.3))


# ANIL needs the second order: without it no gradient reaches the features through the support images.
@pytest.mark.parametrize(("algorithm", "first_order", "steps"), [("maml", True, 1), ("anil", False, 5)])
def test_training_learns_to_tell_new_classes_apart(algorithm, first_order, steps):
    config = MamlTraining(
        algorithm=algorithm,
        first_order=first_order,
        episode=EpisodeConfig(ways=3, shots=1, queries=4),
        network=NetworkConfig(channels=8, cells=1),
        inner_steps=steps,
        inner_learning_rate=0.4,
        outer_learning_rate=1e-2,
        meta_batch=2,
        iterations=60,
        validate_every=60,
        validation_episodes=40,
    )
    model = meta_train(GENOTYPE, distracted("train", 60, [1]), distracted("val", 40, [2]), config, 0)
    before, after = (point.validation_accuracy for point in model.history)
    assert after > max(before, 1 / 3) + 0.2


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_interrupted_training_continues_with_the_same_numbers(algorithm, stop, monkeypatch):
    monkeypatch.setattr("metantk_core.meta_training.training.CHECKPOINT_SECONDS", 0.0)
    config = changed(algorithm=algorithm)
    expected = train(config)
    memory = Memory()
    with pytest.raises(InterruptedWorkError):
        train(config, checkpoint=memory, progress=interrupt_at(stop))
    told, heard = [], []
    model = train(
        config,
        checkpoint=memory,
        progress=lambda done, total, detail="": told.append((done, total, detail)),
        on_validation=heard.append,
    )
    assert told[0][0] == stop  # nothing was done twice
    assert told[-1][:2] == (4, 4)
    assert told[-1][2].startswith("val ")
    assert model.history == expected.history
    assert tuple(heard) == expected.history
    assert model.best_iteration == expected.best_iteration
    assert_same_state(model.state, expected.state)
    assert model.digest == expected.digest


def test_checkpoints_by_time_change_no_number(monkeypatch):
    memory = Memory()
    seldom = train(checkpoint=memory)
    saves = memory.saves
    monkeypatch.setattr("metantk_core.meta_training.training.CHECKPOINT_SECONDS", 0.0)
    memory = Memory()
    often = train(checkpoint=memory)
    assert memory.saves > saves
    assert often.history == seldom.history
    assert_same_state(often.state, seldom.state)


def test_finished_training_is_read_from_its_checkpoint():
    memory = Memory()
    first = train(checkpoint=memory)
    saves = memory.saves
    again = train(checkpoint=memory)
    assert memory.saves == saves
    assert_same_state(first.state, again.state)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"config": changed(inner_steps=1)},
        {"train": source("train", seed=1)},
        {"validation": source("val", seed=1)},
        {"genotype": parse_genotype("nasbench201", str(GENOTYPE).replace("avg_pool_3x3", "nor_conv_3x3"))},
    ],
    ids=lambda other: next(iter(other)),
)
def test_checkpoint_of_other_work_is_refused(other):
    memory = Memory()
    with pytest.raises(InterruptedWorkError):
        train(checkpoint=memory, progress=interrupt_at(2))
    values = {"genotype": GENOTYPE, "train": TRAIN, "validation": VALIDATION, "config": CONFIG, "seed": 0, **other}
    with pytest.raises(InputError, match="other work"):
        meta_train(
            values["genotype"],
            values["train"],
            values["validation"],
            values["config"],
            values["seed"],
            checkpoint=memory,
        )


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-7], lambda data: b"x" * 500])
def test_damaged_checkpoint_is_refused(damage):
    memory = Memory()
    train(changed(iterations=1), checkpoint=memory)
    assert memory.data is not None
    memory.data = damage(memory.data)
    with pytest.raises(InputError, match="can't be read"):
        train(changed(iterations=1), checkpoint=memory)


def test_checkpoint_keeps_values_and_tensors_exactly():
    values = {"losses": [0.1, 1 / 3, 1e-300], "n": 3}
    tensors = {"a": torch.randn(3, 2, dtype=torch.float64), "step": torch.tensor(4.0)}
    found_values, found_tensors = unpack(pack("d", values, tensors), "d", "test")
    assert found_values == values
    assert_same_state(found_tensors, tensors)


def test_the_earliest_weights_with_the_best_validation_accuracy_are_kept():
    config = changed(iterations=5, validate_every=1, outer_learning_rate=0.05)
    seen = {}

    def remember(point: Validation):
        seen[point.iteration] = point.validation_accuracy

    model = train(config, on_validation=remember)
    best = max(seen.values())
    assert len(set(seen.values())) > 1
    assert model.best_iteration == min(iteration for iteration, accuracy in seen.items() if accuracy == best)
    assert [point.iteration for point in model.history] == list(range(6))


def test_kept_weights_are_those_of_their_iteration():
    config = changed(iterations=5, validate_every=1, outer_learning_rate=0.05)
    weights = {}

    class Recorder(Memory):
        def save(self, data):
            values, tensors = unpack_any(data)
            weights[values["iteration"]] = {
                name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")
            }

    memory = Recorder()
    model = train(config, checkpoint=memory)
    assert_same_state(model.state, weights[model.best_iteration])


def unpack_any(data):
    digest = json.loads(load(data)["values"].numpy().tobytes())["digest"]
    return unpack(data, digest, "test")


def test_equal_accuracies_keep_the_initial_weights():
    # A cell of `none` sees nothing: every validation is at chance or at one fixed accuracy.
    blind = parse_genotype("nasbench201", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    config = changed(outer_learning_rate=1e-12)
    model = meta_train(blind, TRAIN, VALIDATION, config, 0)
    assert model.best_iteration == 0
    assert model.outcome == "finished"


def test_divergence_is_an_outcome_and_keeps_the_best_weights_until_then():
    model = train(changed(outer_learning_rate=1e30, validate_every=1))
    assert model.outcome == "diverged"
    assert "not" not in model.reason
    assert "at iteration" in model.reason
    assert model.iterations < 4
    assert all(value.isfinite().all() for value in model.state.values())
    assert all(np.isfinite(point.train_loss) for point in model.history)


def test_divergence_in_the_first_inner_loop_leaves_the_initial_weights():
    model = train(changed(inner_learning_rate=1e38))
    assert (model.outcome, model.iterations, model.history) == ("diverged", 0, ())
    assert_same_state(model.state, untrained_model(GENOTYPE, TRAIN, CONFIG, 0).state)


def test_first_point_of_the_curve_is_the_untrained_network():
    one, other = train(changed(iterations=1)), train(changed(outer_learning_rate=0.5))
    assert one.history[0] == other.history[0]
    assert one.history[0].iteration == 0


def test_training_leaves_global_random_numbers_alone():
    # Python's own generator is looked at where nothing else moves it, below: the type checks of the tests draw from it.
    states = np.random.get_state(legacy=False)["state"]["key"].copy(), torch.get_rng_state()  # noqa: NPY002
    model = train(changed(iterations=1))
    FewShotClassifier(model)
    assert (np.random.get_state(legacy=False)["state"]["key"] == states[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])


def test_global_random_numbers_do_not_reach_training():
    torch.manual_seed(1)
    one = train(changed(iterations=2))
    torch.manual_seed(2)
    assert_same_state(one.state, train(changed(iterations=2)).state)


def test_sources_with_other_ways_are_refused():
    with pytest.raises(InputError, match="training episodes of 3 classes"):
        meta_train(GENOTYPE, source("train", EpisodeConfig(ways=2, shots=1, queries=3)), VALIDATION, CONFIG, 0)


def test_saved_model_is_read_back_with_the_same_bits(tmp_path):
    model = train()
    save_model(model, tmp_path / "deep" / "model")
    found = load_model(tmp_path / "deep" / "model")
    assert_same_state(found.state, model.state)
    for name in ("history", "training", "genotype", "space", "image_shape", "mean", "std", "seed", "digest", "outcome"):
        assert getattr(found, name) == getattr(model, name), name
    images = VALIDATION.images.images
    request = images[[0, 8, 16]], np.arange(3), images[[1, 9, 17, 18]]
    assert np.array_equal(
        FewShotClassifier(found).predict_proba(*request), FewShotClassifier(model).predict_proba(*request)
    )
    assert {path.name for path in (tmp_path / "deep" / "model").iterdir()} == {"model.json", "weights.safetensors"}


@pytest.mark.parametrize("victim", ["model.json", "weights.safetensors"])
def test_damaged_or_incomplete_model_is_refused(tmp_path, victim):
    save_model(untrained_model(GENOTYPE, TRAIN, CONFIG, 0), tmp_path)
    whole = (tmp_path / victim).read_bytes()
    (tmp_path / victim).write_bytes(whole[:-9])
    with pytest.raises(InputError, match="damaged"):
        load_model(tmp_path)
    (tmp_path / victim).unlink()
    with pytest.raises(InputError, match="can't be read"):
        load_model(tmp_path)


def test_parts_of_two_models_are_not_mixed(tmp_path):
    save_model(untrained_model(GENOTYPE, TRAIN, CONFIG, 0), tmp_path / "a")
    save_model(untrained_model(GENOTYPE, TRAIN, CONFIG, 1), tmp_path / "b")
    (tmp_path / "b" / "model.json").replace(tmp_path / "a" / "model.json")
    with pytest.raises(InputError, match="damaged"):
        load_model(tmp_path / "a")


def test_importing_learn2learn_prints_nothing_and_changes_nothing():
    program = """
import os, random, sys, warnings
import numpy, torch
import metantk_core.meta_training
assert "learn2learn" not in sys.modules and "gym" not in sys.modules
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.meta_training.maml import MamlLearner
before = dict(os.environ), list(warnings.filters), random.getstate(), torch.get_rng_state().tolist()
maml = load_maml()
assert maml is load_maml() and maml.__name__ == "MAML"
assert before == (dict(os.environ), list(warnings.filters), random.getstate(), torch.get_rng_state().tolist())
"""
    found = subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ},
        timeout=120,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
