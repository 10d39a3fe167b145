from .config import EpisodeConfig
from .sampling import Episode, EpisodeSource, NormalisedEpisode, check_moments, network_input, normalise, resize

__all__ = [
    "Episode",
    "EpisodeConfig",
    "EpisodeSource",
    "NormalisedEpisode",
    "check_moments",
    "network_input",
    "normalise",
    "resize",
]
