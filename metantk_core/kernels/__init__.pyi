from .blocks import KernelBlocks, batch, eigenvalues, split
from .choices import Outputs, ParameterChoice, Precision
from .engine import Onlooker, look_on, outputs_with_relus
from .features import last_layer_kernel
from .layer_grams import Convolution, weight_gradient
from .meta import adaptation, adapted_lengths, inner_loop_is_known, meta_ntk
from .pairs import kernels_by_pairs, outputs_with_relus_by_chunks
from .parameters import Kernels, parameter_names
from .regression import centred_targets, held_out_predictions
from .rounding import (
    DOUBLE_PRECISION,
    EPSILON,
    SINGLE_PRECISION,
    TOLERANCE,
    even_gradients,
    rounding_floor,
)
from .shortcuts import watched
from .tangent import IMPLEMENTATIONS, empirical_ntk, tangent_and_last_layer_kernel

__all__ = [
    "DOUBLE_PRECISION",
    "EPSILON",
    "IMPLEMENTATIONS",
    "SINGLE_PRECISION",
    "TOLERANCE",
    "Convolution",
    "KernelBlocks",
    "Kernels",
    "Onlooker",
    "Outputs",
    "ParameterChoice",
    "Precision",
    "adaptation",
    "adapted_lengths",
    "batch",
    "centred_targets",
    "eigenvalues",
    "empirical_ntk",
    "even_gradients",
    "held_out_predictions",
    "inner_loop_is_known",
    "kernels_by_pairs",
    "last_layer_kernel",
    "look_on",
    "meta_ntk",
    "outputs_with_relus",
    "outputs_with_relus_by_chunks",
    "parameter_names",
    "rounding_floor",
    "split",
    "tangent_and_last_layer_kernel",
    "watched",
    "weight_gradient",
]
