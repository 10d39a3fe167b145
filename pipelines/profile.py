"""The profile of a cluster: a YAML file enters, what each step asks of that cluster leaves.

A profile holds no secret, only the names of those that the cluster keeps. It never changes a number of a run.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from metantk_core.config import complaints
from metantk_core.errors import InputError, quoted
from metantk_core.secrecy import may_be_secret
from metantk_core.settings_text import read_settings
from pipelines import cluster_values
from pipelines.cluster_values import MOST_RETRIES, quantity

FOLDER = Path(__file__).parent / "profiles"
"""The profiles that come with the package."""

StepName = Literal[
    "prepare_dataset",
    "start_search",
    "score_shard",
    "close_round",
    "search_shard",
    "join_shards",
    "rank_candidates",
    "search",
    "meta_train",
    "evaluate",
    "write_report",
    "register_model",
    "close_run",
    "rerun_benchmark",
    "judge_benchmark",
    "close_benchmarks",
]
COMPUTING: frozenset[StepName] = frozenset(
    {"search", "search_shard", "score_shard", "meta_train", "evaluate", "rerun_benchmark"}
)
"""Steps that run networks; so does ``start_search`` where latency is limited, which it measures."""

_JOINED = ("node_selector", "environment", "labels", "annotations")
"""Settings whose keys are joined with those of the layer below, which null takes away, one or all."""
_UNSHOWN = frozenset({"secrets", "image_pull_secrets"})
"""Settings that name secrets: what was pasted there by mistake may be one."""

# What a generated key looks like, and the name of one doesn't.
_RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9/+]).{16,}")


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _admitted(check: Any) -> AfterValidator:
    def admit(text: str) -> str:
        check(text)
        return text

    return AfterValidator(admit)


def _forget(settings: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Remove settings that others will replace; of one that is joined with another, its keys."""
    for name, value in others.items():
        old = settings.pop(name, None)
        if isinstance(old, dict) and isinstance(value, Mapping):
            settings[name] = {key: kept for key, kept in old.items() if key not in value}


def _refuse_twice(place: str, what: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"expected each {what} once in {place}, got {quoted(twice)} twice")


def _refuse_late(wanted: "Placement") -> None:
    again = wanted.retries
    if not again or not again.count or not wanted.timeout:
        return
    if cluster_values.seconds(wanted.timeout) > cluster_values.seconds(again.within):
        raise InputError(
            f"timeout is {wanted.timeout}, longer than retries.within, {again.within}, after which Argo ends a "
            "repeated pod that still runs: expected a within for all attempts together, or retries.count 0"
        )


