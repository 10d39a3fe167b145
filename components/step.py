"""The image that steps run in unless a profile names another one."""

# The content of the image is the release. Each component.py says it again, for such a file stands alone.
IMAGE = "metantk-python:0.1.0"
