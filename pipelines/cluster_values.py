"""What a cluster is asked for: texts of a person enter, values that Kubernetes and KFP's compiler take leave."""

import re
from fractions import Fraction

from metantk_core.adapters.addresses import admit_bucket, may_hold_secret, refuse_secrets, scheme, shown
from metantk_core.errors import InputError, quoted

MOST_RETRIES = 20
"""Of a step: the wait doubles each time, up to an hour, so these take most of a day."""
_LONGEST_QUANTITY = 40  # characters
_MOST_CPU = Fraction(1024)
_MOST_MEMORY = Fraction(2**50)  # 1 Pi

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]*)?|\.[0-9]+)(?P<unit>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?")
_UNITS = {
    **{f"{letter}i": Fraction(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
    **{
        letter: Fraction(1000) ** power
        for power, letter in zip((-3, -2, -1, 1, 2, 3, 4, 5, 6), "numkMGTPE", strict=True)
    },
}

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

# https://github.com/distribution/reference: host[:port]/path[:tag][@digest]
_PART = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_IMAGE = re.compile(rf"({_REGISTRY}/)?{_PART}(/{_PART})*(:{_TAG})?(@sha256:[0-9a-f]{{64}})?")


def cpu_request(text: str) -> str:
    """Return a CPU request in the form that KFP takes, equal to the quantity of a text; empty for an empty one.

    Raises:
        InputError: It is no Kubernetes quantity, less than a thousandth of a core, or more than a machine has.
    """
    if not text:
        return ""
    cores = _quantity(text)
    if cores is None or not Fraction(1, 1000) <= cores <= _MOST_CPU or cores * 1000 % 1:
        raise InputError(
            f"Expected a CPU request as Kubernetes writes it, such as 4, 0.5 or 500m, from 1m to {_MOST_CPU}, got "
            f"{quoted(text)}; give another one."
        )
    return str(int(cores)) if cores == int(cores) else f"{int(cores * 1000)}m"


def memory_request(text: str) -> str:
    """Return a memory request in the form that KFP takes, equal to the quantity of a text; empty for an empty one.

    KFP takes whole numbers alone, and ``K`` where Kubernetes has ``k``: such a quantity is written in bytes.

    Raises:
        InputError: It is no Kubernetes quantity, no whole number of bytes, or more than a machine has.
    """
    if not text:
        return ""
    size = _quantity(text)
    if size is None or not 1 <= size <= _MOST_MEMORY or size % 1:
        raise InputError(
            "Expected a memory request as Kubernetes writes it, such as 16G, 1.5Gi or 512Mi (no B at the end), from 1 "
            f"byte to 1Pi, got {quoted(text)}; give another one."
        )
    return text if re.fullmatch(r"[0-9]+([KMGTP]i|[MGTP])?", text) else str(int(size))


def admit_image(name: str) -> None:
    """Do nothing for the name of a container image.

    Raises:
        InputError: It is none.
    """
    if len(name) > 255 or not _IMAGE.fullmatch(name):
        raise InputError(
            "Expected an image as registry/name:tag or registry/name@sha256:digest, in small letters and without "
            f"spaces or https://, got {quoted(name)}; give such a name."
        )


def admit_accelerator(name: str) -> None:
    """Do nothing for the name of a resource that nodes of a cluster can offer.

    Raises:
        InputError: It is none.
    """
    domain, slash, resource = name.partition("/")
    if not slash or not _DOMAIN.fullmatch(domain) or "." not in domain or not _NAME.fullmatch(resource):
        raise InputError(
            f"Expected an accelerator as nodes offer it, such as nvidia.com/gpu or amd.com/gpu, got {quoted(name)}; "
            "see 'Allocatable' in kubectl describe node."
        )


def admit_addresses(store: str, tracking_uri: str, kubeflow: str = "") -> None:
    """Do nothing for addresses that every pod can use and that hold no secret; empty ones are set at submission.

    Raises:
        InputError: One may hold a secret, means something on one machine alone, or is of a kind that no pod can use.
    """
    for address in (tracking_uri, store):
        refuse_secrets(address)
    if tracking_uri and (scheme(tracking_uri).partition("+")[0] not in ("http", "https", "postgresql")):
        raise InputError(
            "Expected MLflow's address as pods see it, which starts with http://, https:// or postgresql://, got "
            f"{shown(tracking_uri)}; a file on this machine is none."
        )
    if tracking_uri.endswith("://"):
        raise InputError(f"Expected a host after {tracking_uri}; give MLflow's address as pods see it.")
    if scheme(store) == "s3":
        admit_bucket(store)
    elif store and (scheme(store) not in ("", "file") or not store.removeprefix("file://").startswith("/")):
        raise InputError(
            f"Expected the store as an absolute folder that all pods mount, such as /mnt/store, or as a bucket, "
            f"s3://bucket/prefix, got {shown(store)}."
        )
    if kubeflow and (
        scheme(kubeflow) not in ("http", "https") or kubeflow.endswith("://") or may_hold_secret(kubeflow)
    ):
        raise InputError(
            "Expected the address of Kubeflow's pages as people see it, which starts with http:// or https://, without "
            f"'#', '?' and what follows, or a user and password, such as https://kubeflow.example/pipeline, got "
            f"{shown(kubeflow)}."
        )
    for address in (store, tracking_uri, kubeflow):
        if len(address) > 1000 or any(part in ("..", ".") for part in address.split("/")):
            raise InputError(
                f"Expected an address without '.' and '..' of at most 1,000 characters, got {quoted(address)}."
            )


def _quantity(text: str) -> Fraction | None:
    parts = _QUANTITY.fullmatch(text)
    if parts is None or len(text) > _LONGEST_QUANTITY:
        return None
    unit = parts["unit"] or "e0"
    return Fraction(parts["number"].rstrip(".")) * (_UNITS[unit] if unit in _UNITS else Fraction(f"1{unit}"))
