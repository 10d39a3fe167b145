"""The pipeline by Kubeflow's local runner, each step in a container: a program, for the runner changes global state.

Called with a configuration's file, the image, the folder of KFP's files, the folder that stands for ``~/.aws``, the
addresses of store and MLflow, and the version of metantk that the pipeline is to be of.
"""

import os
import sys
from pathlib import Path

from kfp import local

from metantk_core.config import RunConfig
from pipelines import search_and_meta_train
from pipelines.profile import Placement, Profile

NOBODYS = "1000620000:0"
"""A user as OpenShift chooses one: of group 0, with a number that no file of the image names."""


def main(configuration: str, image: str, root: str, account: str, store: str, tracking_uri: str, version: str) -> None:
    """Run the pipeline."""
    os.umask(0)  # what the runner makes as this user, the steps write into as theirs
    runner = local.DockerRunner(
        user=NOBODYS,
        read_only=True,
        tmpfs={"/tmp": "mode=1777,size=1g"},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="host",
        mounts=[{"Type": "bind", "Source": account, "Target": "/tmp/.aws", "ReadOnly": True}],
        environment={"OMP_NUM_THREADS": "1"},  # two steps at a time, each with all cores, would wait for each other
    )
    local.init(runner, pipeline_root=root)
    search_and_meta_train.__version__ = version
    config = RunConfig.from_json(Path(configuration).read_text(encoding="utf-8"))
    profile = Profile(defaults=Placement(image=image, retries=None))
    search_and_meta_train.build(config, profile)(store=store, tracking_uri=tracking_uri)


if __name__ == "__main__":
    main(*sys.argv[1:])
