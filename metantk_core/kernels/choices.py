"""Which kernel, of which parameters, in which precision: the names of the choices, which need no torch."""

from typing import Literal

ParameterChoice = Literal["weights", "weights+biases"]
"""Whether biases count beside weights; ``parameter_names`` says what is a weight."""

Outputs = Literal["sum", "trace"]
"""The kernel of the summed logits, or the sum of the kernels of all logits."""

Precision = Literal["float32", "float64"]
"""The numbers that gradients are computed in."""
