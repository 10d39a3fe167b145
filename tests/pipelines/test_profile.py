# ruff: noqa: E501
"""A profile says what each step asks of a cluster; what can't be, or may be a secret, is refused with its place."""

import json
import os
from pathlib import Path

import pytest
import yaml
from forked_commands import metantk
from hypothesis import given
from hypothesis import strategies as st

from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from pipelines.profile import FOLDER, LOCAL, Placement, Profile, load_profile, profile_names, settings
from pipelines.search_and_meta_train import write

KNOWN = "hunter2hunter2"  # in the environment of the process that reads a profile


def loaded(text: str, folder: Path) -> Profile:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_profile(str(path))


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("defualts: {}", "'defualts'", "did you mean 'defaults'"),
        ("steps: {score_shard: {gpu: 1}}", "'steps.score_shard.gpu'", "did you mean 'gpus'"),
        ("steps: {score_shards: {}}", "steps.score_shards", "'score_shard'"),
        ("computes: {cpu: 4x}", "computes.cpu", "such as 4, 0.5 or 500m"),
        ("computes: {memory: 16GB}", "computes.memory", "such as 16G, 1.5Gi or 512Mi"),
        ("computes: {memory: 16}", "computes.memory", "did you mean 16Gi?"),
        ("computes: {memory_limit: 512m}", "computes.memory_limit", "did you mean 512Mi?"),
        ("computes: {shared_memory: -1}", "computes.shared_memory", "such as 16G"),
        ("light: {gpu_type: gpu}", "light.gpu_type", "such as nvidia.com/gpu"),
        ("light: {gpus: 65}", "light.gpus", "less than or equal to 64"),
        ("light: {gpus: true}", "light.gpus", "valid integer"),
        ("defaults: {image: 'a b'}", "defaults.image", "registry/name:tag"),
        ("defaults: {image_pull_policy: always}", "defaults.image_pull_policy", "'Always'"),
        ("defaults: {tolerations: [{effect: NoSchedul}]}", "defaults.tolerations.0.effect", "'NoSchedule'"),
        ("defaults: {tolerations: [{value: x}]}", "defaults.tolerations.0", "operator Equal"),
        ("defaults: {tolerations: [{key: a, effect: NoSchedule, seconds: 3}]}", "defaults.tolerations.0", "NoExecute"),
        ("defaults: {volumes: [{claim: A, mount: /x}]}", "defaults.volumes.0.claim", "small letters"),
        ("defaults: {volumes: [{claim: a.b, mount: /x}]}", "defaults.volumes.0.claim", "63 small letters"),
        ("defaults: {volumes: [{claim: a, mount: x}]}", "defaults.volumes.0.mount", "absolute folder"),
        ("defaults: {volumes: [{claim: a, mount: /dev/shm}]}", "defaults.volumes.0.mount", "none of /dev"),
        ("defaults: {volumes: [{claim: a, mount: /x, sub_path: ../y}]}", "defaults.volumes.0.sub_path", "within the volume"),
        ("defaults: {volumes: [{claim: a, mount: /x}, {claim: a, mount: /y}]}", "defaults", "'a' twice"),
        ("defaults: {volumes: [{claim: a, mount: /x}, {claim: b, mount: /x}]}", "defaults", "'/x' twice"),
        ("defaults: {secrets: [{name: s}]}", "defaults.secrets.0.variables", "required"),
        ("defaults: {secrets: [{name: S, variables: {A: k}}]}", "defaults.secrets.0.name", "small letters"),
        ("defaults: {secrets: [{name: s, variables: {A-B: k}}]}", "defaults.secrets.0.variables", "environment variable"),
        ("defaults: {secrets: [{name: s, variables: {A: k/l}}]}", "defaults.secrets.0.variables.A", "not shown"),
        ("defaults: {secrets: [{name: s, variables: {A: k}}], environment: {A: b}}", "defaults", "'A' twice"),
        ("defaults: {environment: {KFP_POD_NAME: x}}", "defaults.environment", "none that starts with KFP_"),
        ("defaults: {labels: {team: 7}}", "defaults.labels.team", "valid string"),
        ("defaults: {labels: {team: a b}}", "defaults.labels.team", "numbers, true and false in quotes"),
        ("defaults: {node_selector: {'a b': c}}", "defaults.node_selector", "key of a label"),
        ("defaults: {timeout: 90}", "defaults.timeout", "valid string"),
        ("defaults: {timeout: 1.5h}", "defaults.timeout", "such as 90s, 30m, 6h or 7d"),
        ("defaults: {retries: {count: 21}}", "defaults.retries.count", "less than or equal to 20"),
        ("defaults: {retries: {within: 999d}}", "defaults.retries.within", "at most a year"),
        ("defaults: {cpu: 4, cpu_limit: 2}", "defaults", "more than cpu_limit"),
        ("defaults: {memory: 8Gi}\ncomputes: {memory_limit: 4Gi}", "what start_search asks for", "more than memory_limit"),
        ("computes: {shared_memory: 8Gi, memory_limit: 4Gi}", "computes", "it counts in that"),
        ("computes: {timeout: 2d, retries: {within: 1h}}", "what start_search asks for", "longer than retries.within, 1h"),
        ("defaults: {retries: {within: 1h}}\nsteps: {evaluate: {timeout: 2h}}", "what evaluate asks for", "timeout is 2h"),
        ("defaults: {retries: 3}", "defaults.retries", "expected keys and values (count, wait, factor, within), not 3."),
        ("defaults: {retries: {counts: 3}}", "'defaults.retries.counts'", "did you mean 'count'"),
        ("defaults: {volumes: [3]}", "defaults.volumes.0", "expected keys and values (claim, mount, sub_path), not 3."),
        ("defaults: {tolerations: {key: x}}", "defaults.tolerations", "expected a list, such as [a, b], not keys and values."),
        ("steps: {evaluate: {image_pull_secrets: registry}}", "steps.evaluate.image_pull_secrets", "expected a list"),
        ("parallelism: 0", "parallelism", "greater than or equal to 1"),
        ("addresses: {store: relative}", "addresses", "absolute folder"),
        ("[1, 2]", "", "keys and values"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_file_and_key_in_a_sentence(text, place, said, tmp_path):
    with pytest.raises(InputError) as caught:
        loaded(text, tmp_path)
    sentence = str(caught.value)
    assert "mine.yaml" in sentence
    assert place in sentence
    assert said in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("defaults: {image: my image}", "registry/name:tag or registry/name@sha256:digest, in small letters and without spaces or https://, got 'my image'; give such a name."),
        ("defaults: {volumes: [{claim: a, mount: /d/}]}", "without '.', '..' and '//', got '/d/'."),
        ("addresses: {tracking_uri: 'mlflow://x'}", "http://, https:// or postgresql://, got mlflow://x; a file on this machine is none."),
        ("defaults: {image: 'host:/x y'}", "or https://, got what may be an address (not shown: it may hold a password); give such a name."),
    ],
)  # fmt: skip
def test_a_sentence_of_refusal_keeps_its_own_words_and_says_once_what_came(text, ending, tmp_path):
    with pytest.raises(InputError) as caught:
        loaded(text, tmp_path)
    assert str(caught.value).endswith(ending)


