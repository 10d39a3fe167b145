"""Candidate networks and the spaces that they come from: texts, indices and random numbers enter, genotypes leave."""

from metantk_core.candidates.costs import Costs
from metantk_core.candidates.genotype import Edge, Genotype
from metantk_core.candidates.isomorphism import Equivalence
from metantk_core.candidates.published import PUBLISHED, PublishedCandidate
from metantk_core.candidates.space import FiniteSearchSpace, SearchSpace, shard
from metantk_core.candidates.spaces import SPACES, parse_genotype, space_named

__all__ = [
    "PUBLISHED",
    "SPACES",
    "Costs",
    "Edge",
    "Equivalence",
    "FiniteSearchSpace",
    "Genotype",
    "PublishedCandidate",
    "SearchSpace",
    "parse_genotype",
    "shard",
    "space_named",
]
