# ruff: noqa: E501
"""What a person asks of a cluster is refused at once, or compiles to what Kubernetes understands."""

import itertools
import os
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from kfp.pipeline_spec import pipeline_spec_pb2

from metantk_core.config import load_config
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from pipelines.cluster_values import admit_accelerator, admit_addresses, admit_image, cpu_request, memory_request
from pipelines.profile import Placement, Profile, Retries
from pipelines.search_and_meta_train import write

UNITS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    "M": 10**6,
    "G": 10**9,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
}


def value(quantity: str) -> Fraction:
    digits = quantity.rstrip("kmMGTPi")
    return Fraction(digits) * UNITS[quantity.removeprefix(digits)]


@pytest.mark.parametrize(
    ("text", "request_"),
    [("4", "4"), ("500m", "500m"), ("0.5", "500m"), (".5", "500m"), ("1e1", "10"), ("2k", None), ("1k", "1000"),
     ("abc", None), ("-1", None), ("1e99", None), ("nan", None), ("0", None), ("0.0001", None), ("4 ", None), ("٤", None)],
)  # fmt: skip
def test_cpu_is_a_quantity_of_kubernetes(text, request_):
    if request_ is None:
        with pytest.raises(InputError, match=r"such as 4, 0\.5 or 500m"):
            cpu_request(text)
    else:
        assert cpu_request(text) == request_


@pytest.mark.parametrize(
    ("text", "request_"),
    [("16G", "16G"), ("1.5Gi", "1610612736"), ("1e9", "1000000000"), ("1048576", "1048576"), ("2000000k", "2000000000"),
     ("512Mi", "512Mi"), ("1Mi", "1Mi"), ("16GB", None), ("16", None), ("512m", None), ("1023Ki", None), ("1k", None),
     ("-1", None), ("abc", None), ("1K", None), ("0.5", None), ("inf", None), ("9E", None), ("1.00000000000000000001Gi", None)],
)  # fmt: skip
def test_memory_is_a_quantity_of_kubernetes(text, request_):
    if request_ is None:
        with pytest.raises(InputError, match=r"such as 16G, 1\.5Gi or 512Mi"):
            memory_request(text)
    else:
        assert memory_request(text) == request_


@pytest.mark.parametrize(("text", "meant"), [("16", "16Gi"), ("512m", "512Mi"), ("4096", "4096Gi")])
def test_memory_without_a_unit_is_told_what_it_may_have_meant(text, meant):
    with pytest.raises(InputError, match=rf"got '{text}' \(did you mean {meant}\?\); give"):
        memory_request(text)