@pytest.mark.parametrize("pasted", ["hunter2!", "Tr0ub4dor&3", "abc/def+ghi=", "12345678", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"])  # fmt: skip
@pytest.mark.parametrize(
    "place",
    [
        "defaults: {secrets: [{name: s, variables: {AWS_SECRET_ACCESS_KEY: %s}}]}",
        "defaults: {secrets: [{name: s, variables: {%s: secret-key}}]}",
        "defaults: {secrets: [{name: s, variables: %s}]}",
        "defaults: {secrets: [{name: %s, variables: {A: k}}]}",
        "defaults: {secrets: [{name: s, variables: {A: k}, optional: %s}]}",
        "defaults: {secrets: [%s]}",
        "defaults: {secrets: %s}",
        "steps: {evaluate: {image_pull_secrets: [%s]}}",
        "steps: {evaluate: {image_pull_secrets: %s}}",
    ],
)
def test_a_secret_pasted_where_one_is_named_is_not_shown(place, pasted, tmp_path):
    with pytest.raises(InputError, match=r"not shown|a name before") as caught:
        loaded(place % pasted, tmp_path)
    assert pasted not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"defaults: {{environment: {{X: '{KNOWN}'}}}}",
        f"defaults: {{environment: {{X: 'a {KNOWN} b'}}}}",
        "defaults: {environment: {X: AKIAIOSFODNN7EXAMPLE}}",
        "defaults: {environment: {X: ghp_abcdefghijklmnopqrstuv0123456789}}",
        "defaults: {environment: {X: 'https://me:anything@host/'}}",
        "defaults: {environment: {X: 'https://host/?token=anything'}}",
        "defaults: {environment: {X: 'Bearer anything'}}",
        "defaults: {environment: {MY_PASSWORD: anything}}",
        "defaults: {environment: {DB_PASS: anything}}",
        "defaults: {environment: {DBPWD: anything}}",
        "defaults: {environment: {DSN: 'host=db password=anything'}}",
        "defaults: {environment: {FOO: wJalrXUtnFEMI/K7MDENG/bPxRfiCYanythingKY}}",
        f"defaults: {{annotations: {{note: {KNOWN}}}}}",
        f"defaults: {{labels: {{note: {KNOWN}}}}}",
        "defaults: {secrets: [{name: s, variables: {A: wJalrXUtnFEMIK7MDENGbPxRfiCYanything}}]}",
        f"defaults: {{secrets: [{{name: s, variables: {{A: {KNOWN}}}}}]}}",
        "defaults: {secrets: [{name: s, variables: {A: k}, value: anything}]}",
        "addresses: {tracking_uri: 'http://me:anything@mlflow:5000'}",
        "addresses: {store: 's3://me:anything@bucket'}",
        f"description: {KNOWN}",
        f"[{KNOWN}]",
    ],
)
def test_what_may_be_a_secret_is_refused_and_never_repeated(text, tmp_path, monkeypatch):
    monkeypatch.setenv("METANTK_TEST_PASSWORD", KNOWN)
    with pytest.raises(InputError) as caught:
        loaded(text, tmp_path)
    assert KNOWN not in str(caught.value)
    assert "anything" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/identity"),
        ("PWD", "/data"),
        ("COMPASS", "north"),
        ("PGPASSFILE", "/var/run/pgpass"),
        ("DSN", "host=db password=$(FROM_A_SECRET)"),
        ("COMMIT", "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"),
        ("DIGEST", "sha256:" + "aB3" * 21 + "c"),
        ("IMAGE", "ghcr.io/Some-Team/metantk-python:0.1.0-Build7"),
        ("FOLDER", "Datasets/MiniImageNet/Train/Classes0123/"),
    ],
)
def test_variables_that_only_sound_or_look_like_secrets_are_admitted(variable, value, tmp_path):
    assert loaded(f"defaults: {{environment: {{{variable}: '{value}'}}}}", tmp_path).defaults.environment


