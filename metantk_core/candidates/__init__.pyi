from .costs import Costs
from .genotype import Edge, Genotype
from .isomorphism import Equivalence
from .named_network import NAMED_NETWORKS, NAMED_SPACE, NamedNetwork
from .published import PUBLISHED, PublishedCandidate
from .space import FiniteSearchSpace, SearchSpace, shard
from .spaces import MODEL_SPACE, SPACES, parse_genotype, space_named

__all__ = [
    "MODEL_SPACE",
    "NAMED_NETWORKS",
    "NAMED_SPACE",
    "PUBLISHED",
    "SPACES",
    "Costs",
    "Edge",
    "Equivalence",
    "FiniteSearchSpace",
    "Genotype",
    "NamedNetwork",
    "PublishedCandidate",
    "SearchSpace",
    "parse_genotype",
    "shard",
    "space_named",
]
