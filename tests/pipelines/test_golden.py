"""Compiled pipelines are what they were, what Kubeflow's messages hold, and what Kubernetes takes as pods.

After a change that is meant: ``pytest tests/pipelines/test_golden.py --rewrite-golden``, and read what git says.
"""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from pods import executor_config, pod

from metantk_core.config import load_config
from metantk_core.recipes import RECIPES
from pipelines.caching import CACHING
from pipelines.profile import (
    COMPUTING,
    Placement,
    Profile,
    Retries,
    Secret,
    Toleration,
    Volume,
    load_profile,
    profile_names,
)
from pipelines.search_and_meta_train import write

GOLDEN = Path(__file__).parent / "golden"
# Name → recipe, changes of it, profile.
CASES: dict[str, tuple[str, list[str], str]] = {
    "smoke": ("smoke", [], ""),
    "smoke-one-step-eks-spot": ("smoke", ["search.shards=1"], "eks-spot"),
    "smoke-rounds": ("smoke", ["search.strategy=prune"], ""),
    "paper-mini-5-64-shards-bare": ("paper-mini-5", ["search.shards=64"], "bare"),
}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
EVERYTHING = Profile(
    defaults=Placement(
        image="registry.example/metantk-python:1",
        image_pull_policy="IfNotPresent",
        image_pull_secrets=("registry", "other"),
        cpu="500m",
        cpu_limit="1.5",
        memory="1.5Gi",
        memory_limit="4G",
        gpus=2,
        gpu_type="amd.com/gpu",
        shared_memory="1Gi",
        node_selector={"example.org/pool": "spot"},
        tolerations=(
            Toleration(),
            Toleration(key="spot", operator="Equal", value="true", effect="NoExecute", seconds=30),
        ),
        volumes=(
            Volume(claim="images", mount="/data", sub_path="mini/imagenet"),
            Volume(claim="store", mount="/store"),
        ),
        secrets=(Secret(name="s3.keys", variables={"AWS_ACCESS_KEY_ID": "id", "OTHER": "id"}, optional=True),),
        environment={"METANTK_DEVICE": "cuda"},
        queue="research",
        timeout="90m",
        retries=Retries(count=5, wait="5s", factor=1.5, within="2d"),
        labels={"team": "research"},
        annotations={"example.org/note": "any text: 'of' all {kinds}"},
    )
)


def documents(path: Path) -> list[Any]:
    """Return what a compiled pipeline holds, without the SDK's version and the number of shards that fit."""
    found = list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_Loader))
    assert found[0].pop("sdkVersion").startswith("kfp-")
    # What fits into a compressed object, which another zlib may see otherwise (test_graph_size.py).
    assert 1 <= found[0]["root"]["inputDefinitions"]["parameters"]["most_shards"].pop("defaultValue") <= 256
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compiled")
    for name, (recipe, changes, profile) in CASES.items():
        config = load_config(recipe, RECIPES, changes)
        write(config, folder / f"{name}.yaml", load_profile(profile) if profile else None)
    return {name: folder / f"{name}.yaml" for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_compiled_pipeline_is_the_golden_one(name, compiled, request):
    golden = GOLDEN / f"{name}.yaml"
    if request.config.getoption("--rewrite-golden"):
        golden.write_text(compiled[name].read_text(encoding="utf-8"), encoding="utf-8")
    assert documents(compiled[name]) == documents(golden), "if it is meant: --rewrite-golden"


def test_every_golden_file_is_compared():
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_kubeflows_messages_hold_all_of_it(name, compiled):
    spec, *platforms = documents(compiled[name])
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())  # pyright: ignore[reportAttributeAccessIssue]
    deployment = pipeline_spec_pb2.PipelineDeploymentConfig()  # pyright: ignore[reportAttributeAccessIssue]
    json_format.ParseDict(spec["deploymentSpec"], deployment)
    for platform in platforms:
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())  # pyright: ignore[reportAttributeAccessIssue]
        for asked in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            executor_config(asked)
    assert bool(platforms) == bool(CASES[name][2])


def test_an_unknown_field_is_noticed_by_kubeflows_messages():
    with pytest.raises(json_format.ParseError):
        executor_config({"tolerations": [{"kee": "spot"}]})


