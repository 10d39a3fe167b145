"""Kernels at initialisation: a network and a batch of episodes enter, symmetric float64 matrices on the CPU leave.

Axes: n images of the batch (all query images, episode by episode, then all support images, episode by episode) ·
t tasks · q, s query and support images of one task · tq, ts those of all tasks.
"""

from metantk_core.kernels.blocks import KernelBlocks, batch, eigenvalues, split
from metantk_core.kernels.engine import outputs_with_relus
from metantk_core.kernels.features import last_layer_kernel
from metantk_core.kernels.meta import adaptation, adapted_lengths, inner_loop_is_known, meta_ntk
from metantk_core.kernels.parameters import Kernels, Outputs, ParameterChoice, exact_arithmetic, parameter_names
from metantk_core.kernels.regression import centred_targets, held_out_predictions
from metantk_core.kernels.rounding import (
    DOUBLE_PRECISION,
    EPSILON,
    SINGLE_PRECISION,
    TOLERANCE,
    Precision,
    even_gradients,
    rounding_floor,
)
from metantk_core.kernels.shortcuts import watched
from metantk_core.kernels.tangent import IMPLEMENTATIONS, empirical_ntk, tangent_and_last_layer_kernel

__all__ = [
    "DOUBLE_PRECISION",
    "EPSILON",
    "IMPLEMENTATIONS",
    "SINGLE_PRECISION",
    "TOLERANCE",
    "KernelBlocks",
    "Kernels",
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
    "exact_arithmetic",
    "held_out_predictions",
    "inner_loop_is_known",
    "last_layer_kernel",
    "meta_ntk",
    "outputs_with_relus",
    "parameter_names",
    "rounding_floor",
    "split",
    "tangent_and_last_layer_kernel",
    "watched",
]
