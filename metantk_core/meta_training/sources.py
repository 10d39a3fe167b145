"""Sources told apart: a source of episodes or batches enters, a digest of what it gives depends on leaves."""

import hashlib

import numpy as np

from metantk_core.batches import BatchSource
from metantk_core.episodes import EpisodeSource
from metantk_core.seeding import digest

_SAMPLED_IMAGES = 256


def source_digest(source: EpisodeSource | BatchSource) -> str:
    """Return the digest of a source: all labels, its settings, and all images.

    Of stored images their checksums are taken, because there may be gigabytes of them. Of images in memory only up to
    about 500, at regular distances, are read.
    """
    images, labels = source.images.images, np.ascontiguousarray(source.images.labels)
    step = max(1, len(images) // _SAMPLED_IMAGES)
    pixels = images[::step] if source.images.checksums is None else source.images.checksums
    return digest(
        [
            source.images.name,
            source.images.split,
            list(source.images.class_names),
            list(images.shape),
            list(source.mean),
            list(source.std),
            source.image_size,
            _settings(source),
            hashlib.sha256(labels.tobytes()).hexdigest(),
            hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest(),
        ]
    )


def _settings(source: EpisodeSource | BatchSource) -> object:
    if isinstance(source, BatchSource):
        return [source.batch_size, source.augmentation.model_dump(mode="json")]
    return source.config.model_dump(mode="json")
