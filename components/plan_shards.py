"""Step: configuration in, indices of shards out."""

from components.step import step


@step
def plan_shards(config: str) -> list[int]:
    """Return the indices of the shards that the candidates are split into.

    Args:
        config: ``RunConfig`` as JSON.
    """
    from metantk_core import workflow
    from metantk_core.config import RunConfig

    return workflow.plan_shards(RunConfig.from_json(config))
