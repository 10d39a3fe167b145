"""How images are augmented: settings, which need no torch."""

from pydantic import BaseModel, Field

#: Height of the images → pixels of padding in the published protocols.
_PUBLISHED_PADDING = ((84, 8), (32, 4))


class AugmentationConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """How images are augmented: every image by draws of its own, cropped first, then in colour, then flipped."""

    crop: bool = Field(default=True, description="Crop at random, to the same size, after padding with black.")
    padding: int | None = Field(
        default=None,
        ge=1,
        le=512,
        description="Pixels of padding on each side; if not given, 8 for images of 84 pixels, 4 for those of 32 (the "
        "published protocols), else an eighth of the height.",
    )
    colour_jitter: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="Brightness, contrast and saturation are each multiplied by a number up to this far from 1, in "
        "random order; 0 leaves colours as they are.",
    )
    flip: bool = Field(
        default=True, description="Mirror left and right by chance; not for letters, which are others then."
    )

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return self.crop or self.flip or self.colour_jitter > 0

    def padding_of(self, height: int) -> int:
        """Return the pixels of padding on each side of images.

        Args:
            height: Height of the images, in pixels.
        """
        if self.padding is not None:
            return self.padding
        return dict(_PUBLISHED_PADDING).get(height, max(1, height // 8))


#: Images as they are.
NO_AUGMENTATION = AugmentationConfig(crop=False, colour_jitter=0.0, flip=False)
