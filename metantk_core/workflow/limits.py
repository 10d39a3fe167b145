"""What candidates may cost: the limits of a configuration enter, the setting of its search leaves."""

from dataclasses import replace
from typing import Literal

from metantk_core.candidates import Costs, Genotype, space_named
from metantk_core.config import RunConfig
from metantk_core.errors import InputError
from metantk_core.networks import CostTable, LatencyTable, cost_table, measure_latency
from metantk_core.search import Setting, most_rounds
from metantk_core.search.constraints import admits
from metantk_core.workflow.runs import Ports
from metantk_core.workflow.sealed import FORMAT, read_sealed, write_sealed


def check_limits(config: RunConfig) -> None:
    """Do nothing if some candidate of the space may be within the limits on parameters and multiply-accumulates.

    Raises:
        InputError: Even the cheapest parts of all candidates together are above a limit.
    """
    limits = config.search.constraints
    if limits.max_params is None and limits.max_macs is None:
        return
    table = _costs(config)
    supernet = space_named(config.search.space).supernet()
    checks: tuple[tuple[Literal["params", "macs"], int | None], ...] = (
        ("params", limits.max_params),
        ("macs", limits.max_macs),
    )
    for cost, limit in checks:
        least = int(table.cheapest(supernet, cost))
        if limit is not None and least > limit:
            raise InputError(
                f"No candidate of {config.search.space} is within search.constraints.max_{cost} = {limit:,}: the least "
                f"is {least:,}; raise the limit, or lower training.network.channels."
            )


def setting(config: RunConfig) -> Setting:
    """Return what stays the same during a search, without the limits."""
    return Setting(config.search, config.criterion, config.scoring.num_inits, config.seed)


def num_rounds(config: RunConfig) -> int:
    """Return the most rounds that the search of a run takes: so many has its pipeline."""
    return most_rounds(setting(config))


def limited_setting(config: RunConfig, latency: LatencyTable | None) -> Setting:
    """Return what stays the same during a search, with the limits on what may be found.

    Args:
        config: The run.
        latency: The search's latency table; none if latency is not limited.

    Raises:
        InputError: Latency is limited and there is no table.
    """
    limits = config.search.constraints
    if not limits.limited:
        return setting(config)
    table = _costs(config)
    if limits.max_latency is not None:
        if latency is None:
            raise InputError("Expected a state with this search's latency table, but it has none; start it again.")
        table = table.with_latency(latency)

    def allowed(genotype: Genotype) -> bool:
        least = Costs(
            params=int(table.cheapest(genotype, "params")),
            macs=int(table.cheapest(genotype, "macs")),
            latency=None if latency is None else float(table.cheapest(genotype, "latency")),
        )
        return admits(least, limits)

    return replace(setting(config), allowed=allowed)


def latency_table(config: RunConfig, ports: Ports) -> LatencyTable | None:
    """Return a run's latency table, measured once a kind of device; none if latency is not limited.

    Once, so that a repeated search has one result.
    """
    if config.search.constraints.max_latency is None:
        return None
    key = f"{config.run_id}/latency-{ports.device_kind}-{FORMAT}.sealed"
    kept = read_sealed(ports.store, key)
    if kept is not None:
        return LatencyTable.from_json(kept.decode())
    measured = measure_latency(
        config.search.space,
        config.training.network,
        image_shape=config.data.image_shape,
        ways=config.evaluation.episode.ways,
        device=ports.device,
    )
    write_sealed(ports.store, key, measured.to_json().encode())
    return measured


def _costs(config: RunConfig) -> CostTable:
    return cost_table(
        config.search.space,
        config.training.network,
        image_shape=config.data.image_shape,
        ways=config.evaluation.episode.ways,
    )
