"""What runs on a GPU stays on it: every pass, every score, a step of training and of evaluation, without a GPU at hand.

They run on the meta device of torch under a mode that refuses what mixes devices, and on a GPU where there is one. What
comes back to the CPU is made up, so that what is done with it is looked at as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from one_device import MixedDevicesError, OneDevice
from quiet import noise
from torch import nn

from metantk_core.batches import BatchSource
from metantk_core.candidates import parse_genotype
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.kernels import last_layer_kernel, tangent_and_last_layer_kernel
from metantk_core.kernels.tangent import IMPLEMENTATIONS
from metantk_core.meta_training import (
    EvaluationConfig,
    MamlTraining,
    ProtoNetTraining,
    RfsTraining,
    answering,
    evaluate,
    meta_train,
    untrained_model,
)
from metantk_core.meta_training.supervised import RfsLearner
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, initialise
from metantk_core.scores import SCORES, Scorer, ScoringConfig

CELL = parse_genotype(
    "nasbench201", "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
)
DATA = noise()
EPISODE = EpisodeConfig(ways=3, shots=1, queries=1)
NETWORK = NetworkConfig(channels=2, cells=1)


def of_cost(cost: str) -> list[str]:
    return [name for name, definition in SCORES.items() if definition.cost == cost]


DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]

# The scores, those that share a pass together, and where they first ask for numbers on the CPU: the end of what a run
# on the meta device shows beyond doubt.
STAGES = "az_expressivity", "az_progressivity", "az_trainability"
FIRST_COPY: Mapping[tuple[str, ...], tuple[str, str]] = {
    tuple(of_cost("pass")): ("kernels/engine.py", "return Kernels(ntk.cpu()"),
    tuple(of_cost("backward")): ("scores/gradients.py", "return bool(self.loss.isfinite().all())"),
    ("grasp",): ("scores/gradients.py", "return bool(self.loss.isfinite().all())"),
    ("gradsign",): ("scores/gradients.py", "float(total.double().abs().sum())"),
    ("naswot",): ("scores/activations.py", "outputs.isfinite().all()"),
    ("swap", "swap_regularised"): ("scores/activations.py", ".flatten(1).cpu().numpy()"),
    ("linear_regions",): ("scores/activations.py", ".flatten(1).cpu().numpy()"),
    ("synflow",): ("scores/synflow.py", "torch.stack(products).cpu()"),
    ("synflow_bn",): ("scores/synflow.py", "torch.stack(products).cpu()"),
    ("l2_norm",): ("scores/weights.py", ".double().norm())"),
    ("jacob_cov", "epe_nas"): ("scores/jacobians.py", ".double().cpu()"),
    ("zen",): ("scores/zen.py", "torch.stack(variances).tolist()"),
    STAGES: ("scores/stages.py", "maps.isfinite().all()"),
    ("meco",): ("scores/meco.py", "maps.double().cpu()"),
}
# The norm of weights looks at one weight at a time: nothing meets a tensor that is elsewhere.
MEETING = [names for names in FIRST_COPY if names != ("l2_norm",)]


def source(episode: EpisodeConfig = EPISODE) -> EpisodeSource:
    return EpisodeSource(DATA.train, episode, DATA.mean, DATA.std)


def network() -> FewShotNetwork:
    made = build(CELL, NETWORK, in_channels=1, ways=3, variant="scoring")
    initialise(made, 0, "test")
    return made


def leave_on_cpu(module: nn.Module | None) -> None:
    """Plant a tensor on the CPU: the weight of a network's first convolution."""
    for part in module.modules() if module is not None else ():
        if isinstance(part, nn.Conv2d):
            part.weight = nn.Parameter(torch.randn(part.weight.shape))
            return


def scored(names: tuple[str, ...], device: str) -> None:
    config = ScoringConfig.model_validate(
        {
            "scores": names,
            "num_inits": 1,
            "tasks": 2,
            "episode": EPISODE,
            "image_size": 8,
            "network": NETWORK,
            "linear_regions": {"images": 32},
            "swap": {"centre": 1, "width": 1e9},
        }
    )
    Scorer(CELL, source(), config, 0, device=device).score(CELL, range(1))


def trained(device: str, **settings: Any) -> None:
    config = MamlTraining.model_validate(
        {
            "network": NETWORK,
            "episode": EPISODE,
            "iterations": 1,
            "validate_every": 1,
            "meta_batch": 1,
            "inner_steps": 1,
            "validation_episodes": 2,
            **settings,
        }
    )
    meta_train(CELL, source(), source(), config, 0, device=device)


def evaluated(device: str, **settings: Any) -> None:
    config = MamlTraining.model_validate({"network": NETWORK, "episode": EPISODE, "inner_steps": 1, **settings})
    asked = EvaluationConfig(episodes=2, episode=EPISODE)
    evaluate(untrained_model(CELL, source(), config, 0), source(), asked, 0, device=device)


PROTONET = ProtoNetTraining.model_validate(
    {
        "network": NETWORK,
        "episode": EPISODE,
        "iterations": 1,
        "validate_every": 1,
        "validation_episode": EPISODE,
        "validation_episodes": 2,
    }
)


def protonet_trained(device: str) -> None:
    meta_train(CELL, source(), source(), PROTONET, 0, device=device)


def protonet_evaluated(device: str) -> None:
    asked = EvaluationConfig(episodes=2, episode=EPISODE, beside=("nearest_centroid", "cosine"))
    evaluate(untrained_model(CELL, source(), PROTONET, 0), source(), asked, 0, device=device)


