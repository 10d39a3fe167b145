"""What a network costs to keep and to run, as a value: numbers enter, numbers leave."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Size and work of one network.

    Attributes:
        params: Number of parameters, those of normalisations and of the head included.
        macs: Multiply-accumulate operations of convolutions and linear layers for one image.
        latency: Seconds for one image on some machine (an estimate), or none if there was no measurement.
    """

    params: int
    macs: int
    latency: float | None = None
