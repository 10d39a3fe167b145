"""Parts of an exported run; a whole one is exported, used and repeated in tests/pipelines/test_pipeline.py."""

from importlib import metadata

import pytest

from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.candidates import PUBLISHED, parse_genotype
from metantk_core.errors import InputError
from metantk_core.meta_training import MamlTraining, ProtoNetTraining, RfsTraining
from metantk_core.workflow import admit_folder, run_config
from metantk_core.workflow.citations import citations
from metantk_core.workflow.exporting import genotype_as_python
from metantk_core.workflow.requirements import requirements


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_genotypes_are_python_that_gives_the_same_network(name):
    space = PUBLISHED[name].space
    genotype = parse_genotype(space, name)
    names: dict[str, object] = {}
    exec(genotype_as_python("run", space, str(genotype)), names)
    assert parse_genotype(space, str(names["genotype"])) == genotype
    assert isinstance(names["genotype"], tuple)


@pytest.mark.parametrize(
    ("training", "author"),
    [
        (MamlTraining(), "Finn"),
        (MamlTraining(algorithm="anil"), "Raghu"),
        (ProtoNetTraining(), "Snell"),
        (RfsTraining(), "Tian"),
    ],
)
def test_citation_names_the_method_and_the_learner(training, author):
    text = citations(training)
    assert text.count("@inproceedings{") == 2
    assert "Wang, Haoxiang" in text
    assert author in text
    assert text.count("{") == text.count("}")


def test_requirements_pin_what_is_installed_and_nothing_that_tests_alone_need():
    lines = requirements().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name in ("torch", "numpy", "mlflow", "kfp", "pydantic"):
        assert pins[name] == metadata.version(name).partition("+")[0]
    assert not {"pytest", "ruff", "learn2learn", "metantk"} & set(pins)


@pytest.mark.parametrize("name", ["smoke-00000000", "../smoke-00000000", "", "a/b"])
def test_a_run_that_is_not_there_is_refused_in_a_sentence(tmp_path, name):
    with pytest.raises(InputError, match="Expected a run that has finished"):
        run_config(FilesystemStore(tmp_path), name)


def test_a_folder_that_holds_something_or_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    admit_folder(tmp_path / "empty")
    admit_folder(tmp_path / "new" / "deep")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="holds something"):
            admit_folder(taken)
