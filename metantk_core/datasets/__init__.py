"""Labelled images per split: a configuration enters, a stored, memory-mapped `ImageDataset` leaves."""

from metantk_core.datasets.images import SPLITS, ImageDataset, LabelledImages, Split
from metantk_core.datasets.sheet import contact_sheet
from metantk_core.datasets.store import DataConfig, load, prepare

__all__ = ["SPLITS", "DataConfig", "ImageDataset", "LabelledImages", "Split", "contact_sheet", "load", "prepare"]
