"""What commands that speak to Kubeflow share: where it is and as whom, and the pipeline that they are about."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metantk_core.command_line.cluster import cluster_profile
from metantk_core.command_line.options import configuration
from metantk_core.errors import InputError

if TYPE_CHECKING:
    from metantk_core.adapters.kubeflow.client import KubeflowCluster
    from metantk_core.adapters.kubeflow.package import Package

What = Annotated[
    str, typer.Argument(metavar="RECIPE|PIPELINE.YAML", help="A recipe, a configuration file, or a compiled pipeline.")
]
Host = Annotated[
    str,
    typer.Option(
        envvar="METANTK_KUBEFLOW",
        metavar="ADDRESS",
        help="Kubeflow Pipelines, such as https://kubeflow.example/pipeline. A token belongs into "
        "METANTK_KUBEFLOW_TOKEN, a cookie into METANTK_KUBEFLOW_COOKIE.",
    ),
]
Namespace = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", envvar="METANTK_KUBEFLOW_NAMESPACE", help="Namespace, of a Kubeflow that teams share."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="METANTK_KUBEFLOW_TOKEN_FILE",
        help="File with a token, such as that of a service account; it is read again when it is renewed.",
    ),
]
Authority = Annotated[
    Path | None,
    typer.Option("--ca", envvar="METANTK_KUBEFLOW_CA", help="Certificates (PEM) that vouch for the server."),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="Give the pipeline's parameter a value; repeatable."),
]
Experiment = Annotated[str, typer.Option(help="What runs are shown under in Kubeflow; made if it is not there.")]
ServiceAccount = Annotated[
    str, typer.Option(help="Kubernetes service account of the pods; default: the namespace's own.")
]
Image = Annotated[
    str | None,
    typer.Option(help="Of a recipe: image that holds metantk_core; default: the profile's, or the release's."),
]
PodsStore = Annotated[
    str, typer.Option("--store", help="Of a recipe: what keeps finished work, as pods see it; see `metantk compile`.")
]
PodsTracking = Annotated[str, typer.Option("--tracking-uri", help="Of a recipe: MLflow as pods see it.")]
Zone = Annotated[
    str,
    typer.Option(
        "--timezone",
        metavar="ZONE",
        help="Time zone of the cluster, in which times are shown, such as Europe/Berlin. It changes nothing there.",
    ),
]


def cluster(host: str, namespace: str, token_file: Path | None, authority: Path | None) -> "KubeflowCluster":
    """Return the cluster that a command's options name.

    Raises:
        InputError: It does not answer, or refuses.
    """
    from metantk_core import wiring

    found = wiring.cluster(host, namespace, token_file, authority)
    if found.ignores_namespace:
        typer.echo("This Kubeflow has one namespace for all: --namespace is not used.", err=True)
    return found


@dataclass(frozen=True)
class Work:
    """The pipeline that a command is about: a compiled one, or a recipe with what is settled when it is compiled.

    Attributes:
        name: A recipe, a configuration file, or a compiled pipeline.
        overrides: Settings of a recipe.
        seed: Seed of a recipe.
        profile: What the cluster of a recipe is; none for one of which nothing is asked.
        image: Image of a recipe's pods; none for the profile's, or this release's.
        store: What keeps finished work of a recipe, as pods see it.
        tracking_uri: MLflow for a recipe, as pods see it.
    """

    name: str
    overrides: list[str] | None
    seed: int | None
    profile: str | None
    image: str | None
    store: str
    tracking_uri: str

    def admit(self) -> None:
        """Do nothing if it can be had, as far as that is known before anything large is imported.

        Raises:
            InputError: It is no recipe and no file, or what is settled by compiling is given for a compiled pipeline.
        """
        from metantk_core.adapters.kubeflow.package import is_package

        if not is_package(Path(self.name)):
            configuration(self.name, self.overrides, self.seed)
            return
        given = {
            "--set": self.overrides,
            "--seed": self.seed is not None,
            "--profile": self.profile,
            "--image": self.image,
            "--store": self.store,
            "--tracking-uri": self.tracking_uri,
        }
        if settled := [option for option, value in given.items() if value]:
            raise InputError(
                f"Expected a recipe with {settled[0]}, got a compiled pipeline, in which that is settled; give "
                "--param, or compile it anew."
            )

    def package(self) -> "Package":
        """Return the compiled pipeline; a recipe is compiled as `metantk compile` does.

        Raises:
            InputError: It can't be compiled or read.
        """
        from metantk_core.adapters.kubeflow.package import is_package, read_package

        if is_package(Path(self.name)):
            return read_package(Path(self.name))
        config = configuration(self.name, self.overrides, self.seed)
        profile = cluster_profile(self.profile, everywhere={"image": self.image})

        from pipelines import search_and_meta_train

        with tempfile.TemporaryDirectory() as folder:
            compiled = Path(folder) / "pipeline.yaml"
            search_and_meta_train.write(config, compiled, profile, store=self.store, tracking_uri=self.tracking_uri)
            return read_package(compiled)

    @property
    def short_name(self) -> str:
        """What a person calls it: the recipe's name, or the file's."""
        return Path(self.name).stem


def given_arguments(compiled: "Package", texts: list[str] | None) -> dict[str, object]:
    """Return values of a pipeline's parameters as KFP takes them; those of our own are looked at before a pod does.

    Args:
        compiled: The pipeline.
        texts: ``NAME=VALUE``, each.

    Raises:
        InputError: One is none of its type, or one that a step of ours would refuse.
    """
    from metantk_core.config import RunConfig
    from metantk_core.search.config import MOST_SHARDS
    from pipelines.cluster_values import admit_addresses

    given = compiled.arguments(texts or ())
    if "config" not in compiled.parameters:
        return given
    if "config" in given:
        RunConfig.from_json(str(given["config"]))
    for name, least in (("shards", 0), ("most_shards", 1)):
        value = given.get(name, least)
        if not isinstance(value, int) or not least <= value <= MOST_SHARDS:
            raise InputError(f"Expected {name} from {least} to {MOST_SHARDS}, got {value}; give another number.")
    store, tracking_uri, kubeflow = (str(given.get(name, "")) for name in ("store", "tracking_uri", "kubeflow"))
    admit_addresses(store, tracking_uri, kubeflow)
    return given
