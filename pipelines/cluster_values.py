"""What a cluster is asked for: texts of a person enter, values that Kubernetes and KFP's compiler take leave."""

import re
from fractions import Fraction

from metantk_core.adapters.addresses import admit_bucket, may_hold_secret, refuse_secrets, scheme, shown
from metantk_core.errors import InputError, quoted
from metantk_core.secrecy import may_be_secret

MOST_RETRIES = 20
"""Of a step: the wait doubles each time, up to an hour, so these take most of a day."""
SHARED_MEMORY_VOLUME = "shared-memory"
"""What the volume at /dev/shm is called in pods."""
_TAKEN_FOLDERS = ("/dev", "/proc", "/sys", "/etc", "/usr", "/bin", "/lib", "/opt/metantk", "/kfp-launcher")
_LONGEST_QUANTITY = 40  # characters
_MOST_CPU = Fraction(1024)
_LEAST_MEMORY = Fraction(2**20)  # 1 Mi: less is a unit that was left out
_MOST_MEMORY = Fraction(2**50)  # 1 Pi
_MEANT = {"": "Gi", "m": "Mi"}
"""Units that people mean who leave them out, or write them as other programs do."""

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
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET_KEY = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_DURATION = re.compile(r"(?P<number>[1-9][0-9]{0,6})(?P<unit>[smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

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
        InputError: It is no Kubernetes quantity, no whole number of bytes, less than 1Mi, or more than a machine has.
    """
    if not text:
        return ""
    size = _quantity(text)
    if size is None or not _LEAST_MEMORY <= size <= _MOST_MEMORY or size % 1:
        number = re.fullmatch(r"([1-9][0-9]{0,3})(m?)", text)  # 16 is 16 bytes, 512m half of one
        hint = f" (did you mean {number[1]}{_MEANT[number[2]]}?)" if number else ""
        raise InputError(
            "Expected a memory request as Kubernetes writes it, such as 16G, 1.5Gi or 512Mi (no B at the end), from "
            f"1Mi to 1Pi, got {quoted(text)}{hint}; give another one."
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


def seconds(duration: str) -> int:
    """Return the seconds of a duration such as ``90s``, ``30m``, ``6h`` or ``7d``.

    Raises:
        InputError: It is none, or longer than a year.
    """
    parts = _DURATION.fullmatch(duration)
    found = int(parts["number"]) * _SECONDS[parts["unit"]] if parts else 0
    if not 0 < found <= 366 * _SECONDS["d"]:
        raise InputError(
            f"Expected a duration as a whole number with its unit, such as 90s, 30m, 6h or 7d, of at most a year, got "
            f"{quoted(duration)}."
        )
    return found


def admit_object_name(name: str) -> str:
    """Return the name of a secret or a queue in Kubernetes.

    Raises:
        InputError: It is none.
    """
    if not _DOMAIN.fullmatch(name):
        raise InputError(
            "Expected a name as Kubernetes has them, of small letters, digits, '-' and '.', such as metantk-s3, got "
            f"{quoted(name)}; kubectl get shows what there is."
        )
    return name


def admit_claim(name: str) -> str:
    """Return the name of a volume claim, which becomes the name of a volume in the pod.

    Raises:
        InputError: It is none, or one that no volume can have.
    """
    if not re.fullmatch(_LABEL, name) or name == SHARED_MEMORY_VOLUME:
        raise InputError(
            "Expected the name of a volume claim of at most 63 small letters, digits and '-', which KFP names the "
            f"pod's volume after, and not {SHARED_MEMORY_VOLUME}, got {quoted(name)}; see kubectl get pvc."
        )
    return name


def admit_mount(path: str) -> str:
    """Return the folder of a pod that a volume is mounted at.

    Raises:
        InputError: It is none, or one that the pod's own files or KFP's are in.
    """
    parts = path.split("/")
    taken = any(path == own or path.startswith(f"{own}/") for own in _TAKEN_FOLDERS)
    if not path.startswith("/") or len(path) > 500 or path == "/" or ":" in path or taken or not path.isprintable():
        raise InputError(
            f"Expected an absolute folder for a volume, such as /data, and none of {', '.join(_TAKEN_FOLDERS)}, got "
            f"{quoted(path)}."
        )
    if any(part in ("", ".", "..") for part in parts[1:]):
        raise InputError(f"Expected a folder for a volume without '.', '..' and '//', got {quoted(path)}.")
    return path


def admit_sub_path(path: str) -> str:
    """Return the folder within a volume that is mounted; empty for all of it.

    Raises:
        InputError: It leads out of the volume.
    """
    if path and (any(part in ("", ".", "..") for part in path.split("/")) or not path.isprintable() or ":" in path):
        raise InputError(f"Expected a folder within the volume, such as mini-imagenet, got {quoted(path)}.")
    return path


def admit_variable(name: str) -> str:
    """Return the name of an environment variable.

    Raises:
        InputError: It is none, or one that KFP sets itself.
    """
    if not _VARIABLE.fullmatch(name) or name.startswith(("KFP_", "ARGO_", "KUBERNETES_")):
        raise InputError(
            "Expected the name of an environment variable of letters, digits and '_', none that starts with KFP_, "
            f"ARGO_ or KUBERNETES_, got {quoted(name)}."
        )
    return name


def admit_secret_key(key: object) -> str:
    """Return the key of a value within a secret.

    Raises:
        InputError: It is none.
    """
    if not isinstance(key, str) or not _SECRET_KEY.fullmatch(key):
        raise InputError(
            "Expected the key of a value within the secret, of letters, digits, '-', '_' and '.' (what came is not "
            "shown: it may be the secret); kubectl describe secret shows the keys."
        )
    return key


def admit_label_key(key: str) -> str:
    """Return the key of a label or annotation.

    Raises:
        InputError: It is none.
    """
    prefix, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or (slash and not _DOMAIN.fullmatch(prefix)):
        raise InputError(
            "Expected the key of a label or annotation as Kubernetes has them, such as team or example.org/team, got "
            f"{quoted(key)}."
        )
    return key


def admit_label(value: str) -> str:
    """Return the value of a label.

    Raises:
        InputError: It is none.
    """
    if value and not _NAME.fullmatch(value):
        raise InputError(
            "Expected the value of a label of at most 63 letters, digits, '-', '_' and '.', a letter or digit at both "
            f"ends, got {quoted(value)}; put numbers, true and false in quotes."
        )
    return value


def admit_addresses(store: str, tracking_uri: str, kubeflow: str = "") -> None:
    """Do nothing for addresses that every pod can use and that hold no secret; empty ones are set at submission.

    Raises:
        InputError: One may hold a secret, means something on one machine alone, or is of a kind that no pod can use.
    """
    for address in (tracking_uri, store):
        refuse_secrets(address)
        _refuse_known(address)
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
    _refuse_known(kubeflow)
    for address in (store, tracking_uri, kubeflow):
        if len(address) > 1000 or any(part in ("..", ".") for part in address.split("/")):
            raise InputError(
                f"Expected an address without '.' and '..' of at most 1,000 characters, got {quoted(address)}."
            )


def _refuse_known(address: str) -> None:
    """Do nothing for an address whose host and path hold none of this process's own secrets, nor what looks like one.

    Raises:
        InputError: They do.
    """
    if may_be_secret("", address):
        raise InputError(
            "An address (not shown) may hold a secret, such as one of this process's own, and everybody can read what "
            "is compiled with it; give addresses without, and secrets to the pods."
        )


def quantity(text: str) -> Fraction:
    """Return what a quantity that was admitted amounts to: cores, or bytes."""
    found = _quantity(text)
    assert found is not None
    return found


def _quantity(text: str) -> Fraction | None:
    parts = _QUANTITY.fullmatch(text)
    if parts is None or len(text) > _LONGEST_QUANTITY:
        return None
    unit = parts["unit"] or "e0"
    return Fraction(parts["number"].rstrip(".")) * (_UNITS[unit] if unit in _UNITS else Fraction(f"1{unit}"))
