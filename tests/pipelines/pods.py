"""Pods as KFP's driver makes them of a compiled step (backend/src/v2/driver of 2.17): what the profile can change."""

from typing import Any

from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig  # pyright: ignore


def executor_config(values: dict[str, Any]) -> Any:
    """Return what an executor asks of Kubernetes; an unknown field is an error."""
    return json_format.ParseDict(values, KubernetesExecutorConfig())


def pod(container: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Return the pod of a step, of the container that its executor names and of what it asks of Kubernetes."""
    config = executor_config(asked)
    resources = container.get("resources", {})
    amounts: dict[str, dict[str, str]] = {"requests": {}, "limits": {}}
    for kind, name in (("requests", "Request"), ("limits", "Limit")):
        for what, key in (("cpu", "Cpu"), ("memory", "Memory")):
            if f"resource{key}{name}" in resources:
                amounts[kind][what] = resources[f"resource{key}{name}"]
    if "accelerator" in resources:
        amounts["limits"][resources["accelerator"]["resourceType"]] = resources["accelerator"]["resourceCount"]
    claims = [(mount.constant, mount) for mount in config.pvc_mount]
    secrets = [
        {
            "name": pair.env_var,
            "valueFrom": {
                "secretKeyRef": {
                    "name": secret.secret_name,
                    "key": pair.secret_key,
                    "optional": secret.optional,
                }
            },
        }
        for secret in config.secret_as_env
        for pair in secret.key_to_env
    ]
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "main",
                "image": container["image"],
                "command": container["command"],
                "args": container["args"],
                "env": [*container.get("env", []), *secrets],
                "resources": amounts,
                "volumeMounts": [
                    *(
                        {
                            "name": name,
                            "mountPath": mount.mount_path,
                            **({"subPath": mount.sub_path} if mount.sub_path else {}),
                        }
                        for name, mount in claims
                    ),
                    *({"name": mount.volume_name, "mountPath": mount.mount_path} for mount in config.empty_dir_mounts),
                ],
                **({"imagePullPolicy": config.image_pull_policy} if config.image_pull_policy else {}),
            }
        ],
        "volumes": [
            *({"name": name, "persistentVolumeClaim": {"claimName": name}} for name, _ in claims),
            *(
                {"name": mount.volume_name, "emptyDir": {"medium": mount.medium, "sizeLimit": mount.size_limit}}
                for mount in config.empty_dir_mounts
            ),
        ],
        "nodeSelector": dict(config.node_selector.labels),
        "tolerations": [_toleration(toleration) for toleration in config.tolerations],
        "imagePullSecrets": [{"name": secret.secret_name} for secret in config.image_pull_secret],
    }
    if config.active_deadline_seconds:
        spec["activeDeadlineSeconds"] = config.active_deadline_seconds
    metadata = {
        "name": "step",
        "labels": dict(config.pod_metadata.labels),
        "annotations": dict(config.pod_metadata.annotations),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _toleration(toleration: Any) -> dict[str, Any]:
    fields = {
        "key": toleration.key,
        "operator": toleration.operator,
        "value": toleration.value,
        "effect": toleration.effect,
    }
    seconds = {"tolerationSeconds": toleration.toleration_seconds} if toleration.HasField("toleration_seconds") else {}
    return {name: value for name, value in fields.items() if value} | seconds
