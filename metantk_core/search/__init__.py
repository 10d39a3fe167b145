"""Which candidates are looked at: a configuration and a seed enter, genotypes leave."""

from metantk_core.search.sampling import SearchConfig, candidates

__all__ = ["SearchConfig", "candidates"]