def _without_nulls(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that were joined without what was taken away."""
    return {
        name: {key: kept for key, kept in value.items() if kept is not None} if name in _JOINED and value else value
        for name, value in settings.items()
        if value is not None or name not in _JOINED
    }


def _joined(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(base)
    for name, value in changes.items():
        old = joined.get(name)
        joined[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return joined


_Cores = Annotated[str, BeforeValidator(_as_text), AfterValidator(cluster_values.cpu_request)]
_Bytes = Annotated[str, BeforeValidator(_as_text), AfterValidator(cluster_values.memory_request)]
_Duration = Annotated[str, _admitted(cluster_values.seconds)]
_Image = Annotated[str, _admitted(cluster_values.admit_image)]
_Resource = Annotated[str, _admitted(cluster_values.admit_accelerator)]
_ObjectName = Annotated[str, AfterValidator(cluster_values.admit_object_name)]
_Variable = Annotated[str, AfterValidator(cluster_values.admit_variable)]
_Key = Annotated[str, AfterValidator(cluster_values.admit_label_key)]
_Label = Annotated[str, AfterValidator(cluster_values.admit_label)]
_Line = Annotated[str, Field(max_length=4000)]


class _Settings(BaseModel, frozen=True, extra="forbid", strict=True):
    """Settings that ``null`` takes away: each is as if no layer had it, whatever the layers below say."""

    @model_validator(mode="before")
    @classmethod
    def _null_takes_away(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        taken = {
            name: field.get_default(call_default_factory=True)
            for name, field in cls.model_fields.items()
            if name in values
            and values[name] is None
            and not field.is_required()
            # None itself stays where it means something, as in settings that are joined: an empty one changes nothing
            and type(None) not in get_args(field.annotation)
        }
        return {**values, **taken}


class Toleration(_Settings, frozen=True):
    """A taint of nodes that a pod may run on in spite of it."""

    key: _Key | None = Field(default=None, description="The taint's key; none tolerates all, with operator Exists")
    operator: Literal["Equal", "Exists"] = Field(default="Exists", description="Exists takes any value of the taint")
    value: _Label | None = Field(default=None, description="The taint's value, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; none tolerates all"
    )
    seconds: int | None = Field(
        default=None, ge=0, lt=2**31, description="How long a pod stays on a node that gets the taint, with NoExecute"
    )

    @model_validator(mode="after")
    def _is_one(self) -> "Toleration":
        if (self.operator == "Equal") != (self.value is not None) or (self.operator == "Equal" and self.key is None):
            raise ValueError(
                "expected a toleration with a key and a value with operator Equal, and no value with Exists"
            )
        if self.seconds is not None and self.effect != "NoExecute":
            raise ValueError("expected the effect NoExecute with seconds, which mean nothing with another one")
        return self


class Volume(_Settings, frozen=True):
    """A persistent volume that is mounted in a pod."""

    claim: Annotated[str, AfterValidator(cluster_values.admit_claim)] = Field(
        description="Name of the PersistentVolumeClaim"
    )
    mount: Annotated[str, AfterValidator(cluster_values.admit_mount)] = Field(description="Folder in the pod")
    sub_path: Annotated[str, AfterValidator(cluster_values.admit_sub_path)] = Field(
        default="", description="Folder within the volume that is mounted; empty for all of it"
    )


class Secret(_Settings, frozen=True):
    """Values of a Kubernetes secret that a pod finds in environment variables; the profile names them, no more."""

    name: _ObjectName = Field(description="Name of the secret in the namespace of the run")
    variables: dict[_Variable, Annotated[str, BeforeValidator(cluster_values.admit_secret_key)]] = Field(
        min_length=1, max_length=100, description="Environment variable: key of the value in the secret"
    )
    optional: bool = Field(default=False, description="Whether a pod starts without it")


class Retries(_Settings, frozen=True):
    """How a step whose pod failed is repeated."""

    count: int = Field(default=3, ge=0, le=MOST_RETRIES, description="Most repetitions; 0 for none")
    wait: _Duration = Field(default="10s", description="Pause before the first one, such as 10s or 5m")
    factor: float = Field(default=2.0, ge=1, le=10, description="Each pause is so many times the last one")
    within: _Duration = Field(
        default="7d",
        description="Time after the step's first start in which it is repeated. Argo ends a repeated pod that still "
        "runs then: longer than the longest step takes",
    )


class Placement(_Settings, frozen=True):
    """What a step asks of the cluster; what is not set is as the cluster has it."""

    image: _Image | None = Field(
        default=None, description="Image that holds metantk_core; none for the one of this release"
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the image is pulled"
    )
    image_pull_secrets: tuple[_ObjectName, ...] = Field(
        default=(), strict=False, description="Names of secrets with the registry's credentials"
    )
    cpu: _Cores | None = Field(default=None, description="CPU request, such as 4 or 500m")
    cpu_limit: _Cores | None = Field(default=None, description="CPU limit")
    memory: _Bytes | None = Field(default=None, description="Memory request, such as 16Gi or 1.5Gi")
    memory_limit: _Bytes | None = Field(default=None, description="Memory limit: above it the pod is ended")
    gpus: int = Field(default=0, ge=0, le=64, description="Number of accelerators")
    gpu_type: _Resource = Field(
        default="nvidia.com/gpu", description="Resource name of the accelerator, as nodes offer it"
    )
    shared_memory: _Bytes | None = Field(
        default=None, description="Size of /dev/shm in memory, which counts towards the limit; none for 64 MB"
    )
    node_selector: dict[_Key, _Label | None] | None = Field(
        default={}, description="Labels of the nodes that the pod may run on"
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), strict=False, description="Taints of nodes that the pod may run on in spite of them"
    )
    volumes: tuple[Volume, ...] = Field(default=(), strict=False, description="Persistent volumes, such as the dataset")
    secrets: tuple[Secret, ...] = Field(
        default=(),
        strict=False,
        description="Secrets of the cluster as environment variables, such as S3's and MLflow's",
    )
    environment: dict[_Variable, _Line | None] | None = Field(
        default={}, description="Environment variables that are no secrets; those of other programs as well"
    )
    queue: _Label | None = Field(default=None, description="Local queue of Kueue that the pod waits in")
    timeout: _Duration | None = Field(
        default=None, description="Longest time of one attempt, such as 6h; the pod is ended then"
    )
    retries: Retries | None = Field(default=Retries(), description="How a step whose pod failed is repeated")
    labels: dict[_Key, _Label | None] | None = Field(default={}, description="Labels of the pod")
    annotations: dict[_Key, _Line | None] | None = Field(default={}, description="Annotations of the pod")

    @model_validator(mode="after")
    def _is_possible(self) -> "Placement":
        for name, request, limit in (("cpu", self.cpu, self.cpu_limit), ("memory", self.memory, self.memory_limit)):
            if request and limit and quantity(request) > quantity(limit):
                raise ValueError(f"{name} is {request}, more than {name}_limit, {limit}: expected no more than it")
        if self.shared_memory and self.memory_limit and quantity(self.shared_memory) > quantity(self.memory_limit):
            raise ValueError(
                f"shared_memory is {self.shared_memory}, more than memory_limit, {self.memory_limit}: it counts in that"
            )
        _refuse_twice("volumes", "claim", [volume.claim for volume in self.volumes])
        _refuse_twice("volumes", "mount", [volume.mount for volume in self.volumes])
        variables = [name for secret in self.secrets for name in secret.variables]
        plain = [name for name, value in (self.environment or {}).items() if value is not None]
        _refuse_twice("secrets and environment", "variable", [*variables, *plain])
        return self


class Addresses(_Settings, frozen=True):
    """Where things are, as pods see them; defaults of the pipeline's parameters."""

    store: str = Field(
        default="", description="What keeps finished work: a folder that pods mount, or s3://bucket/prefix"
    )
    tracking_uri: str = Field(default="", description="MLflow: http(s):// or postgresql://, without password")
    kubeflow: str = Field(default="", description="Kubeflow's pages as people see them, for links: http(s)://")

    @model_validator(mode="after")
    def _are_admitted(self) -> "Addresses":
        cluster_values.admit_addresses(self.store, self.tracking_uri, self.kubeflow)
        return self


class Profile(_Settings, frozen=True):
    """What a cluster is and what steps ask of it.

    A step gets the defaults, over them what its class has, and over that its own. What is set replaces what was there;
    only keys of node_selector, environment, labels, annotations and retries are joined. ``null`` takes a setting away,
    or one of these keys.
    """

    description: str = Field(default="", max_length=200, description="What this cluster is, in a line")
    addresses: Addresses = Field(default=Addresses(), description="Where things are, as pods see them")
    parallelism: int | None = Field(
        default=None, ge=1, le=1000, description="Most shards, and most trainings, that run at a time; none for all"
    )
    defaults: Placement = Field(default=Placement(), description="What every step asks for")
    computes: Placement = Field(
        default=Placement(),
        description="What steps ask for that run networks: search, search_shard, score_shard, meta_train, evaluate, "
        "rerun_benchmark, and start_search if latency is limited",
    )
    light: Placement = Field(default=Placement(), description="What all other steps ask for")
    steps: dict[StepName, Placement] = Field(default={}, description="What single steps ask for, by name")

    @model_validator(mode="after")
    def _is_possible(self) -> "Profile":
        for step in get_args(StepName):
            for computes in {step in COMPUTING, step in COMPUTING or step == "start_search"}:
                try:
                    _refuse_late(self.placement(step, computes=computes))
                except ValidationError as error:
                    reason = error.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(f"what {step} asks for can't be: {reason}") from error
                except InputError as error:
                    raise ValueError(f"what {step} asks for can't be: {error}") from error
        return self

    def placement(self, step: StepName, *, computes: bool | None = None) -> Placement:
        """Return what a step asks of the cluster.

        Args:
            step: Its name.
            computes: Whether it runs networks; as it does without limits on latency if not given.
        """
        runs_networks = step in COMPUTING if computes is None else computes
        layers = (self.defaults, self.computes if runs_networks else self.light, self.steps.get(step, Placement()))
        joined: dict[str, Any] = {}
        for layer in layers:
            joined = _joined(joined, layer.model_dump(exclude_unset=True))
        return Placement.model_validate(_without_nulls(joined))

    def images(self) -> dict[str, list[str]]:
        """Return every image that is named, with the steps that run in it; where none is, it is this release's."""
        found: dict[str, list[str]] = {}
        for step in get_args(StepName):
            for computes in {step in COMPUTING, step in COMPUTING or step == "start_search"}:
                image = self.placement(step, computes=computes).image
                if image and step not in found.setdefault(image, []):
                    found[image].append(step)
        return found

    def changed(self, *, everywhere: Mapping[str, Any], computing: Mapping[str, Any]) -> "Profile":
        """Return the profile with other settings of all steps, and of those that run networks, whatever it had.

        Raises:
            InputError: They can't be.
        """
        values = self.model_dump(exclude_unset=True)
        steps = values.get("steps", {})
        classes = {name: values.get(name, {}) for name in ("defaults", "computes", "light")}
        for placement in (*classes.values(), *steps.values()):
            _forget(placement, everywhere)
        for name in COMPUTING & steps.keys():
            _forget(steps[name], computing)
        classes["defaults"] = _joined(classes["defaults"], everywhere)
        classes["computes"] = _joined(classes["computes"], computing)
        return _profile({**values, **classes, "steps": steps}, "the options")


LOCAL = Profile(defaults=Placement(retries=None))
"""This machine: nothing is asked for, and a step that fails here fails for a reason that a repetition meets again."""


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_profile(source: str) -> Profile:
    """Return a profile by its name, or from a YAML or JSON file.

    Raises:
        InputError: There is none, it holds an unknown key or an impossible value, or what may be a secret.
    """
    return _profile(read_settings(profile_path(source)), f"the profile {source}")


def profile_path(source: str) -> Path:
    """Return the file of a profile that is named or whose path is given.

    Raises:
        InputError: No profile has that name.
    """
    if source in profile_names():
        return FOLDER / f"{source}.yaml"
    path = Path(source)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise InputError(
            f"Expected the name of a profile ({', '.join(profile_names())}) or a .yaml or .json file, got "
            f"{quoted(source)}; see `metantk profiles`."
        )
    return path


def settings() -> Iterator[tuple[str, str]]:
    """Yield the name of every setting of a profile and what it means."""
    yield from _settings(Profile, "")


def _settings(model: type[BaseModel], place: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        below = _model(field.annotation)
        again = below is Placement and name != "defaults"
        yield f"{place}{name}", f"{field.description}{'; settings as in defaults' if again else ''}"
        if below is not None and not again:
            several = get_origin(field.annotation) is tuple
            yield from _settings(below, f"{place}{name}{'[]' if several else ''}.")


def _model(kind: Any) -> type[BaseModel] | None:
    """Return the model that a setting's type is, or is made of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for part in get_args(kind) if (found := _model(part)) is not None), None)


def _profile(values: object, origin: str) -> Profile:
    _refuse_secrets(values, origin, ())
    if not isinstance(values, Mapping):
        raise InputError(
            f"Can't use {origin}: expected keys and values, such as defaults: {{cpu: 4}}; see `metantk profiles`."
        )
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise InputError(f"Can't use {origin}: {complaints(Profile, error, _UNSHOWN)}.") from error


def _refuse_secrets(values: object, origin: str, place: tuple[str, ...]) -> None:
    if isinstance(values, Mapping | list | tuple):
        for name, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            _refuse_secrets(value, origin, (*place, str(name)))
        return
    name = place[-1] if place else ""
    # In a list of variables the names are those of secrets, and what stands there is a key, such as password.
    above = place[-2] if len(place) > 1 else ""
    key = above == "variables"
    ours = name in _UNSHOWN and above not in _JOINED  # settings of a profile, whose kind is told if it is wrong
    name = "" if key or ours or name.isdigit() else name
    if may_be_secret(name, str(values)) or (key and _RANDOM.fullmatch(str(values))):
        raise InputError(
            f"Can't use {origin}: {'.'.join(place)} may be a secret (not shown), and everybody can read a profile and "
            "what is compiled with it; put it into a Kubernetes secret, and the secret's name and key into 'secrets'."
        )