def test_a_steps_own_settings_go_before_its_class_and_that_before_the_defaults(tmp_path):
    found = loaded(
        """
        defaults: {cpu: 1, memory: 1Gi, labels: {a: "1", b: "1"}, tolerations: [{key: x}], retries: {count: 1, wait: 5s}}
        computes: {cpu: 4, gpus: 1, labels: {b: "2"}, tolerations: [{key: y}]}
        light: {cpu: 500m}
        steps:
          evaluate: {gpus: 0, labels: {c: "3"}, retries: {count: 2}}
          rank_candidates: {memory: null, retries: null}
        """,
        tmp_path,
    )
    score, evaluated, ranked = map(found.placement, ("score_shard", "evaluate", "rank_candidates"))
    assert (score.cpu, score.memory, score.gpus, score.labels) == ("4", "1Gi", 1, {"a": "1", "b": "2"})
    assert [toleration.key for toleration in score.tolerations] == ["y"]
    assert (evaluated.cpu, evaluated.gpus, evaluated.labels) == ("4", 0, {"a": "1", "b": "2", "c": "3"})
    assert evaluated.retries is not None
    assert (evaluated.retries.count, evaluated.retries.wait) == (2, "5s")
    assert (ranked.cpu, ranked.memory, ranked.gpus, ranked.retries) == ("500m", None, 0, None)
    assert (found.placement("start_search").gpus, found.placement("start_search", computes=True).gpus) == (0, 1)


