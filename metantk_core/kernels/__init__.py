"""Kernels at initialisation: a network and a batch of episodes enter, symmetric float64 matrices on the CPU leave.

Axes: n images of the batch (all query images, episode by episode, then all support images, episode by episode) ·
t tasks · q, s query and support images of one task · tq, ts those of all tasks.
"""

from metantk_core.kernels.blocks import KernelBlocks, batch, eigenvalues, split
from metantk_core.kernels.engine import outputs_with_relus
from metantk_core.kernels.features import last_layer_kernel
from metantk_core.kernels.meta import adaptation, meta_ntk
from metantk_core.kernels.parameters import Kernels, Outputs, ParameterChoice, exact_arithmetic, parameter_names
from metantk_core.kernels.regression import centred_targets, held_out_predictions
from metantk_core.kernels.shortcuts import watched
from metantk_core.kernels.tangent import IMPLEMENTATIONS, empirical_ntk, tangent_and_last_layer_kernel

__all__ = [
    "IMPLEMENTATIONS",
    "KernelBlocks",
    "Kernels",
    "Outputs",
    "ParameterChoice",
    "adaptation",
    "batch",
    "centred_targets",
    "eigenvalues",
    "empirical_ntk",
    "exact_arithmetic",
    "held_out_predictions",
    "last_layer_kernel",
    "meta_ntk",
    "outputs_with_relus",
    "parameter_names",
    "split",
    "tangent_and_last_layer_kernel",
    "watched",
]
