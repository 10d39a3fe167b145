"""Training-free architecture search for few-shot learning: labelled images in, a ranking and a registered model out."""

__version__ = "0.1.0"