def test_the_secrets_of_this_process_are_in_no_address_that_is_compiled(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2hunter2")
    for addresses in (
        ("s3://bucket/hunter2hunter2", ""),
        ("", "http://mlflow/hunter2hunter2"),
        ("", "", "https://kubeflow/hunter2hunter2"),
    ):
        with pytest.raises(InputError, match="may hold a secret") as caught:
            admit_addresses(*addresses)
        assert "hunter2" not in str(caught.value)


@given(st.integers(2, 10**6), st.sampled_from(["", "Mi", "Gi", "M", "G"]))
def test_what_is_asked_for_stays_equal(number, unit):
    number += 0 if unit else 2**20
    assert value(memory_request(f"{number}{unit}")) == number * UNITS[unit]
    assert value(cpu_request(f"{number % 1000 + 1}m")) == Fraction(number % 1000 + 1, 1000)


@given(st.text(max_size=12) | st.from_regex(r"[-+]?[0-9.]{0,6}[a-zA-Z]{0,3}", fullmatch=True))
def test_any_text_is_a_request_or_is_refused(text):
    for ask, of in itertools.product((cpu_request, memory_request), (text,)):
        try:
            assert value(ask(of)) > 0 or not of
        except InputError as error:
            assert str(error).startswith("Expected a ")  # noqa: PT017
        except ValueError:
            assert not of


@pytest.mark.parametrize(
    "name", ["a b", "A", "https://host/x", "me:hunter2@host/x", "x:y:z", "x@sha256:12", "", "x" * 300]
)
def test_an_image_is_a_reference_of_the_distribution_grammar(name):
    with pytest.raises(InputError, match="Expected an image") as caught:
        admit_image(name)
    assert "hunter2" not in str(caught.value)
    for good in ("python", "ghcr.io/x/y-python:1.0", "localhost:5000/a/b", f"host/a:1@sha256:{'a' * 64}"):
        admit_image(good)


@pytest.mark.parametrize("name", ["a b", "gpu", "nvidia.com/", "/gpu", "nvidia/gpu", "NVIDIA.com/gpu"])
def test_an_accelerator_is_a_resource_of_a_node(name):
    with pytest.raises(InputError, match="Expected an accelerator"):
        admit_accelerator(name)
    admit_accelerator("nvidia.com/gpu")
    admit_accelerator("nvidia.com/mig-1g.5gb")


@pytest.mark.parametrize(
    "uri", ["garbage", "ftp://h", "sqlite:///x", "http://", "http://b:S@h", "http://h/?token=S", "b:S@h"]
)
def test_pods_need_an_mlflow_that_they_can_reach_and_no_secret(uri):
    with pytest.raises(InputError) as caught:
        admit_addresses("", uri)
    assert "S@" not in str(caught.value)
    admit_addresses("", "http://mlflow.kubeflow:5000")


@pytest.mark.parametrize(
    "uri", ["kubeflow", "ftp://h", "https://", "https://h/#/runs", "https://b:S@h", "https://h/?a=S@"]
)
def test_the_address_of_kubeflows_pages_is_one_without_a_page_and_secrets(uri):
    with pytest.raises(InputError, match="address of Kubeflow's pages") as caught:
        admit_addresses("", "", uri)
    assert "S@" not in str(caught.value)
    admit_addresses("", "", "https://kubeflow.example/pipeline/")


@pytest.mark.parametrize(
    "store",
    [
        *("s3://b/k", "s3://key:S@bucket/k", "gs://bucket/k", "s3://bucket:9000/k", "s3://bucket/../k"),
        *("http://h", "relative", "/a?k=S", "file://host", "/a/../b", "b:S@h"),
    ],
)
def test_pods_need_a_store_that_all_of_them_reach(store):
    with pytest.raises(InputError) as caught:
        admit_addresses(store, "")
    assert "S@" not in str(caught.value)
    admit_addresses("/mnt/store", "")
    admit_addresses("s3://bucket", "")
    admit_addresses("s3://bucket/a/prefix", "")


@pytest.mark.parametrize(
    "profile",
    [
        Profile(defaults=Placement(cpu="0.5", memory="1.5Gi", retries=Retries(count=20))),
        Profile(
            defaults=Placement(cpu="1k", memory="1e9", retries=None),
            computes=Placement(gpu_type="nvidia.com/mig-1g.5gb", gpus=64),
        ),
        Profile(defaults=Placement(image=f"localhost:5000/a-python:1@sha256:{'a' * 64}", cpu="1m", memory="1Mi")),
    ],
)
def test_what_is_admitted_compiles_to_a_valid_pipeline(profile, tmp_path):
    path = tmp_path / "pipeline.yaml"
    write(RECIPES["smoke"], path, profile, store="/mnt/store", tracking_uri="https://mlflow.example:5000/mlflow")
    (document,) = yaml.safe_load_all(path.read_text())
    json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())  # pyright: ignore[reportAttributeAccessIssue]


def test_more_generations_than_a_pipeline_can_have_steps_for_are_refused():
    many = ["search.strategy=evolve", "search.num_candidates=5000", "search.evolve.children=1"]
    with pytest.raises(InputError, match=r"evolve\.children"):
        load_config("smoke", RECIPES, [*many, "search.shards=2"])
    assert load_config("smoke", RECIPES, [*many, "search.shards=1"]).search.num_candidates == 5000


@pytest.mark.minutes  # of a run that ends well: test_team_server.py
def test_a_password_is_in_no_file_no_output_and_no_list_of_arguments(tmp_path):
    """A server that takes the password but no new run: the steps fail after they have started."""
    script = tmp_path / "server.py"
    script.write_text(
        "import http.server, json, sys\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        known = 'get-by-name' not in self.path  # there is no experiment, and so no earlier run\n"
        "        self.send_response(200 if known else 404); self.end_headers()\n"
        '        self.wfile.write(b\'{}\' if known else b\'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": ""}\')\n'
        "    def do_POST(self):\n"
        "        self.send_response(400); self.end_headers(); self.wfile.write(b'{}')\n"
        "    log_message = lambda *arguments: None\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Answer).serve_forever()\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(script), str(port)])
    arguments: set[str] = set()
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "metantk_core", "run", "smoke"],
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_TRACKING_URI": f"http://bob:hunter2@127.0.0.1:{port}"},
            stdout=(tmp_path / "stdout").open("wb"),
            stderr=subprocess.STDOUT,
        )
        while run.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    arguments.add(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue
            try:
                run.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    finally:
        server.kill()
        server.wait()
    log = next(tmp_path.glob("runs/*/pipeline.log"))
    assert log.stat().st_size  # the steps had started
    assert any("pipelines.local" in line for line in arguments)
    assert not [line for line in arguments if "hunter2" in line]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
