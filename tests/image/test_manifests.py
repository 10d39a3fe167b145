"""The examples of rights: valid for Kubernetes, and for the bucket exactly what the code asks of it."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "docker" / "manifests"


@pytest.mark.parametrize("name", ["rbac.yaml", "network-policy.yaml"])
def test_manifests_are_of_kubernetes_kinds(name: str):
    documents = list(yaml.safe_load_all((MANIFESTS / name).read_text()))
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, "1.33", strict=True)


def test_rights_are_given_one_by_one_and_to_accounts_that_are_there():
    documents = list(yaml.safe_load_all((MANIFESTS / "rbac.yaml").read_text()))
    of_kind = {kind: [found for found in documents if found["kind"] == kind] for kind in ("Role", "RoleBinding")}
    for role in of_kind["Role"]:
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert "secrets" not in rule["resources"] or rule["resourceNames"]
    accounts = {found["metadata"]["name"] for found in documents if found["kind"] == "ServiceAccount"}
    for binding in of_kind["RoleBinding"]:
        assert binding["roleRef"]["name"] in {role["metadata"]["name"] for role in of_kind["Role"]}
        assert {subject["name"] for subject in binding["subjects"]} <= accounts


# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
RIGHTS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "list_objects_v2": "s3:ListBucket",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
    "list_parts": "s3:ListMultipartUploadParts",
    "delete_object": "s3:DeleteObject",
    "delete_objects": "s3:DeleteObject",
}
OF_PRUNE_ALONE = {"s3:DeleteObject", "s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts"}


def rights(policy: dict[str, Any]) -> set[str]:
    allowed = [statement["Action"] for statement in policy["Statement"] if statement["Effect"] == "Allow"]
    return {action for actions in allowed for action in ([actions] if isinstance(actions, str) else actions)}


def test_the_bucket_allows_pods_exactly_what_the_code_asks_of_it():
    sources = [path.read_text() for path in (ROOT / "metantk_core" / "adapters").glob("s3*.py")]
    asked = {name for text in sources for name in re.findall(r"\bclient\.([a-z][a-z0-9_]+)\(", text)}
    assert asked <= set(RIGHTS), "a request of which it is not known here what right it takes"
    policy = json.loads((MANIFESTS / "bucket-policy.json").read_text())
    assert rights(policy) == {RIGHTS[name] for name in asked} - OF_PRUNE_ALONE


def test_the_bucket_policy_is_the_one_of_the_manual_which_a_server_is_tested_with():
    manual = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "storage.md").read_text(), re.DOTALL)
    assert manual is not None
    policy = json.loads((MANIFESTS / "bucket-policy.json").read_text())
    of_the_store = [statement for statement in policy["Statement"] if statement["Sid"].endswith("TheStore")]
    bare = [{name: part for name, part in found.items() if name not in ("Sid", "Principal")} for found in of_the_store]
    assert bare == json.loads(manual[1])["Statement"]
