"""Which images: settings, which need nothing that reads or draws images."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

# What can hold no user, password or query; the server and the credentials are the environment's.
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#;@=%\\\x00-\x1f\x7f]*)?")

SourceName = Literal["glyphs", "auto", "folder", "npz"]
ColourOrder = Literal["rgb", "bgr"]
Rotations = Literal["none", "train", "all"]
_CHOICES = ("name", "colour_order", "rotations", "val_classes", "test_classes")
HeldOut = Annotated[int, Field(ge=1, le=100_000)] | tuple[Annotated[str, Field(min_length=1, max_length=255)], ...]
"""Classes kept from training: how many, or their names, in which ``*`` stands for anything."""


@dataclass(frozen=True)
class Choices:
    """What a person says where files can't tell; none leaves it to what they make likely.

    Attributes:
        name: What the data set is called, or which one of several.
        colour_order: In which order the files have their colours.
        rotations: In which splits images turned by 90, 180 and 270 degrees are further classes.
        val_classes: Classes to choose models on, where a data set brings no splits.
        test_classes: Classes to report on, where it brings none.
        seed: Seed of the classes that nobody named.
    """

    name: str | None = None
    colour_order: ColourOrder | None = None
    rotations: Rotations | None = None
    val_classes: HeldOut | None = None
    test_classes: HeldOut | None = None
    seed: int = 0


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
        description="Seed of the jitter of glyphs, and of the classes of each split where a data set brings no splits; "
        "apart from the run's seed, so runs share data.",
    )
    images_per_class: int = Field(default=20, ge=1, le=1000, description="Images of each letter of glyphs.")
    name: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=50,
        description="What the data set is called, in small letters: where files can't tell, cifar-fs or fc100, or "
        "which of several, such as emnist-letters. Nothing said: what is recognised.",
    )
    colour_order: ColourOrder | None = Field(
        default=None,
        description="Order in which a copy has its colours, rgb or bgr. Nothing said: that of its layout.",
    )
    rotations: Rotations | None = Field(
        default=None,
        description="Splits in which images turned by 90, 180 and 270 degrees are further classes: none, train, all. "
        "Nothing said: all for Omniglot, none for anything else.",
    )
    val_classes: HeldOut | None = Field(
        default=None,
        description="Classes to choose models on, where a data set brings no splits (Omniglot, MNIST): how many, or a "
        "list of names, with * for anything. Nothing said: the field's, as in docs/own-data.md.",
    )
    test_classes: HeldOut | None = Field(
        default=None,
        description="Classes to report accuracy on, likewise.",
    )
    allow_shared_images: bool = Field(
        default=False,
        description="Go on although images of one split lie in another too, which makes accuracies mean less.",
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _is_a_number(cls, channels: object) -> object:
        if type(channels) is not int:  # true and 1.0 equal 1
            raise ValueError("channels is 1 or 3")
        return channels

    @field_validator("val_classes", "test_classes", mode="before")
    @classmethod
    def _is_a_number_or_a_list(cls, classes: Any) -> Any:
        named = isinstance(classes, list | tuple) and classes and all(type(name) in (int, str) for name in classes)
        if not (classes is None or type(classes) is int or named):
            raise ValueError("expected a number of classes, or a list of their names")
        if classes is None or isinstance(classes, int):
            return classes
        return tuple(str(name) if type(name) is int else name for name in classes)  # of digits, names look like numbers

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

    @property
    def choices(self) -> Choices:
        """What a person says of files that can't."""
        return Choices(
            self.name, self.colour_order, self.rotations, self.val_classes, self.test_classes, seed=self.seed
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the stored images and what they are called, as plain values.

        Choices that nobody made are left out, so that data sets of before there were such choices stay what they were.
        """
        values = self.model_dump(mode="json", exclude={"allow_shared_images"})
        return {name: value for name, value in values.items() if value is not None or name not in _CHOICES}

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
        made = [name for name in (*_CHOICES, "allow_shared_images") if getattr(self, name) not in (None, False)]
        if self.source == "glyphs" and made:
            raise ValueError(f"{made[0]} is for images of your own; glyphs leave nothing to say")
        return self