def rfs_step(device: str, moved: bool = True) -> None:
    config = RfsTraining(batch_size=6, epochs=2, decay_epochs=(), drop_path=0.3)
    batches = BatchSource(DATA.train, 6, DATA.mean, DATA.std, config.augmentation)
    made = build(CELL, NETWORK, in_channels=1, ways=batches.num_classes, variant="training", norm="batch_running")
    learner = RfsLearner(made.to(device), config, batches, 0, device)
    number, batch = learner.draw(batches.batches_per_epoch)
    learner.gradient((number, batch if moved else replace(batch, images=torch.randn(batch.images.shape))))
    learner.optimiser.step()


@pytest.mark.parametrize("device", DEVICES)
def test_step_on_base_classes_stays_on_the_device_until_it_has_a_loss(device):
    with OneDevice(device) as seen:
        rfs_step(device)
    assert "loss.item()" in seen.copies[0], seen.copies[:3]
    with pytest.raises(MixedDevicesError, match="cpu and"), OneDevice(device):
        rfs_step(device, moved=False)


STEPS: dict[str, Callable[[str], None]] = {
    "training by MAML": trained,
    "training by MAML, first order": partial(trained, first_order=True),
    "training by ANIL": partial(trained, algorithm="anil"),
    "training, normalised by groups": partial(trained, norm="group"),
    "evaluation by MAML": evaluated,
    "evaluation by ANIL": partial(evaluated, algorithm="anil"),
    "training by ProtoNet": protonet_trained,
    "evaluation by ProtoNet": protonet_evaluated,
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("outputs", ["sum", "trace"])
def test_kernel_pass_stays_on_the_device_to_its_end(device, implementation, outputs):
    made = network().to(device)
    images = torch.randn(4, 1, 8, 8).to(device)
    with OneDevice(device) as seen:
        tangent_and_last_layer_kernel(made, images, outputs=outputs, implementation=implementation)
    assert all("return Kernels(ntk.cpu()" in line for line in seen.copies), seen.copies
    leave_on_cpu(made)
    with pytest.raises(MixedDevicesError), OneDevice(device):
        tangent_and_last_layer_kernel(made, images, outputs=outputs, implementation=implementation)


@pytest.mark.parametrize("device", DEVICES)
def test_last_layer_kernel_stays_on_the_device_until_it_has_the_features(device):
    made = network().to(device)
    with OneDevice(device) as seen:
        last_layer_kernel(made, torch.randn(4, 1, 8, 8).to(device))
    assert [line.partition(":")[0] for line in seen.copies] == ["kernels/features.py"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("names", FIRST_COPY, ids="+".join)
def test_score_stays_on_the_device_until_it_asks_for_its_numbers(names, device):
    with OneDevice(device) as seen:
        scored(names, device)
    place, text = FIRST_COPY[names]
    assert seen.copies[0].startswith(place), seen.copies[0]
    assert text in seen.copies[0], seen.copies[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("names", MEETING, ids="+".join)
def test_weight_that_is_left_on_the_cpu_fails_the_score(names, device, monkeypatch):
    drawn = Scorer._draw_of

    def planted(*arguments: Any) -> Any:
        draw = drawn(*arguments)
        for module in (draw.network, draw.regions_network):
            leave_on_cpu(module)
        return draw

    monkeypatch.setattr(Scorer, "_draw_of", planted)
    with pytest.raises(MixedDevicesError, match="cpu and"), OneDevice(device):
        scored(names, device)


def test_every_score_is_among_those_that_run_on_the_device():
    drawn = {name for name, definition in SCORES.items() if definition.cost != "none"}
    assert {name for names in FIRST_COPY for name in names} == drawn


def test_norm_of_weights_lets_no_two_tensors_meet():
    with OneDevice() as seen:
        scored(("l2_norm",), "meta")
    assert seen.meetings == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", STEPS)
def test_step_stays_on_the_device_until_it_has_a_loss_or_logits(step, device):
    with OneDevice(device) as seen:
        STEPS[step](device)
    reached = [line for line in seen.copies if not line.endswith("network.state_dict().items()}")]
    assert "loss.item()" in reached[0] if "training" in step else "logits[name].cpu()" in reached[0], reached[:3]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", STEPS)
def test_images_that_are_left_on_the_cpu_fail_the_step(step, device, monkeypatch):
    move, answer = EpisodeSource.normalised, answering.adapted_logits

    def half_moved(source: EpisodeSource, episode: Any, device: Any) -> Any:
        return replace(move(source, episode, device), query_images=move(source, episode, "cpu").query_images)

    def half_asked(network: Any, support: Any, labels: Any, queries: Any, **settings: Any) -> Any:
        return answer(network, support, labels, torch.randn(queries.shape), **settings)

    monkeypatch.setattr(EpisodeSource, "normalised", half_moved)
    monkeypatch.setattr(answering, "adapted_logits", half_asked)
    with pytest.raises(MixedDevicesError, match="cpu and"), OneDevice(device):
        STEPS[step](device)


@pytest.mark.parametrize(
    "work",
    [
        lambda ours, theirs: ours[0, 0] @ theirs[0, 0],
        lambda ours, theirs: F.conv2d(ours, theirs),
        lambda ours, theirs: torch.einsum("nchw,nchw->n", ours, theirs),
        lambda ours, theirs: ours[torch.tensor([0, 1])],
    ],
    ids=["product", "convolution", "einsum", "indexing"],
)
def test_mode_refuses_what_torch_lets_pass_on_the_meta_device(work):
    ours, theirs = torch.randn(2, 2, 2, 2, device="meta"), torch.randn(2, 2, 2, 2)
    work(ours, theirs)
    with pytest.raises(MixedDevicesError), OneDevice():
        work(ours, theirs)


def test_mode_lets_a_number_on_the_cpu_meet_a_tensor_on_the_device():
    with OneDevice() as seen:
        assert (torch.randn(2, device="meta") * torch.tensor(2.0)).device.type == "meta"
    assert seen.copies == []
