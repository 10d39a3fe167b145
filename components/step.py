"""How a function becomes a step: in the project's image, with nothing installed at run time."""

from functools import partial
from typing import Any

from kfp import dsl

# The content of the image is the release; pipelines are compiled with another one by `metantk compile --image`.
IMAGE = "metantk-python:0.1.0"

# Any: what the decorator makes of a function takes a graph's channels, which the function's own annotations don't tell.
step: Any = partial(dsl.component, base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
