"""One type for all that is scored and trained: its texts, the networks that it gives, and what learners ask of them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_learners import PROTONET, RFS
from test_meta_training import CONFIG, EPISODE, GENOTYPE, Memory, changed, source
from torch import nn

from metantk_core.architectures import (
    OwnModule,
    OwnNetwork,
    costs_of,
    format_architecture,
    initial_network,
    learnable_network,
    own_module,
    parse_architecture,
)
from metantk_core.batches import BatchSource
from metantk_core.candidates import NAMED_NETWORKS, NamedNetwork
from metantk_core.errors import InputError
from metantk_core.kernels import empirical_ntk
from metantk_core.meta_training import (
    EvaluationConfig,
    ProtoNetTraining,
    RfsTraining,
    evaluate,
    load_model,
    meta_train,
    save_model,
    training,
    untrained_model,
)
from metantk_core.networks import FewShotNetwork, NetworkConfig, Normalisation, dropping
from metantk_core.networks.resnet12 import kept_positions
from metantk_core.scores import ScoringConfig, score_candidate

SMALL = NetworkConfig(channels=2, cells=3)
TRAIN, VALIDATION, TEST = (source(split, size=16) for split in ("train", "val", "test"))
MODULE = """
import torch
from torch import nn

def usual(in_channels, ways):
    body = nn.Conv2d(in_channels, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(24, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, ways))

def without_head(in_channels, ways):
    return nn.Sequential(nn.Conv2d(in_channels, ways, 3), nn.BatchNorm2d(ways), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def of_ten(in_channels, ways):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * in_channels, 10))

def resting(in_channels, ways):
    drop = nn.Dropout(0.9).eval()
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), drop, nn.Linear(4 * in_channels, ways))

def with_dropout(in_channels, ways):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * in_channels, ways))

def frozen(in_channels, ways):
    return usual(in_channels, ways).requires_grad_(False)

def frozen_body(in_channels, ways):
    module = frozen(in_channels, ways)
    module[-1].requires_grad_(True)
    return module

def frozen_head(in_channels, ways):
    module = usual(in_channels, ways)
    module[-1].requires_grad_(False)
    return module

def without_weights(in_channels, ways):
    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.AdaptiveAvgPool1d(ways))

class Tied(nn.Module):
    def __init__(self, in_channels, ways):
        super().__init__()
        self.first = nn.Linear(4 * in_channels, 4 * in_channels)
        self.second = self.first
        self.last = nn.Linear(4 * in_channels, ways)

    def forward(self, x):
        return self.last(self.second(self.first(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)).relu()))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "networks_to_train.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, batch_norm=None: own_module(f"networks_to_train:{name}", batch_norm=batch_norm)


def named(name, size, *, channels=3, ways=5, norm: Normalisation = "group"):
    network = initial_network(
        NamedNetwork(name), SMALL, image_shape=(channels, size, size), ways=ways, norm=norm, seed=0
    )
    assert isinstance(network, FewShotNetwork)
    return network


@pytest.mark.parametrize(
    ("space", "text", "canonical"),
    [
        ("nasbench201", str(GENOTYPE), str(GENOTYPE)),
        ("darts_fewshot", "paper-mini-5-a", None),
        ("named", "resnet12", "resnet12"),
        ("nasbench201", " conv4-64\n", "conv4-64"),
        ("model", "a.b:factory", "a.b:factory"),
        ("model", "a.b:factory batch_norm=eval", "a.b:factory batch_norm=eval"),
    ],
)
def test_the_text_of_an_architecture_reads_back_to_an_equal_one(space, text, canonical):
    found = parse_architecture(space, text)
    written = format_architecture(found)
    assert canonical in (None, written)
    assert parse_architecture(found.space, written) == found


@pytest.mark.parametrize(
    ("space", "text", "words"),
    [
        ("named", "conv5-64", "named networks conv4-32, conv4-64, resnet12"),
        ("model", "os.path", "package.module:factory"),
        ("model", "a:b batch_norm=none", "package.module:factory"),
        ("nasbench202", "conv", "no search space"),
    ],
)
def test_a_text_of_no_architecture_is_refused_with_what_was_expected(space, text, words):
    with pytest.raises(InputError, match=words):
        parse_architecture(space, text)


