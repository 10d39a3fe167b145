"""Scoring any module: the address of a factory, a source of episodes and a seed enter, records leave.

Whatever a person's code raises, ``SystemExit`` included, becomes an ``InputError``: a sentence, then their own lines.

Axes: n images of the batch · k logits.
"""

import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from metantk_core.episodes import EpisodeSource
from metantk_core.errors import InputError, quoted
from metantk_core.kernels import batch, parameter_names
from metantk_core.networks import BATCH_NORM_TREATMENTS, BatchNormTreatment, count_parameters, mixes_images
from metantk_core.scores.config import ScoringConfig, inner_loop
from metantk_core.scores.definitions import SCORES
from metantk_core.scores.episodes import check_source, scoring_episodes
from metantk_core.scores.evidence import Draw
from metantk_core.scores.record import MODEL_SPACE, Score, ScoreRecord, device_kind
from metantk_core.scores.scorer import score_draw
from metantk_core.seeding import derive
from metantk_core.torchvision_import import torchvision_importable

# Of an import statement: no folders, no leading dots.
_ADDRESS = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*)")
_OURS = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_INSTALLED = ("<frozen ", _OURS, *(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "purelib", "platlib")))
_FRAMES = 8  # of a person's code: the last ones
_LONGEST = 300  # characters of their message
_TOLERANCE = 1e-3  # of logits, relative: what batching may change by rounding


def score_model(
    address: str,
    source: EpisodeSource,
    config: ScoringConfig,
    seed: int,
    *,
    device: str = "cpu",
    batch_norm: BatchNormTreatment | None = None,
    on_network: Callable[[nn.Module], None] | None = None,
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
        batch_norm: What is done about batch normalisation that mixes images; nothing means that it is refused.
        on_network: Sees the network of the first draw as it is scored, once it has been checked; its
            :func:`metantk_core.kernels.parameter_names` are the parameters that count.

    Raises:
        InputError: The address leads to no factory, or what the factory makes can't be scored.
        ValueError: The source's episodes are not those of ``config``.
    """
    check_source(source, config)
    make = check_model(address, config)
    draws: dict[str, list[Score]] = {name: [] for name in config.scores}
    counts = {"params", "flops"} & set(draws)
    drawn = [name for name in config.scores if name not in counts]
    start = perf_counter()
    for repeat in range(config.num_inits if drawn else 1):
        episodes = scoring_episodes(source, config, seed, repeat)
        images = batch([episode.query_images for episode in episodes], [episode.support_images for episode in episodes])
        with torch.random.fork_rng():
            torch.manual_seed(derive(seed, "score", "init", repeat))
            with _own_code(f"{address} fails when it is called"):
                network = make(images.shape[1], config.episode.ways)
            if not isinstance(network, nn.Module):
                raise InputError(f"expected {address} to return a torch.nn.Module, got {type(network).__name__}")
            with _own_code(f"{address} fails when it is asked for its modules or parameters"):
                _refuse_lazy(network, address)
            if batch_norm is not None:
                network = BATCH_NORM_TREATMENTS[batch_norm](network)
            images = images.to(device)
            with _own_code(f"{address} fails when it is moved to {device}"):
                network = network.to(device)
            if repeat == 0:
                with _own_code(f"{address} fails on images of shape {tuple(images.shape)}"):
                    _check(network, images, config, address)
                    if on_network is not None:
                        on_network(network)
                    for name in counts:
                        draws[name].append(Score(float(_COUNTS[name](network, images[:1]))))
            if drawn:
                draw = Draw(network, episodes, config, seed, repeat, device, source.image_shape, regions_network=None)
                with _own_code(f"{address} fails while its scores are computed", ours=True):
                    found, _ = score_draw(drawn, draw)
                for name, score in found.items():
                    draws[name].append(score)
    share = (perf_counter() - start) / len(config.scores)
    kind = device_kind(device)
    return tuple(
        ScoreRecord(MODEL_SPACE, address, name, tuple(draws[name]), seed, share, device="" if name in _COUNTS else kind)
        for name in config.scores
    )


def check_model(address: str, config: ScoringConfig) -> Callable[[int, int], object]:
    """Return the factory at an address, if a network of a person's own may be asked for the configured scores.

    Args:
        address: ``package.module:factory``; see :func:`load_factory`.
        config: What is to be computed.

    Raises:
        InputError: The address leads to no factory, or a score is none for such a network.
    """
    for name in config.scores:
        if SCORES[name].spaces_alone:
            raise InputError(
                f"{name} can't be had for a network of your own: {SCORES[name].spaces_alone}; leave it out of "
                "scoring.scores"
            )
    return load_factory(address)


def load_factory(address: str) -> Callable[[int, int], object]:
    """Return what builds a network from (channels of the images, ways of an episode).

    The working directory is searched for the module too. The factory (a function or a class) is called with both
    numbers if it takes two arguments, otherwise with none.

    Args:
        address: ``package.module:factory``.

    Raises:
        InputError: No such module, no such name in it, it is not callable, or the module's own code fails.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise InputError(
            f"expected a model as package.module:factory, got {quoted(address)}; write the module's name without "
            "folders and .py, as in an import, and name a function or class of it"
        )
    module_name, name = parts["module"], parts["name"]
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the module may be younger than this process
    try:
        with _own_code(f"the module {module_name} fails when it is imported"):
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                    raise  # something that the module itself imports
                raise InputError(
                    f"expected an importable module in {address!r} (looked in {here} and among installed packages): "
                    f"{error}"
                ) from error
    finally:
        sys.path.remove(here)
    with _own_code(f"the module {module_name} fails when it is asked for {name}"):
        # What every module has, such as __class__, is nothing that a person wrote.
        own = name in vars(module) or "__getattr__" in vars(module)
        factory = getattr(module, name, None) if own else None
    if not callable(factory):
        found = "nothing of that name" if factory is None else f"a {type(factory).__name__}"
        raise InputError(f"expected {name!r} in {module_name} to be a function or a class, got {found}")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of something written in C
        raise InputError(
            f"expected {address} to take (in_channels, ways) or no argument, but it doesn't say what it takes; write a "
            "function that calls it"
        ) from None
    for arguments in ((1, 1), ()):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return factory if arguments else lambda in_channels, ways: factory()
    raise InputError(f"expected {address} to take (in_channels, ways) or no argument, but its signature is {signature}")


