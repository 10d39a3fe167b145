"""How large a few-shot task is: settings, which need no torch."""

from pydantic import BaseModel, Field


class EpisodeConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """The size of a few-shot task."""

    ways: int = Field(default=5, ge=2, le=1000, description="Classes of an episode.")
    shots: int = Field(default=1, ge=1, le=1000, description="Support images a class: what the network adapts to.")
    queries: int = Field(default=15, ge=1, le=1000, description="Query images a class: what it is then judged by.")
