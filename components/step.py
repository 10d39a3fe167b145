"""The image that steps run in unless a profile names another one."""

import os

from metantk_core import __version__

# In an image, its own name. Elsewhere that of the release, for people who push one by this name: `make image` names
# what it builds by its content, which is what `metantk compile --image` is told. Each component.py says the release's
# again, for such a file stands alone.
IMAGE = os.environ.get("METANTK_IMAGE") or f"metantk-python:{__version__}"