@contextmanager
def _own_code(failure: str, *, ours: bool = False) -> Iterator[None]:
    """Turn whatever a person's code raises into one sentence that is followed by their lines of the traceback.

    Args:
        failure: The start of the sentence.
        ours: Whether code of this package runs as well: an error without a line of the person's is then our own.
    """
    try:
        with torchvision_importable():
            yield
    except (KeyboardInterrupt, InputError):
        raise
    except BaseException as error:
        frames = _own_frames(error)
        if ours and not frames:
            raise
        if isinstance(error, SystemExit):
            said = f"it ends the program (sys.exit({error.code!r}))"
        else:
            with_type = traceback.format_exception_only(error)
            said = " ".join(with_type[-1].split()) or type(error).__name__
            said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
        lines = "".join(traceback.StackSummary.from_list(frames[-_FRAMES:]).format())
        if isinstance(error, SyntaxError):
            lines += "".join(traceback.format_exception_only(error)[:-1])
        raise InputError(f"{failure}: {said}\n{lines}".rstrip()) from error


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the lines of a traceback from the first one that is a person's, without ours and torch's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = (number for number, frame in enumerate(frames) if not frame.filename.startswith(_INSTALLED))
    # A person's package may be installed like any other: then it is what we have called.
    called = max((number + 1 for number, frame in enumerate(frames) if frame.filename.startswith(_OURS)), default=0)
    kept = frames[next(theirs, called) :]
    return [frame for frame in kept if not frame.filename.startswith(("<frozen ", _OURS, _TORCH, importlib.__file__))]


def _refuse_lazy(network: nn.Module, address: str) -> None:
    lazy = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise InputError(
            f"{address} has parameters whose size is not known yet ({', '.join(lazy[:3])}); give them sizes, or let "
            "the factory pass an image through the network"
        )


def _check(network: nn.Module, images: Float[Tensor, "n _ _ _"], config: ScoringConfig, address: str) -> None:
    """Refuse a network whose kernel would mean nothing."""
    if any(map(mixes_images, network.modules())):
        raise InputError(
            f"{address} holds batch normalisation in training mode, which mixes the images of a batch, so that no "
            "image has a gradient of its own; say --batch-norm group to score it with GroupNorm in its place, or "
            "--batch-norm eval to score it with its running statistics"
        )
    for _ in range(2):  # what a network keeps of one pass must not be in the way of the next
        with torch.enable_grad():
            logits = network(images[:2].clone())
            _check_gradients(network, logits, address)
    with torch.no_grad():
        logits = network(images.clone())
        if not isinstance(logits, Tensor) or logits.shape != (len(images), config.episode.ways):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"expected {address} to map {len(images)} images to logits of shape "
                f"({len(images)}, {config.episode.ways}), got {got}"
            )
        if not logits.is_floating_point():
            raise InputError(f"expected {address} to return logits as floating-point numbers, got {logits.dtype}")
        if not torch.allclose(network(images.clone()), logits, rtol=_TOLERANCE, atol=_scale(logits), equal_nan=True):
            raise InputError(f"{address} gives other logits each time (dropout?); let the factory call .eval()")
        alone = torch.cat([network(image[None].clone()) for image in images[:2]])
        if not torch.allclose(alone, logits[:2], rtol=_TOLERANCE, atol=_scale(logits), equal_nan=True):
            raise InputError(f"{address} mixes the images of a batch: the logits of one depend on the others")
    if not parameter_names(network, config.parameters):
        raise InputError(f"{address} has no convolution, linear layer or other matrix of parameters that would count")
    loops = [inner_loop(name, config) for name in config.scores if SCORES[name].cost == "pass"]
    if any(loop.algorithm == "anil" for loop in loops) and not isinstance(getattr(network, "head", None), nn.Module):
        raise InputError(f"ANIL needs the last layer of {address} as the attribute 'head'; it has none")


def _check_gradients(network: nn.Module, logits: object, address: str) -> None:
    """Refuse a network that fails in the backward pass, whoever takes its gradients."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if isinstance(logits, Tensor) and logits.is_floating_point() and logits.requires_grad and learned:
        with _own_code(f"{address} fails in the backward pass"):
            torch.autograd.grad(logits.sum(), learned, allow_unused=True)


def _scale(logits: Tensor) -> float:
    return _TOLERANCE * float(logits.abs().nan_to_num(0, 0).max())


def _macs(network: nn.Module, image: Float[Tensor, "1 _ _ _"]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(image.clone())
    return counter.get_total_flops() // 2


_COUNTS: dict[str, Callable[[nn.Module, Tensor], int]] = {
    "params": lambda network, image: count_parameters(network),
    "flops": _macs,
}
