"""One configuration for a whole run: a recipe or a file and overrides enter, a frozen ``RunConfig`` leaves."""

import copy
import difflib
import json
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from metantk_core.candidates import NAMED_NETWORKS, PUBLISHED, space_named
from metantk_core.datasets import DataConfig
from metantk_core.errors import InputError, quoted, without_addresses_of
from metantk_core.meta_training import LEARNERS_SETTINGS, EvaluationConfig, MamlTraining, TrainingConfig
from metantk_core.ranking import Criterion, Role, top_roles, training_names, training_of
from metantk_core.scores import ScoringConfig
from metantk_core.search import SearchConfig
from metantk_core.seeding import derive, digest
from metantk_core.settings_text import HOW, parse_json, parse_yaml, read_settings

_COMPLAINTS = 10  # in one message
_FIELDS = 6  # of settings, as examples
_UNSHOWN = " (what came is not shown: it may be a secret)"


class BenchmarkTolerances(BaseModel, frozen=True, extra="forbid", strict=True):
    """How far a benchmark rerun may fall behind the accepted one; how each is tested stands in docs/benchmarks.md."""

    confidence: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description="Confidence of intervals and tests: what changed by chance alone leaves its tolerance in at most "
        "half of the remaining cases",
    )
    accuracy_drop: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="How far the winner's accuracy may fall, as a share: what training moves it by between equals",
    )
    processor_slowdown: float = Field(
        default=1.25, ge=1, le=100, description="How many times as much processor time a candidate may take"
    )
    slowdown: float = Field(
        default=1.5,
        ge=1,
        le=100,
        description="How many times as long a candidate may take by the clock, which other programs disturb",
    )
    elsewhere: float = Field(
        default=2.0,
        ge=1,
        le=100,
        description="What both are multiplied by on another kind of machine, where the unit of time is less alike",
    )
    memory_growth: float = Field(default=1.1, ge=1, le=100, description="How many times as much memory the peak may be")


class RunConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """Everything that decides a run's numbers, and nothing that doesn't (no addresses, no credentials, no folders)."""

    name: str = Field(
        default="run",
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=50,
        description="Name for people: small letters, digits, -; so short that folders and pods can be named after it",
        json_schema_extra=HOW,
    )
    seed: int = Field(
        default=0, ge=0, lt=2**53, description="Seed of everything random; below 2^53, which JSON keeps exactly"
    )
    data: DataConfig = Field(default_factory=DataConfig, description="Labelled images")
    search: SearchConfig = Field(default_factory=SearchConfig, description="Which candidates are scored")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="How a candidate is scored")
    rank_by: str | dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        default="metantk_cond",
        description="The score that ranks the candidates, or weights of the ranks by several scores, as in "
        "{metantk_cond: 1, linear_regions: 1}",
    )
    trained_roles: tuple[Role, ...] = Field(
        default=("best", "worst", "random"),
        strict=False,  # JSON has lists alone
        description="Which ranks are meta-trained; the best is the model, the others show what the ranking is worth",
    )
    trained_top: int = Field(
        default=1,
        ge=1,
        le=100,
        description="How many of the first ranks are meta-trained: the best, and from 2 on top-2, top-3 … beside it",
    )
    training_seeds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="How often each network is trained, with another seed each time: with more than 1, intervals cover "
        "training and episodes, with 1 episodes alone; 3 or more tell much more than 2",
    )
    yardsticks: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Networks of the literature that are trained beside them under the same protocol, by name: "
        "conv4-32, conv4-64, resnet12, or a published candidate of the search space",
    )
    training: TrainingConfig = Field(
        default_factory=MamlTraining,
        description="Training, by the learner that algorithm names; each has settings of its own",
    )
    yardstick_training: dict[str, dict[str, Any]] = Field(
        default={},
        description="By name of a yardstick the settings in which its training differs from the others': what suits a "
        "narrow cell does not suit every network",
    )
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Evaluation on test classes")
    registered_model: str = Field(
        default="metantk-few-shot",
        max_length=256,
        description="Name in the model registry, by MLflow's rules: without / and :, as long as its database keeps",
        json_schema_extra=HOW,
    )
    model_licence: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Licence under which trained networks may be passed on, for their model cards: that of your images "
        "decides; nothing said: the card says that it is not stated",
        json_schema_extra=HOW,
    )
    benchmark: BenchmarkTolerances = Field(
        default_factory=BenchmarkTolerances,
        description="What `metantk benchmark` tolerates when it runs this again",
        json_schema_extra=HOW,
    )
    dataset_digest: str | None = Field(
        default=None,
        max_length=256,
        description="Digest of the images under data.path, noted when a run starts: other images at the same path are "
        "another run. Given by hand, it pins the images: others are refused",
    )

    @field_validator("registered_model")
    @classmethod
    def _can_be_registered(cls, name: str) -> str:
        # What MLflow refuses, and spaces and dots that would make a path of a model's address.
        if name != name.strip() or not name or "/" in name or ":" in name or set(name) <= {"."} or "'" in name:
            raise ValueError("a model in the registry needs a name without '/', ':' or quotes, such as few-shot-glyphs")
        return name

    @model_validator(mode="after")
    def _has_yardsticks(self) -> "RunConfig":
        if len(set(self.yardsticks)) != len(self.yardsticks):
            raise ValueError("yardsticks must name each network once")
        for name in self.yardsticks:
            _admit_yardstick(name, "yardsticks")
            if name in PUBLISHED and PUBLISHED[name].space != self.search.space:
                raise InputError(
                    f"yardsticks names {name}, a candidate of {PUBLISHED[name].space}, but {self.search.space} is "
                    "searched; name one of its own, or a network of the literature"
                )
        for name in self.yardstick_training:
            _admit_yardstick(name, "yardstick_training")
            try:
                self.for_network(name)
            except ValidationError as error:
                raise InputError(f"yardstick_training.{name}: {complaints(type(self.training), error)}") from error
        return self

    @model_validator(mode="after")
    def _is_consistent(self) -> "RunConfig":
        missing = [name for name in self.criterion.names if name not in self.scoring.scores]
        if missing:
            raise ValueError(
                f"rank_by names {', '.join(missing)}, which is not among scoring.scores "
                f"({', '.join(self.scoring.scores)}); add it there or rank by one of these"
            )
        for place, network in (("scoring", self.scoring.network), ("training", self.training.network)):
            if len(space_named(self.search.space).cell_types) > 1 and network.cells < 3:
                raise ValueError(
                    f"{place}.network.cells is {network.cells}, but a network of {self.search.space} has both kinds of "
                    "cells from 3 on; with fewer, half of what is searched is not in the network"
                )
        if self.search.strategy != "prune" and self.search.num_candidates <= self.trained_top > 1:
            raise ValueError(
                f"trained_top is {self.trained_top} and search.num_candidates {self.search.num_candidates}: the "
                "first ranks and the worst need one more; lower one or raise the other"
            )
        if "best" not in self.trained_roles or len(set(self.trained_roles)) != len(self.trained_roles):
            raise ValueError("trained_roles must name 'best', and each role once")
        head, ways = self.training, self.evaluation.episode.ways
        for training in (head, *(self.for_network(name).training for name in self.yardstick_training)):
            if isinstance(training, MamlTraining) and training.episode.ways != ways:
                raise ValueError(
                    f"training.episode.ways is {training.episode.ways} and evaluation.episode.ways "
                    f"{ways}: a meta-trained head answers as many classes as it was trained with"
                )
        evaluation = self.evaluation
        asked = (evaluation.classifier, *(evaluation.beside or ()))
        if "gradient_steps" in asked and not isinstance(head, MamlTraining):
            raise ValueError(
                f"evaluation asks gradient_steps, but {head.algorithm} learns no weights that adapt: ask prototypes, "
                "nearest_centroid, cosine or logistic_regression"
            )
        return self

    @property
    def trained(self) -> tuple[str, ...]:
        """What is trained and evaluated, by name: every network, as often as there are seeds."""
        return tuple(name for network in self.networks for name in training_names(network, self.training_seeds))

    @property
    def candidates(self) -> tuple[str, ...]:
        """Which candidates of the leaderboard are trained, those of the first ranks after the best."""
        top = ("best", *top_roles(self.trained_top))
        return tuple(name for role in self.trained_roles for name in (top if role == "best" else (role,)))

    @property
    def networks(self) -> tuple[str, ...]:
        """Which networks are trained: the candidates, then the yardsticks."""
        return (*self.candidates, *self.yardsticks)

    def for_network(self, name: str) -> "RunConfig":
        """Return the run as it concerns one network: ``training`` is what this one is trained by.

        Args:
            name: Of the network, or of a training of it.

        Raises:
            ValidationError: The settings of a yardstick of its own are wrong.
        """
        network, _ = training_of(name)
        changes = self.yardstick_training.get(network)
        if changes is None:
            return self
        values = _merge(self.training.model_dump(mode="json"), changes)
        return self.model_copy(update={"training": type(self.training).model_validate(values)})

    def training_seed(self, training: str) -> int:
        """Return the seed of a training of a name: of a network's first it is the run's."""
        _, number = training_of(training)
        return self.seed if number == 1 else derive(self.seed, "training", number) >> 10  # JSON keeps 53 bits exactly

    @property
    def criterion(self) -> Criterion:
        """What orders the candidates.

        Raises:
            InputError: ``rank_by`` names no score, or one without a better direction.
        """
        return Criterion.of(self.rank_by)

    @property
    def experiment(self) -> dict[str, Any]:
        """What decides the numbers, as plain values: without what says how the run is run, such as name and shards.

        A person's images are what they are wherever they lie: folder and layout count as long as their digest is
        unknown.
        """
        values = _deciding(type(self), json.loads(self.to_json()))
        values["data"] = self.data.identity
        # The digest of who makes none of these choices stays what it was before they were there.
        if values["training"].get("engine") == "learn2learn":
            del values["training"]["engine"]
        for name in ("classifier", "beside", "augmented_copies", "further_shots"):
            if not getattr(self.evaluation, name) and getattr(self.evaluation, name) != 0:
                del values["evaluation"][name]
        for name in ("trained_top", "training_seeds"):
            if getattr(self, name) == 1:
                del values[name]
        own = {name: changes for name, changes in values.pop("yardstick_training").items() if name in self.yardsticks}
        if own:
            values["yardstick_training"] = own
        if self.dataset_digest is None:
            del values["dataset_digest"]
        elif self.data.path is not None:
            for setting in ("path", "source", "name"):  # where they lie, in which layout, and what they are called
                values["data"].pop(setting, None)
        return values

    @property
    def digest(self) -> str:
        """The digest of all that can change a number: not of the name, nor of the number of shards."""
        return digest(self.experiment)

    @property
    def run_id(self) -> str:
        """The run's name in folders, runs and pipelines: equal for equal configurations."""
        return f"{self.name}-{self.digest[:8]}"

    def to_json(self) -> str:
        """Return the configuration as one line of JSON that ``from_json`` reads back to an equal value."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Return the configuration of a JSON text.

        Raises:
            InputError: The text is no JSON, or holds an unknown key or a wrong value.
        """
        try:
            values = parse_json(text)
        except InputError as error:
            raise InputError(f"Can't use the configuration: {error}; check the file or the parameter.") from error
        return cls.from_values(values, "the configuration")

    @classmethod
    def from_values(cls, values: object, origin: str) -> "RunConfig":
        """Return the configuration of a tree of plain values.

        Args:
            values: Nested dictionaries, as YAML or JSON give them.
            origin: Where they come from, for error messages.

        Raises:
            InputError: An unknown key (with the nearest known one) or a wrong value; all of them in one message.
        """
        if not isinstance(values, Mapping):
            raise InputError(
                f"Expected {origin} to hold keys and values, but it holds {_kind(values)}; "
                "see `metantk recipes --show glyphs`."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            said = complaints(cls, error)
            raise InputError(f"Can't use {origin}: {said}{'' if said.endswith('?') else '.'}") from error


def _admit_yardstick(name: str, setting: str) -> None:
    """Raise InputError if a name that a setting gives is not that of a network of the literature."""
    if name not in NAMED_NETWORKS and name not in PUBLISHED:
        near = difflib.get_close_matches(name[:40], [*NAMED_NETWORKS, *PUBLISHED], n=1)
        hint = f"did you mean {near[0]}?" if near else "or a published candidate of the search space"
        raise InputError(f"expected names such as {', '.join(NAMED_NETWORKS)} in {setting}, got {quoted(name)}; {hint}")


def _deciding(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the settings of a model that decide numbers, and so on below."""
    kept: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        below = _model_of(field.annotation, values[name])
        if field.json_schema_extra == HOW:
            continue
        if below is not None:
            kept[name] = _deciding(below, values[name])
        else:
            kept[name] = values[name]
    return kept


def explained(config: RunConfig) -> str:
    """Return a configuration as YAML that reads back to an equal one, with the meaning and limits of every setting."""
    return "".join(f"{line}\n" for line in _explained(RunConfig, json.loads(config.to_json()), ""))


def _explained(model: type[BaseModel], values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        below = _model_of(field.annotation, values[name])
        limits = _limits(field)
        for line in textwrap.wrap(f"{(field.description or '').rstrip('.')}{f' ({limits})' if limits else ''}.", 100):
            yield f"{indent}# {line}"
        if below is not None:
            yield f"{indent}{name}:"
            yield from _explained(below, values[name], f"{indent}  ")
        else:
            yield f"{indent}{name}: {json.dumps(values[name], ensure_ascii=False)}"


def _model_of(kind: Any, values: Any) -> type[BaseModel] | None:
    """Return the settings that values of a type are of; none if it is a single value, or may be."""
    for choice in _choices(kind):
        if choice is kind or values.get(_name_of_choice(choice)) in _tags(choice):
            return choice
    return None


def _choices(kind: Any) -> tuple[type[BaseModel], ...]:
    """Return the kinds of settings that a type stands for: itself, or one of several that a word in it tells apart."""
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return (kind,)
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return members if len(members) > 1 and all(_choices(member) for member in members) else ()


def _name_of_choice(choice: type[BaseModel]) -> str:
    return next(iter(choice.model_fields))  # the first setting says which settings follow


def _tags(choice: type[BaseModel]) -> tuple[str, ...]:
    return get_args(choice.model_fields[_name_of_choice(choice)].annotation)


def _limits(field: FieldInfo) -> str:
    """Return what a number must be between, in words."""
    limits = {
        kind: value
        for part in field.metadata
        for kind in ("ge", "gt", "le", "lt")
        if (value := getattr(part, kind, None)) is not None
    }
    words = {kind: f"{value:g}" if isinstance(value, float) else f"{value:,}" for kind, value in limits.items()}
    least = f"from {words['ge']}" if "ge" in words else f"above {words['gt']}" if "gt" in words else ""
    most = f"to {words['le']}" if "le" in words else f"below {words['lt']}" if "lt" in words else ""
    return f"{least}{', ' if 'lt' in words and least else ' '}{most}".strip()


def load_config(
    source: str, recipes: Mapping[str, RunConfig], overrides: Iterable[str] = (), *, seed: int | None = None
) -> RunConfig:
    """Return the configuration that a person asked for.

    Args:
        source: The name of a recipe, or the path of a YAML or JSON file. A file may name the recipe that it changes
            under the key ``recipe``; without one it changes the defaults.
        recipes: The known recipes.
        overrides: Settings such as ``search.num_candidates=200``; the values are YAML.
        seed: Replaces the seed, if given.

    Raises:
        InputError: No such recipe or file, an unreadable file, an unknown key, a wrong value.
    """
    if source in recipes:
        base, changes, origin = _values_of(recipes[source]), {}, f"recipe {source!r}"
    else:
        base, changes, origin = *_read_file(source, recipes), source
    values, given = _merge(copy.deepcopy(base), changes), _named_below(changes, "training")
    for override in filter(None, overrides):  # an MLproject can't leave a parameter out, only empty
        _apply(values, override)
        section, *names = override.partition("=")[0].split(".")
        if section == "training":
            given |= set(names[:1]) if names else _named_below(values, section)
    _start_another_learner(base, values, given)
    if seed is not None:
        values["seed"] = seed
    return RunConfig.from_values(values, origin)


def _named_below(values: Mapping[str, Any], name: str) -> set[str]:
    below = values.get(name)
    return set(below) if isinstance(below, Mapping) else set()


def _start_another_learner(base: Mapping[str, Any], values: dict[str, Any], given: Collection[str]) -> None:
    """Let a recipe's settings of one learner not be settings of another that a person has named instead.

    Of the recipe's training the network stays; the rest is as the person says, or the other learner's own. So are the
    settings of yardsticks.

    Args:
        base: The recipe's values.
        values: These with all changes; is changed.
        given: What the person said of training.
    """
    before, after = base.get("training"), values.get("training")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return
    kinds = [
        next((choice for choice in LEARNERS_SETTINGS if training.get("algorithm", "maml") in _tags(choice)), None)
        for training in (before, after)
    ]
    if kinds[0] is not kinds[1]:
        values["training"] = {name: value for name, value in after.items() if name in given or name == "network"}
        if values.get("yardstick_training") == base.get("yardstick_training"):
            values["yardstick_training"] = {}


def _read_file(source: str, recipes: Mapping[str, RunConfig]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values that a file changes, and its changes."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml", ".json"):
        near = difflib.get_close_matches(source[:100], recipes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the recipes are {', '.join(recipes)}"
        raise InputError(f"Expected the name of a recipe or a .yaml or .json file, but got {quoted(source)}; {hint}.")
    values = read_settings(path)
    if not isinstance(values, dict):
        raise InputError(
            f"Expected keys and values in {source}, but found {_kind(values)}; see `metantk recipes --show glyphs`."
        )
    recipe = values.pop("recipe", None)
    if recipe is None:
        return {}, values
    if not isinstance(recipe, str) or recipe not in recipes:
        got = quoted(recipe) if isinstance(recipe, str) else _kind(recipe)
        raise InputError(
            f"Expected the name of a recipe under 'recipe' in {source}, but got {got}; the recipes are "
            f"{', '.join(recipes)}."
        )
    return _values_of(recipes[recipe]), values


def _values_of(recipe: RunConfig) -> dict[str, Any]:
    """Return the values of a recipe to change; one of glyphs says nothing of the source, so that a path can."""
    values = json.loads(recipe.to_json())
    if values["data"]["path"] is None:
        del values["data"]["source"]
    return values


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError(
            f"Expected an override like search.num_candidates=200, but got {quoted(override)}; write key=value."
        )
    *parents, last = path.split(".")
    place = values
    for depth, part in enumerate(parents):
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise InputError(
                f"The override of {quoted(path)} goes below {'.'.join(parents[: depth + 1])}, which is a single value; "
                "shorten the key."
            )
    try:
        place[last] = parse_yaml(text)
    except InputError as error:
        raise InputError(
            f"Expected a value such as 200, 0.1, true or [a, b] after '=' in the override of {path}, but {error}."
        ) from error


def complaints(model: type[BaseModel], error: ValidationError, unshown: frozenset[str] = frozenset()) -> str:
    """Return what pydantic found wrong with settings, the first ten of it as one sentence without its end.

    Args:
        model: What the settings were to be.
        error: Pydantic's.
        unshown: Names of settings of which no value is shown, nor one below.
    """
    details = error.errors(include_url=False)
    found = list(dict.fromkeys(_complaint(model, detail, unshown) for detail in details))
    more = f"; and {len(found) - _COMPLAINTS} more" if len(found) > _COMPLAINTS else ""
    return f"{'; '.join(found[:_COMPLAINTS])}{more}"


def _complaint(model: type[BaseModel], detail: Mapping[str, Any], unshown: frozenset[str]) -> str:
    """Return one of pydantic's complaints as part of a sentence, with the nearest known key for an unknown one."""
    location = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        known: Iterable[str] = _fields_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1][:100], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        above = _at(model, location[:-2])
        if len(location) > 2 and _is_a_choice(above, location[-2]):
            owners = [choice for choice in _choices(above) if location[-1] in choice.model_fields]
            if owners:
                *others, last = [tag for owner in owners for tag in _tags(owner)]
                learners = f"{', '.join(others)} and {last}" if others else last
                hint = f"it is one of {learners}, which {location[-3]}.{_name_of_choice(owners[0])} would have to say"
        named = [part for depth, part in enumerate(location) if not _is_a_choice(_at(model, location[:depth]), part)]
        return f"there is no setting {quoted('.'.join(named))} ({hint})"
    given = detail["input"]
    if detail["type"] == "union_tag_invalid":
        location, given = [*location, detail["ctx"]["discriminator"].strip("'")], detail["ctx"]["tag"]
    hidden = any(part in unshown for part in location)
    if hidden and location[-1] == "[key]":
        del location[-2:]  # the key itself came
    # Behind the settings' own names come the names of types, where a setting may have one of several.
    where = ".".join(
        part
        for depth, part in enumerate(location)
        if _below(_at(model, location[:depth]), part) is not None
        and not _is_a_choice(_at(model, location[:depth]), part)
    )
    message = _message(model, location, detail)
    if not where:
        return message
    if hidden:
        told = message.replace(f", got {quoted(given)}", _UNSHOWN)
        scalar = isinstance(given, str | int | float) and not isinstance(given, bool)
        return f"{where}: {told}{_UNSHOWN if scalar and 'not shown' not in told else ''}"
    shown = f", not {quoted(given)}" if isinstance(given, str | int | float | bool | None) else f", not {_kind(given)}"
    # Some say themselves what they found, or why they don't: all sentences of ours do.
    own = detail["type"] == "value_error" and (
        _is_ours(detail) or not isinstance(given, str | int | float) or ", got " in message
    )
    return f"{where}: {message}{'' if own else shown}"


def _message(model: type[BaseModel], location: Sequence[str], detail: Mapping[str, Any]) -> str:
    """Return what is wrong in words of a configuration file, without what may be an address of what came."""
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        fields = _fields_at(model, location)
        known = ", ".join((*fields[:_FIELDS], "…") if len(fields) > _FIELDS else fields)
        return f"expected keys and values{f' ({known})' if known else ''}"
    if detail["type"] == "union_tag_invalid":
        return f"expected one of {detail['ctx']['expected_tags']}".replace("'", "")
    if detail["type"] in ("tuple_type", "list_type"):
        return "expected a list, such as [a, b]"
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    if not _is_ours(detail):
        message = without_addresses_of("\n".join(_texts(detail["input"])), message)
    return re.sub(r"\btuple\b", "list", message[:1].lower() + message[1:])  # what people write is a list


def _is_ours(detail: Mapping[str, Any]) -> bool:
    """Return whether a complaint is a sentence that holds no secret and says what came."""
    return isinstance(detail.get("ctx", {}).get("error"), InputError)


def _texts(value: object) -> Iterator[str]:
    """Yield all texts that a value holds, and as they stand in a message."""
    if isinstance(value, str):
        yield from (value, repr(value))
    elif isinstance(value, BaseModel):
        yield from _texts(value.model_dump())
    elif isinstance(value, Mapping | list | tuple):
        for part in (*value.keys(), *value.values()) if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _kind(value: object) -> str:
    """Return what a value is, in the words of a configuration file."""
    kinds = {dict: "keys and values", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> tuple[str, ...]:
    found = _at(model, location)
    if choices := _choices(found):
        return tuple(choices[0].model_fields)
    members = [member for member in get_args(found) if member is not type(None)]
    if type(None) in get_args(found) and len(members) == 1:
        found = members[0]
    return tuple(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else ()


def _at(kind: Any, location: Sequence[str]) -> Any:
    """Return the type of what stands at a place of settings of a type; none if nothing can."""
    for part in location:
        kind = _below(kind, part)
    return kind


def _is_a_choice(kind: Any, part: str) -> bool:
    """Return whether a part of pydantic's location is no setting's name, but says which of several settings came."""
    return len(_choices(kind)) > 1 and any(part in _tags(choice) for choice in _choices(kind))


def _below(kind: Any, part: str) -> Any:
    choices = _choices(kind)
    if len(choices) > 1:
        tagged = (choice for choice in choices if part in _tags(choice))
        return next(tagged, next((_below(choice, part) for choice in choices if part in choice.model_fields), None))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[part].annotation if part in kind.model_fields else None
    members = [member for member in get_args(kind) if member is not type(None)]
    if type(None) in get_args(kind) and len(members) == 1:
        return _below(members[0], part)
    if get_origin(kind) is dict:
        return members[1]
    return members[0] if get_origin(kind) is tuple and part.isdigit() else None
