from .config import DataConfig
from .images import SPLITS, ImageDataset, LabelledImages, Split
from .overlap import SharedImages, repeated_images, shared_images
from .sheet import contact_sheet
from .store import load, prepare, verify

__all__ = [
    "SPLITS",
    "DataConfig",
    "ImageDataset",
    "LabelledImages",
    "SharedImages",
    "Split",
    "contact_sheet",
    "load",
    "prepare",
    "repeated_images",
    "shared_images",
    "verify",
]
