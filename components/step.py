"""How a function becomes a step: in the project's image, with nothing installed at run time."""

from functools import partial

from kfp import dsl

# The content of the image is the release; pipelines are compiled with another one by `metantk compile --image`.
IMAGE = "metantk-python:0.1.0"

step = partial(dsl.component, base_image=IMAGE, install_kfp_package=False, packages_to_install=[])
