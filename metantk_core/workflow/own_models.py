"""Networks that people wrote: addresses and images enter, scores or a ranking leave, and why some have no value."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from metantk_core.architectures import OwnModule
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import InputError, quoted
from metantk_core.kernels import parameter_names
from metantk_core.networks import BatchNormTreatment
from metantk_core.ranking import Leaderboard, rank
from metantk_core.scores import Scorer, ScoreRecord, check_model, score_model
from metantk_core.workflow.data import score_source


@dataclass(frozen=True)
class OwnScores:
    """The scores of a network that somebody wrote.

    Attributes:
        records: One a score.
        counted: Names of the parameters whose gradients make the kernel.
        uncounted: Names of the other parameters.
    """

    records: tuple[ScoreRecord, ...]
    counted: tuple[str, ...]
    uncounted: tuple[str, ...]


def score_own_model(config: RunConfig, model: OwnModule, dataset: ImageDataset, *, device: str = "cpu") -> OwnScores:
    """Return the scores of a network that somebody wrote, and which of its parameters count.

    Args:
        config: Says how networks are scored.
        model: What :func:`own_model` returned.
        dataset: Images that the episodes are drawn from.
        device: Where the network runs.

    Raises:
        InputError: What the factory makes can't be scored.
    """
    counted: list[str] = []
    others: list[str] = []

    def note(network: nn.Module) -> None:
        counted.extend(parameter_names(network, config.scoring.parameters))
        others.extend(name for name, _ in network.named_parameters() if name not in counted)

    source = score_source(config, dataset)
    records = score_model(model, source, config.scoring, config.seed, device=device, on_network=note)
    return OwnScores(records, tuple(counted), tuple(others))


@dataclass(frozen=True)
class OwnRanking:
    """Networks that people wrote in order.

    Attributes:
        leaderboard: The order, with all scores of each.
        failures: Why scores have no value, by address and score; networks with all values are left out.
    """

    leaderboard: Leaderboard
    failures: Mapping[str, Mapping[str, str]]

    def to_json(self) -> str:
        """Return the leaderboard as JSON, with the failures beside what it says itself."""
        failures = {address: dict(reasons) for address, reasons in self.failures.items()}
        return json.dumps(json.loads(self.leaderboard.to_json()) | {"failures": failures})


def rank_own_models(
    config: RunConfig,
    models: Sequence[OwnModule],
    dataset: ImageDataset,
    *,
    device: str = "cpu",
    on_done: Callable[[str], None] = lambda address: None,
) -> OwnRanking:
    """Return the ranking of networks that people wrote, on the same draws of episodes, with all scores of each.

    Args:
        config: Says how networks are scored, and what ranks.
        models: What :func:`own_models` returned.
        dataset: Images that the episodes are drawn from.
        device: Where the networks run.
        on_done: Is told each address once its network has been scored.

    Raises:
        InputError: What a factory makes can't be scored.
    """
    source = score_source(config, dataset)
    for model in models:  # tried before the first is scored, which may take long
        Scorer(model, source, config.scoring, config.seed, device=device).draw(model, 0)
    records: list[ScoreRecord] = []
    for model in models:
        records += score_own_model(config, model, dataset, device=device).records
        on_done(model.address)
    failures: dict[str, dict[str, str]] = {}
    for record in sorted(records, key=lambda record: record.genotype):
        if record.failure:
            failures.setdefault(record.genotype, {})[record.score] = record.failure
    return OwnRanking(rank(records, by=config.criterion), failures)


def own_models(
    config: RunConfig, addresses: Sequence[str], *, batch_norm: BatchNormTreatment | None = None
) -> tuple[OwnModule, ...]:
    """Return the networks that people wrote at several addresses, which may be ranked by the configured scores.

    Args:
        config: Says what they are asked for.
        addresses: ``package.module:factory`` of each, at least two different ones.
        batch_norm: What is done about batch normalisation in all of them; nothing means that it is refused.

    Raises:
        InputError: As for :func:`own_model`, or there are fewer than two, or one comes twice.
    """
    if len(set(addresses)) < 2 or len(set(addresses)) < len(addresses):
        given = ", ".join(map(quoted, addresses)) or "none"
        raise InputError(f"Expected two or more different networks to rank, got {given}.")
    return tuple(own_model(config, address, batch_norm=batch_norm) for address in addresses)


def own_model(config: RunConfig, address: str, *, batch_norm: BatchNormTreatment | None = None) -> OwnModule:
    """Return the network that somebody wrote, if it may be asked for the configured scores; its factory is loaded once.

    Args:
        config: Says what it is asked for.
        address: ``package.module:factory`` of what builds the network.
        batch_norm: What is done about batch normalisation; nothing means that it is refused.

    Raises:
        InputError: The address leads to no factory, or a score is none for a network of a person's own.
    """
    return check_model(address, config.scoring, batch_norm=batch_norm)
