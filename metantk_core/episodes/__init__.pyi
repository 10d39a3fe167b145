from .config import EpisodeConfig
from .sampling import Episode, EpisodeSource, normalise, resize

__all__ = ["Episode", "EpisodeConfig", "EpisodeSource", "normalise", "resize"]