def parts(path: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the container of each step, and what it asks of Kubernetes."""
    spec, *platforms = documents(path)
    asked = platforms[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platforms else {}
    executors = spec["deploymentSpec"]["executors"]
    return {name: (executor["container"], asked.get(name, {})) for name, executor in executors.items()}


@pytest.mark.parametrize("profile", [*profile_names(), "everything"])
def test_kubernetes_takes_every_steps_pod(profile, tmp_path):
    path = tmp_path / "pipeline.yaml"
    write(RECIPES["smoke"], path, EVERYTHING if profile == "everything" else load_profile(profile))
    for name, (container, asked) in parts(path).items():
        made = pod(container, asked)
        kubernetes_validate.validate(made, "1.34", strict=True)
        step = name.removeprefix("exec-").replace("-", "_")
        gpus = [key for key in made["spec"]["containers"][0]["resources"]["limits"] if key.endswith("/gpu")]
        assert len(gpus) == (profile == "everything" or step in COMPUTING)


def test_kubernetes_refuses_a_pod_with_an_unknown_field(compiled):
    made = pod(*parts(compiled["smoke"])["exec-evaluate"])
    kubernetes_validate.validate(made, "1.34", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**made, "spec": {**made["spec"], "nodeSelectors": {}}}, "1.34", strict=True)


def test_everything_that_a_profile_can_say_reaches_the_pod(tmp_path):
    path = tmp_path / "pipeline.yaml"
    write(RECIPES["smoke"], path, EVERYTHING)
    made = pod(*parts(path)["exec-score-shard"])
    assert made["metadata"]["labels"] == {"team": "research", "kueue.x-k8s.io/queue-name": "research"}
    assert made["metadata"]["annotations"] == {"example.org/note": "any text: 'of' all {kinds}"}
    spec = made["spec"]
    assert spec["activeDeadlineSeconds"] == 90 * 60
    assert spec["nodeSelector"] == {"example.org/pool": "spot"}
    assert spec["tolerations"] == [
        {"operator": "Exists"},
        {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoExecute", "tolerationSeconds": 30},
    ]
    assert [secret["name"] for secret in spec["imagePullSecrets"]] == ["registry", "other"]
    assert spec["volumes"] == [
        {"name": "images", "persistentVolumeClaim": {"claimName": "images"}},
        {"name": "store", "persistentVolumeClaim": {"claimName": "store"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ]
    (main,) = spec["containers"]
    assert main["image"] == "registry.example/metantk-python:1"
    assert main["imagePullPolicy"] == "IfNotPresent"
    assert main["volumeMounts"] == [
        {"name": "images", "mountPath": "/data", "subPath": "mini/imagenet"},
        {"name": "store", "mountPath": "/store"},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    assert main["resources"] == {
        "requests": {"cpu": "500m", "memory": "1610612736"},
        "limits": {"cpu": "1500m", "memory": "4G", "amd.com/gpu": "2"},
    }
    of_secret = {"name": "s3.keys", "key": "id", "optional": True}
    assert main["env"] == [
        {"name": "METANTK_ACCELERATOR", "value": "amd.com/gpu"},
        {"name": "OMP_NUM_THREADS", "value": "2"},
        {"name": "METANTK_DEVICE", "value": "cuda"},
        {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": of_secret}},
        {"name": "OTHER", "valueFrom": {"secretKeyRef": of_secret}},
    ]


def tasks(path: Path) -> dict[str, dict[str, Any]]:
    """Return every task of a step, by its name."""
    spec = documents(path)[0]
    found: dict[str, dict[str, Any]] = {}
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            name = task["componentRef"]["name"]
            if "executorLabel" in spec["components"][name]:
                found[name.removeprefix("comp-").replace("-", "_")] = task
    return found


def test_repetitions_are_those_of_the_profile_for_as_long_as_it_says(tmp_path):
    path = tmp_path / "pipeline.yaml"
    write(RECIPES["smoke"], path, EVERYTHING)
    for task in tasks(path).values():
        assert task["retryPolicy"] == {
            "maxRetryCount": 5,
            "backoffDuration": "5s",
            "backoffFactor": 1.5,
            "backoffMaxDuration": "172800s",
        }
    write(RECIPES["smoke"], path)
    # Argo repeats nothing after this time, and ends what it repeated: KFP's own hour would end most trainings.
    assert {task["retryPolicy"]["backoffMaxDuration"] for task in tasks(path).values()} == {"604800s"}
    write(RECIPES["smoke"], path, Profile(defaults=Placement(retries=None)))
    assert not any("retryPolicy" in task for task in tasks(path).values())


def test_kubeflow_skips_what_the_table_says_and_nothing_without_caching(compiled, tmp_path):
    found: dict[str, bool] = {}
    for path in compiled.values():
        found |= {name: task["cachingOptions"].get("enableCache", False) for name, task in tasks(path).items()}
    of_benchmarks = {"rerun_benchmark", "judge_benchmark", "close_benchmarks"}  # see test_benchmark_pipeline.py
    assert found == {name: cached.on for name, cached in CACHING.items() if name not in of_benchmarks}
    write(RECIPES["smoke"], tmp_path / "measured.yaml", caching=False)
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks(tmp_path / "measured.yaml").values())


def test_the_table_of_the_documents_is_that_of_the_pipeline():
    text = (Path(__file__).parents[2] / "docs/kubeflow.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {
        row[0].strip("`"): (row[1] == "on", row[2]) for row in rows if len(row) == 3 and row[1] in ("on", "off")
    }
    assert documented == {name: (cached.on, cached.why) for name, cached in CACHING.items()}
