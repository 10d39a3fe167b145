"""Which images: settings, which need nothing that reads or draws images."""

import re
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

# What can hold no user, password or query; the server and the credentials are the environment's.
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#;@=%\\\x00-\x1f\x7f]*)?")

SourceName = Literal["glyphs", "auto", "folder", "npz"]


class DataConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """Which images to learn from, and how they are stored."""

    source: SourceName = Field(
        default="glyphs",
        description="Embedded letters, or your own images: recognised by their files, as folders, as npz files. With "
        "data.path and nothing said here, auto.",
    )
    path: str | None = Field(
        default=None,
        max_length=4096,
        description="What holds the splits: a folder, or s3://bucket/prefix; not for glyphs.",
    )
    image_size: int = Field(default=32, ge=8, le=512, description="Height and width of stored images, in pixels.")
    channels: Literal[1, 3] = Field(default=1, description="1 stores grey images, 3 stores RGB.")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**53,
        description="Seed of the jitter of glyphs; apart from the run's seed, so runs share data.",
    )
    images_per_class: int = Field(default=20, ge=1, le=1000, description="Images of each letter of glyphs.")

    @field_validator("channels", mode="before")
    @classmethod
    def _is_a_number(cls, channels: object) -> object:
        if type(channels) is not int:  # true and 1.0 equal 1
            raise ValueError("channels is 1 or 3")
        return channels

    @model_validator(mode="before")
    @classmethod
    def _path_asks_for_recognition(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("path") is not None and "source" not in values:
            return {**values, "source": "auto"}
        return values

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the stored images."""
        return self.channels, self.image_size, self.image_size

    @model_validator(mode="after")
    def _path_fits_source(self) -> "DataConfig":
        if self.path is not None and "://" in self.path and not _BUCKET.fullmatch(self.path):
            raise ValueError(
                "path is a folder on this machine, or s3://bucket/prefix with plain names and nothing secret: copy the "
                "images to one of these"
            )
        if self.source == "glyphs" and self.path is not None:
            raise ValueError("path is for the sources auto, folder and npz; glyphs are embedded and take none")
        if self.source != "glyphs" and not self.path:
            raise ValueError(f"path is required for source {self.source!r}: the folder that holds train, val and test")
        return self