FULL = {
    "image": "a:1",
    "image_pull_policy": "Always",
    "image_pull_secrets": ["registry"],
    "cpu": "1",
    "cpu_limit": "2",
    "memory": "1Gi",
    "memory_limit": "2Gi",
    "gpus": 2,
    "gpu_type": "amd.com/gpu",
    "shared_memory": "1Gi",
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu"}],
    "volumes": [{"claim": "images", "mount": "/data"}],
    "secrets": [{"name": "s", "variables": {"A": "k"}}],
    "environment": {"B": "1"},
    "queue": "q",
    "timeout": "1h",
    "labels": {"team": "x"},
    "annotations": {"note": "x"},
}


@pytest.mark.parametrize("layer", ["defaults", "computes"])
@pytest.mark.parametrize("setting", FULL)
def test_null_takes_away_every_setting_of_a_lower_layer_and_no_other(setting, layer):
    profile = Profile.model_validate({layer: FULL, "steps": {"meta_train": {setting: None}}})
    for found in (profile, profile.changed(everywhere={"retries": {"count": 1}}, computing={})):
        without, full = (found.placement(step) for step in ("meta_train", "evaluate"))
        assert getattr(full, setting) != getattr(Placement(), setting)
        assert without == full.model_copy(update={setting: getattr(Placement(), setting)})


def test_every_setting_but_retries_has_a_test_that_null_takes_it_away():
    assert {*FULL, "retries"} == set(Placement.model_fields)


@pytest.mark.parametrize("setting", ["node_selector", "environment", "labels", "annotations"])
def test_null_takes_away_a_single_key_that_is_joined_and_a_layer_above_sets_it_again(setting):
    values = {
        "defaults": {setting: {"a": "1", "b": "1"}},
        "computes": {setting: {"a": None}},
        "steps": {"evaluate": {setting: {"a": "2"}}, "search": {setting: None}, "meta_train": {setting: {"c": None}}},
    }
    profile = Profile.model_validate(values)
    found = {
        step: getattr(profile.placement(step), setting) for step in ("meta_train", "evaluate", "search", "close_run")
    }
    both = {"a": "1", "b": "1"}
    assert found == {"meta_train": {"b": "1"}, "evaluate": {"a": "2", "b": "1"}, "search": {}, "close_run": both}


def test_a_step_without_gpus_leaves_the_nodes_with_gpus_by_null(tmp_path):
    values = yaml.safe_load((FOLDER / "gke-spot.yaml").read_text(encoding="utf-8"))
    nulls = {"gpus": None, "node_selector": {"cloud.google.com/gke-accelerator": None}, "tolerations": None}
    profile = loaded(yaml.safe_dump({**values, "steps": {"evaluate": nulls}}), tmp_path)
    write(RECIPES["smoke"], tmp_path / "pipeline.yaml", profile)
    spec, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    evaluate, trained = pods["exec-evaluate"], pods["exec-meta-train"]
    assert evaluate["nodeSelector"] == {"labels": {"cloud.google.com/gke-spot": "true"}}
    assert "tolerations" not in evaluate
    assert trained["tolerations"]
    assert "cloud.google.com/gke-accelerator" in trained["nodeSelector"]["labels"]
    containers = {name: found["container"] for name, found in spec["deploymentSpec"]["executors"].items()}
    assert "accelerator" in containers["exec-meta-train"]["resources"]
    assert "accelerator" not in containers["exec-evaluate"]["resources"]


def test_a_timeout_beyond_the_time_of_repetitions_is_admitted_where_nothing_is_repeated(tmp_path):
    for retries in ("null", "{count: 0, within: 1h}", "{count: 3, within: 2d}"):
        assert loaded(f"computes: {{timeout: 2d, retries: {retries}}}", tmp_path).placement("search").timeout == "2d"


