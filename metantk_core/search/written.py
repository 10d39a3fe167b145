"""Genotypes as the JSON of a search has them: texts, of the search space that stands before them.

Whoever reads such JSON gives pydantic an empty dictionary as ``context``, where the space is noted for what follows.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer, PlainValidator

from metantk_core.candidates import Genotype, parse_genotype


def _parsed(text: object, noted: Mapping[str, str]) -> Genotype:
    if not isinstance(text, str) or "space" not in noted:
        raise ValueError("expected the text of a genotype, after its search space")
    return parse_genotype(noted["space"], text)


Space = Annotated[str, AfterValidator(lambda space, info: info.context.setdefault("space", space))]
Written = Annotated[
    Genotype,
    PlainValidator(lambda text, info: _parsed(text, info.context)),
    PlainSerializer(str),
]
WrittenIfAny = Annotated[
    Genotype | None,
    PlainValidator(lambda text, info: None if text == "" else _parsed(text, info.context)),
    PlainSerializer(lambda genotype: str(genotype or "")),
]