# Parameters as published or as everybody counts them: 32.9 k of MAML's network on miniImageNet; 113,088 and 111,936 of
# the embedding of prototypical networks there and on Omniglot; 12.42 M and 12.47 M of RFS (facts-fewshot).
@pytest.mark.parametrize(
    ("name", "image_shape", "ways", "parameters"),
    [
        ("conv4-32", (3, 84, 84), 5, 32_901),
        ("conv4-64", (3, 84, 84), 5, 113_088 + 1_600 * 5 + 5),
        ("conv4-64", (1, 28, 28), 20, 111_936 + 64 * 20 + 20),
        ("conv4-64", (3, 32, 32), 5, 113_088 + 4 * 64 * 5 + 5),
        ("resnet12", (3, 84, 84), 64, 12_465_344),
    ],
)
def test_named_networks_are_as_large_as_published(name, image_shape, ways, parameters):
    assert costs_of(NamedNetwork(name), SMALL, image_shape=image_shape, ways=ways).params == parameters


def test_resnet12_without_head_has_12_42_million_parameters():
    assert round(sum(p.numel() for p in named("resnet12", 16).body.parameters()) / 1e6, 2) == 12.42


def test_multiply_accumulates_of_named_networks_are_those_counted_by_hand():
    sizes = (84, 42, 21, 10)
    widths = (3, 64, 160, 320, 640)
    resnet = sum(
        size**2 * (9 * (before * after + 2 * after**2) + before * after)
        for size, before, after in zip(sizes, widths[:-1], widths[1:], strict=True)
    )
    assert costs_of(NamedNetwork("resnet12"), SMALL, image_shape=(3, 84, 84), ways=5).macs == resnet + 640 * 5
    assert f"{resnet / 1e9:.1f}" == "3.5"  # as published
    conv4 = sum(9 * size**2 * before * 32 for size, before in zip(sizes, (3, 32, 32, 32), strict=True))
    assert costs_of(NamedNetwork("conv4-32"), SMALL, image_shape=(3, 84, 84), ways=5).macs == conv4 + 800 * 5


def _conv4(weights, x):
    for block in range(4):
        conv, norm = (f"body.blocks.{block}.{part}." for part in ("conv", "norm"))
        x = F.conv2d(x, weights[conv + "weight"], weights[conv + "bias"], padding=1)
        x = F.group_norm(x, 16, weights[norm + "weight"], weights[norm + "bias"])
        x = F.max_pool2d(x.clamp_min(0), 2, 2)
    return x.reshape(len(x), -1)


def _resnet12(weights, x):
    def normed(x, conv, norm, padding):
        x = F.conv2d(x, weights[f"{conv}.weight"], padding=padding)
        return F.group_norm(x, 16, weights[f"{norm}.weight"], weights[f"{norm}.bias"])

    def leaky(x):
        return torch.where(x > 0, x, 0.1 * x)

    for block in range(4):
        at = f"body.blocks.{block}"
        first = leaky(normed(x, f"{at}.convs.0", f"{at}.norms.0", 1))
        second = leaky(normed(first, f"{at}.convs.1", f"{at}.norms.1", 1))
        third = normed(second, f"{at}.convs.2", f"{at}.norms.2", 1)
        x = F.max_pool2d(leaky(third + normed(x, f"{at}.shortcut.0", f"{at}.shortcut.1", 0)), 2, 2)
    return x.mean((2, 3))


