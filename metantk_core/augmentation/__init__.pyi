from .config import NO_AUGMENTATION, AugmentationConfig
from .transforms import Draws, augmented, augmented_copies, drawn, flipped, jittered, padded_crop

__all__ = [
    "NO_AUGMENTATION",
    "AugmentationConfig",
    "Draws",
    "augmented",
    "augmented_copies",
    "drawn",
    "flipped",
    "jittered",
    "padded_crop",
]