def test_options_go_before_everything_that_the_profile_says():
    profile = Profile(
        defaults=Placement(image="a:1", cpu="1"),
        computes=Placement(image="b:1", memory="1Gi"),
        steps={"score_shard": Placement(image="c:1", memory="9Gi", cpu="3"), "close_run": Placement(memory="2Gi")},
    )
    changed = profile.changed(everywhere={"image": "d:1"}, computing={"memory": "4Gi"})
    assert {changed.placement(step).image for step in ("score_shard", "evaluate", "close_run")} == {"d:1"}
    assert [changed.placement(step).memory for step in ("score_shard", "evaluate", "close_run")] == [
        "4Gi",
        "4Gi",
        "2Gi",
    ]
    assert changed.placement("score_shard").cpu == "3"
    spot = load_profile("gke-spot").changed(everywhere={"retries": {"count": 1}}, computing={})
    retries = spot.placement("meta_train").retries
    assert retries is not None
    assert (retries.count, retries.wait) == (1, "30s")


def test_sharded_scoring_asks_for_gpus_in_the_profiles_that_come_along_and_ranking_does_not():
    assert set(profile_names()) == {"bare", "eks-spot", "gke-spot"}
    for name in profile_names():
        profile = load_profile(name)
        assert [profile.placement(step).gpus for step in ("score_shard", "search_shard", "rank_candidates")] == [
            1,
            1,
            0,
        ]
        spot = any("spot" in str(toleration.key) for toleration in profile.placement("meta_train").tolerations)
        assert spot == name.endswith("-spot")
        assert not profile.placement("rank_candidates").node_selector


def test_on_this_machine_nothing_is_asked_for():
    asked = LOCAL.placement("score_shard").model_dump(exclude_defaults=True)
    assert asked == {"retries": None}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["defaults", "steps", "cpu", "volumes", "evaluate", "labels", "x"]), inner, max_size=3), max_leaves=8))  # fmt: skip
def test_any_values_are_a_profile_or_are_refused(values):
    from pipelines.profile import _profile

    try:
        assert _profile(values, "the profile x").placement("evaluate").gpus >= 0
    except InputError as error:
        assert str(error).startswith("Can't use the profile x")  # noqa: PT017


def test_every_setting_of_the_profiles_that_come_along_is_explained():
    explained = dict(settings())
    assert all(explained.values())
    for path in FOLDER.glob("*.yaml"):
        for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            assert name in explained
            for setting in value if name in ("defaults", "computes") else ():
                assert f"defaults.{setting}" in explained


def test_commands_list_show_and_explain_profiles(tmp_path):
    listed = json.loads(metantk("profiles", "--json", cwd=tmp_path).stdout)
    assert set(listed) == set(profile_names())
    shown = metantk("profiles", "--show", "gke-spot", cwd=tmp_path)
    assert shown.stdout == (FOLDER / "gke-spot.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    assert load_profile(str(tmp_path / "mine.yaml")) == load_profile("gke-spot")
    assert json.loads(metantk("profiles", "--explain", "--json", cwd=tmp_path).stdout) == dict(settings())
    assert metantk("profiles", "--show", "gke-spto", cwd=tmp_path).returncode == 2


def test_compile_takes_a_profile_and_says_how_large_the_pipeline_becomes(tmp_path):
    done = metantk("compile", "smoke", "--profile", "bare", "--image", "mine/metantk-python:2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    size = json.loads(done.stdout)
    assert size["package_bytes"] == os.path.getsize(tmp_path / "pipeline.yaml")
    spec, platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    assert images == {"mine/metantk-python:2"}
    assert "exec-score-shard" in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert spec["root"]["inputDefinitions"]["parameters"]["store"]["defaultValue"] == "/mnt/metantk/store"


def test_a_planted_secret_reaches_no_compiled_pipeline(tmp_path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "METANTK_TEST_TOKEN"):
        monkeypatch.setenv(name, KNOWN)
    write(RECIPES["smoke"], tmp_path / "pipeline.yaml", load_profile("gke-spot"))
    assert KNOWN not in (tmp_path / "pipeline.yaml").read_text()