@pytest.mark.parametrize(("name", "features", "dimension"), [("conv4-64", _conv4, 256), ("resnet12", _resnet12, 640)])
def test_named_networks_compute_what_their_definition_written_out_computes(name, features, dimension):
    network, x = named(name, 32).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    weights = dict(network.named_parameters())
    expected = features(weights, x)
    assert expected.shape == (2, dimension)
    torch.testing.assert_close(network.features(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network(x), expected @ weights["head.weight"].T + weights["head.bias"])


@pytest.mark.parametrize(("size", "side"), [(10, 5), (5, 5), (4, 2), (1, 1)])
def test_squares_of_maps_are_left_out_in_the_wanted_share_and_the_mean_stays(size, side):
    kept = kept_positions((200, 40, size, size), 0.1, torch.Generator().manual_seed(0))
    dropped = kept == 0
    # Squares overlap, so that a little less than the share is left out.
    assert 0.08 < dropped.double().mean() <= 0.104
    assert float(kept.double().mean()) == pytest.approx(1, abs=1e-4)
    windows = dropped.unfold(2, side, 1).unfold(3, side, 1)
    whole = windows.flatten(-2).all(-1)  # where a whole square is left out
    covered = torch.zeros_like(dropped)
    for down in range(side):
        for across in range(side):
            covered[:, :, down : size - side + 1 + down, across : size - side + 1 + across] |= whole
    assert torch.equal(covered, dropped)


def test_resnet12_loses_squares_of_its_last_maps_by_seed_and_only_while_it_is_told_to():
    network, x = named("resnet12", 32), torch.randn(2, 3, 32, 32)
    before = network(x)

    def dropped(seed):
        with dropping(network, 0.3, x, torch.Generator().manual_seed(seed)):
            return network(x)

    assert torch.equal(dropped(0), dropped(0))
    assert not torch.allclose(dropped(0), dropped(1))
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("name", NAMED_NETWORKS)
def test_named_networks_refuse_images_that_they_cannot_halve_four_times(name):
    with pytest.raises(InputError, match="at least 16 x 16"):
        named(name, 15)


def test_kernel_of_4_conv_is_the_gram_matrix_of_the_gradients_one_by_one():
    network, x = named("conv4-32", 20).double(), torch.randn(3, 3, 20, 20, dtype=torch.float64)
    weights = [p for p in network.parameters() if p.dim() > 1]
    rows = [
        torch.cat([part.flatten() for part in torch.autograd.grad(network(image[None]).sum(), weights)]) for image in x
    ]
    expected = torch.stack(rows) @ torch.stack(rows).T
    kernel = empirical_ntk(network, x)
    torch.testing.assert_close(kernel / kernel.trace(), expected / expected.trace())


def test_named_network_is_scored_as_a_candidate_is_but_not_by_what_only_cells_have():
    config = ScoringConfig(scores=("metantk_cond", "zen", "params", "flops"), num_inits=2, episode=EPISODE)
    scoring = source("train", EPISODE.model_copy(update={"queries": 1}), size=16, per_class=8)
    config = config.model_copy(update={"episode": scoring.config, "image_size": 16})
    records = {record.score: record for record in score_candidate(NamedNetwork("conv4-32"), scoring, config, 0)}
    assert all(draw.value is not None for record in records.values() for draw in record.draws)
    assert (records["params"].space, records["params"].genotype) == ("named", "conv4-32")
    assert records["params"].draws[0].value == 28_320 + 3 * 33  # one channel; maps of one pixel
    counted = config.model_copy(update={"scores": ("linear_regions",)})
    with pytest.raises(InputError, match="can't be had for conv4-32"):
        score_candidate(NamedNetwork("conv4-32"), scoring, counted, 0)


@pytest.mark.parametrize(("algorithm", "norm"), [("maml", "batch_support"), ("anil", "group")])
@pytest.mark.parametrize("name", ["conv4-32", "usual", "Tied", "with_dropout"])
def test_every_kind_of_architecture_trains_is_kept_resumes_and_answers_alike(
    name, algorithm, norm, own, tmp_path, monkeypatch
):
    architecture = NamedNetwork(name) if name in NAMED_NETWORKS else own(name)
    config = changed(algorithm=algorithm, norm=norm, first_order=algorithm == "maml", iterations=2, validate_every=1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    whole = meta_train(architecture, TRAIN, VALIDATION, config, 0)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    memory = Memory()

    def stop(done, total, detail=""):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meta_train(architecture, TRAIN, VALIDATION, config, 0, checkpoint=memory, progress=stop)
    resumed = meta_train(architecture, TRAIN, VALIDATION, config, 0, checkpoint=memory)
    assert resumed.digest == whole.digest
    assert torch.equal(torch.get_rng_state(), state)
    assert resumed.history == whole.history
    save_model(whole, tmp_path / "model")
    read = load_model(tmp_path / "model")
    assert read.architecture == architecture
    assert read.digest == whole.digest
    asked = EvaluationConfig(episode=EPISODE, episodes=4)
    assert evaluate(read, TEST, asked, 0).per_episode == evaluate(whole, TEST, asked, 0).per_episode


@pytest.mark.parametrize("name", ["conv4-32", "usual", "with_dropout"])
def test_every_kind_of_architecture_trains_on_base_classes_and_resumes_with_the_same_bits(name, own, monkeypatch):
    architecture = NamedNetwork(name) if name in NAMED_NETWORKS else own(name)
    config = RfsTraining(
        batch_size=32, epochs=1, decay_epochs=(), validation_episode=EPISODE, validation_episodes=2, learning_rate=0.1
    )
    batches = BatchSource(TRAIN.images, 32, TRAIN.mean, TRAIN.std, config.augmentation)
    whole = meta_train(architecture, batches, VALIDATION, config, 0)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    memory = Memory()

    def stop(done, total, detail=""):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meta_train(architecture, batches, VALIDATION, config, 0, checkpoint=memory, progress=stop)
    torch.manual_seed(1)
    resumed = meta_train(architecture, batches, VALIDATION, config, 0, checkpoint=memory)
    assert (resumed.digest, resumed.history) == (whole.digest, whole.history)
    asked = EvaluationConfig(episode=EPISODE, episodes=4)
    assert evaluate(resumed, TEST, asked, 0) == evaluate(whole, TEST, asked, 0)


def test_training_that_is_killed_after_its_first_checkpoint_ends_with_the_same_bits():
    class First(Memory):
        def save(self, data):
            if self.load() is None:
                super().save(data)

    origin = source("train", PROTONET.episode, size=16)
    validation, first = source("val", PROTONET.validated_on, size=16), First()
    whole = meta_train(NamedNetwork("conv4-32"), origin, validation, PROTONET, 0, checkpoint=first)
    resumed = meta_train(NamedNetwork("conv4-32"), origin, validation, PROTONET, 0, checkpoint=first)
    assert (resumed.digest, resumed.history) == (whole.digest, whole.history)


@pytest.mark.parametrize("name", ["conv4-32", "usual"])
def test_both_engines_train_named_networks_and_a_persons_module_alike(name, own):
    architecture = NamedNetwork(name) if name in NAMED_NETWORKS else own(name)
    losses = [
        meta_train(architecture, TRAIN, VALIDATION, changed(iterations=1, engine=engine), 0).history[0].train_loss
        for engine in ("learn2learn", "batched")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_a_person_has_frozen_adapts_in_no_inner_loop(own):
    # With all but the head frozen, MAML is ANIL: in training by either engine, in validation and in answers.
    trained = [
        meta_train(own("frozen_body"), TRAIN, VALIDATION, changed(iterations=1, algorithm=algorithm, engine=engine), 0)
        for algorithm in ("maml", "anil")
        for engine in ("learn2learn", "batched")
    ]
    for other in trained[1:]:
        assert other.history[0].train_loss == pytest.approx(trained[0].history[0].train_loss, rel=1e-4)
        assert other.history[0].validation_accuracy == trained[0].history[0].validation_accuracy
    with pytest.raises(InputError, match="Expected a head whose parameters can adapt"):
        meta_train(own("frozen_head"), TRAIN, VALIDATION, changed(iterations=1, algorithm="anil"), 0)


def test_dropout_of_a_persons_module_is_drawn_in_both_engines(own):
    for engine in ("learn2learn", "batched"):
        config = changed(iterations=1, engine=engine)
        first, second = (meta_train(own("with_dropout"), TRAIN, VALIDATION, config, 0) for _ in range(2))
        assert first.digest == second.digest


@pytest.mark.parametrize("training", [PROTONET, RFS], ids=["protonet", "rfs"])
@pytest.mark.parametrize("name", ["conv4-32", "usual"])
def test_learners_of_features_train_named_networks_and_a_persons_module(name, training, own, tmp_path):
    architecture = NamedNetwork(name) if name in NAMED_NETWORKS else own(name)
    whole = source("train", size=16)
    if isinstance(training, ProtoNetTraining):
        origin = source("train", training.episode, size=16)
    else:
        origin = BatchSource(whole.images, training.batch_size, whole.mean, whole.std, training.augmentation)
    trained = meta_train(architecture, origin, source("val", training.validated_on, size=16), training, 0)
    assert trained.history[-1].train_loss != trained.history[0].train_loss
    save_model(trained, tmp_path / "model")
    asked = EvaluationConfig(episode=EPISODE, episodes=3, classifier="logistic_regression")
    found = [evaluate(model, TEST, asked, 0).per_episode for model in (trained, load_model(tmp_path / "model"))]
    assert found[0] == found[1]


def test_learners_of_features_refuse_a_module_without_a_linear_head(own):
    origin, validation = source("train", PROTONET.episode, size=16), source("val", PROTONET.validated_on, size=16)
    with pytest.raises(InputError, match="ANIL, ProtoNet and RFS need"):
        meta_train(own("without_head"), origin, validation, PROTONET, 0)


@pytest.mark.parametrize(("name", "ways"), [("frozen", 5), ("without_weights", 5), ("frozen_body", 0)])
def test_a_module_in_which_training_would_change_nothing_is_refused(name, ways, own):
    with pytest.raises(InputError, match=f"networks_to_train:{name} to have parameters that training can change"):
        initial_network(own(name), SMALL, image_shape=(1, 16, 16), ways=ways, norm="group", seed=0)
    initial_network(own("frozen_body"), SMALL, image_shape=(1, 16, 16), ways=5, norm="group", seed=0)


def test_model_of_a_persons_module_is_read_without_running_their_code(tmp_path, own):
    save_model(untrained_model(own("usual"), TRAIN, CONFIG, 0), tmp_path / "model")
    for file in tmp_path.glob("networks_to_train.py"):
        file.write_text("raise RuntimeError")
    assert load_model(tmp_path / "model").genotype == "networks_to_train:usual"


def test_features_of_a_persons_module_are_what_its_last_linear_layer_sees(own):
    network = learnable_network(own("usual"), SMALL, image_shape=(1, 16, 16), ways=3, norm="batch_transductive")
    assert isinstance(network, OwnNetwork)
    assert isinstance(network.module, nn.Sequential)
    x = torch.randn(5, 1, 16, 16)
    features = network.features(x)
    assert features.shape == (5, 8)
    torch.testing.assert_close(network.head(features), network(x))
    torch.testing.assert_close(features, network.module[:-1](x))


def test_module_without_a_linear_head_trains_by_maml_and_anil_says_what_it_lacks(own):
    assert meta_train(own("without_head"), TRAIN, VALIDATION, changed(iterations=1), 0).outcome == "finished"
    with pytest.raises(InputError, match=r"networks_to_train:without_head .* torch.nn.Linear .* by maml"):
        meta_train(own("without_head"), TRAIN, VALIDATION, changed(iterations=1, algorithm="anil"), 0)


def test_module_with_another_number_of_logits_is_refused(own):
    with pytest.raises(InputError, match=r"to 3 logits each, got torch.float32 of shape \(2, 10\)"):
        untrained_model(own("of_ten"), TRAIN, CONFIG, 0)


@pytest.mark.parametrize("norm", ["batch_support", "batch_transductive"])
def test_batch_normalisation_of_a_persons_module_is_by_the_moments_of_the_episode(norm, own):
    network = learnable_network(own("usual"), SMALL, image_shape=(1, 16, 16), ways=3, norm=norm)
    assert isinstance(network, OwnNetwork)
    support, queries = torch.randn(6, 1, 16, 16), torch.randn(4, 1, 16, 16)
    network.train()
    first = network(support)
    usual = copy.deepcopy(network.module)  # the same by torch's own layers, in training mode
    assert isinstance(usual, nn.Sequential)
    usual[1], usual[6] = nn.BatchNorm2d(6), nn.BatchNorm1d(8, affine=False)
    torch.testing.assert_close(usual.train()(support), first)
    network.eval()
    alone = torch.cat([network(query[None].expand(2, -1, -1, -1))[:1] for query in queries])
    assert torch.allclose(alone, network(queries), atol=1e-5) is (norm == "batch_support")


def test_running_statistics_stay_what_they_are_while_a_module_trains_if_that_was_asked_for(own):
    network = learnable_network(own("usual", "eval"), SMALL, image_shape=(1, 16, 16), ways=3, norm="batch_support")
    network.train()
    x = torch.randn(5, 1, 16, 16)
    together = network(x)
    torch.testing.assert_close(network(x[:2]), together[:2])
    assert all(not part.training for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))


def test_dropout_that_a_factory_puts_to_rest_stays_so_in_training(own):
    network = learnable_network(own("resting"), SMALL, image_shape=(1, 16, 16), ways=3, norm="batch_support")
    x = torch.randn(5, 1, 16, 16)
    assert torch.equal(network.train()(x), network.eval()(x))


def test_weights_of_a_persons_module_depend_on_the_seed_alone(own):
    def weights(seed):
        torch.manual_seed(len(str(seed)) + int(torch.randint(100, ())))
        return untrained_model(own("usual"), TRAIN, CONFIG, seed).state["module.0.weight"]

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert isinstance(own("usual"), OwnModule)
