"""Scoring any module: the address of a factory, a source of episodes and a seed enter, records leave.

Axes: n images of the batch · k logits.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError
from metantk_core.kernels import batch, parameter_names
from metantk_core.networks import count_parameters
from metantk_core.scores.definitions import SCORES
from metantk_core.scores.evaluate import Draw, ScoringConfig, check_source, inner_loop, scoring_episodes, shared_scores
from metantk_core.scores.record import Score, ScoreRecord, device_kind
from metantk_core.seeding import derive

MODEL_SPACE = "model"
"""What records of a person's own model say instead of a search space."""

_TOLERANCE = 1e-3  # of logits, relative: what batching may change by rounding


def score_model(
    address: str, source: EpisodeSource, config: ScoringConfig, seed: int, *, device: str = "cpu"
) -> tuple[ScoreRecord, ...]:
    """Return one record per score of ``config.scores`` for a person's own network, at its own initialisation.

    The factory is called once for every draw, with torch's global generator seeded for that draw (and put back
    afterwards), so that the model initialises itself as it was written to. Parameters and multiply-accumulates are
    counted on the same network, at the scoring resolution.

    Args:
        address: ``package.module:factory``; see :func:`load_factory`.
        source: Episodes of the size ``config.episode``, as images of ``config.image_size``.
        config: What to compute; ``config.network`` plays no part.
        seed: Seed of the run.
        device: Where the network runs, as torch spells it.

    Raises:
        InputError: The address leads to no factory, or what the factory makes can't be scored.
        ValueError: The source's episodes are not those of ``config``.
    """
    check_source(source, config)
    make = load_factory(address)
    draws: dict[str, list[Score]] = {name: [] for name in config.scores}
    counts = {"params", "flops"} & set(draws)
    from_pass = [name for name in config.scores if SCORES[name].cost == "pass"]
    others = [name for name in config.scores if name not in counts and name not in from_pass]
    if others:
        raise InputError(
            f"{', '.join(others)} can't be computed for a network of your own, only scores of the kernel pass, params "
            "and flops; leave them out of scoring.scores"
        )
    start = perf_counter()
    for repeat in range(config.num_inits if from_pass else 1):
        episodes = scoring_episodes(source, config, seed, repeat)
        images = batch([episode.query_images for episode in episodes], [episode.support_images for episode in episodes])
        with torch.random.fork_rng():
            torch.manual_seed(derive(seed, "score", "init", repeat))
            network = make(images.shape[1], config.episode.ways)
            if not isinstance(network, nn.Module):
                raise InputError(f"expected {address} to return a torch.nn.Module, got {type(network).__name__}")
            network, images = network.to(device), images.to(device)
            if repeat == 0:
                _check(network, images, config, address)
                for name in counts:
                    draws[name].append(Score(float(_COUNTS[name](network, images[:1]))))
            if from_pass:
                draw = Draw(network, episodes, config, seed, repeat, device, source.image_shape, regions_network=None)
                for name, score in shared_scores(from_pass, draw).items():
                    draws[name].append(score)
    share = (perf_counter() - start) / len(config.scores)
    kind = device_kind(device)
    return tuple(
        ScoreRecord(MODEL_SPACE, address, name, tuple(draws[name]), seed, share, device="" if name in _COUNTS else kind)
        for name in config.scores
    )


def load_factory(address: str) -> Callable[[int, int], object]:
    """Return what builds a network from (channels of the images, ways of an episode).

    The working directory is searched for the module too. The factory (a function or a class) is called with both
    numbers if it takes two arguments, otherwise with none.

    Args:
        address: ``package.module:factory``.

    Raises:
        InputError: No such module, no such name in it, or it is not callable.
    """
    module_name, _, name = address.partition(":")
    if not module_name or not name:
        raise InputError(f"expected a model as package.module:factory, got {address!r}")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"expected an importable module in {address!r} (looked in {here} and among installed packages): {error}"
        ) from error
    finally:
        sys.path.remove(here)
    factory = getattr(module, name, None)
    if not callable(factory):
        found = "nothing of that name" if factory is None else f"a {type(factory).__name__}"
        raise InputError(f"expected {name!r} in {module_name} to be a function or a class, got {found}")
    signature = inspect.signature(factory)
    for arguments in ((1, 1), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return factory if arguments else lambda in_channels, ways: factory()
    raise InputError(f"expected {address} to take (in_channels, ways) or no argument, but its signature is {signature}")


def _check(network: nn.Module, images: Float[Tensor, "n _ _ _"], config: ScoringConfig, address: str) -> None:
    """Refuse a network whose kernel would mean nothing."""
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and _uses_batch(m) for m in network.modules()):
        raise InputError(
            f"{address} holds batch normalisation in training mode, which mixes the images of a batch, so that no "
            "image has a gradient of its own; use GroupNorm, or let the factory call .eval() to score it as it is then"
        )
    with torch.no_grad():
        try:
            logits = network(images)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{address} fails on images of shape {tuple(images.shape)}: {reason}") from error
        if not isinstance(logits, Tensor) or logits.shape != (len(images), config.episode.ways):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"expected {address} to map {len(images)} images to logits of shape "
                f"({len(images)}, {config.episode.ways}), got {got}"
            )
        if not torch.allclose(network(images), logits, rtol=_TOLERANCE, atol=_scale(logits), equal_nan=True):
            raise InputError(f"{address} gives other logits each time (dropout?); let the factory call .eval()")
        alone = torch.cat([network(image[None]) for image in images[:2]])
        if not torch.allclose(alone, logits[:2], rtol=_TOLERANCE, atol=_scale(logits), equal_nan=True):
            raise InputError(f"{address} mixes the images of a batch: the logits of one depend on the others")
    if not parameter_names(network, config.parameters):
        raise InputError(f"{address} has no convolution, linear layer or other matrix of parameters that would count")
    loops = [inner_loop(name, config) for name in config.scores if SCORES[name].cost == "pass"]
    if any(loop.algorithm == "anil" for loop in loops) and not isinstance(getattr(network, "head", None), nn.Module):
        raise InputError(f"ANIL needs the last layer of {address} as the attribute 'head'; it has none")


def _uses_batch(module: nn.modules.batchnorm._BatchNorm) -> bool:
    return module.training or module.running_mean is None


def _scale(logits: Tensor) -> float:
    return _TOLERANCE * float(logits.abs().nan_to_num(0, 0).max())


def _macs(network: nn.Module, image: Float[Tensor, "1 _ _ _"]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(image)
    return counter.get_total_flops() // 2


_COUNTS: dict[str, Callable[[nn.Module, Tensor], int]] = {
    "params": lambda network, image: count_parameters(network),
    "flops": _macs,
}
