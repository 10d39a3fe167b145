"""4-CONV by MAML and ANIL reaches what learn2learn's own loop reaches, on the same episodes and settings."""

import pytest

from benchmarks.learn2learn_loop import TRAINING, compared, glyphs

SHORT = TRAINING.model_copy(update={"iterations": 20, "validate_every": 20, "validation_episodes": 5})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return glyphs(tmp_path_factory.mktemp("glyphs"))


@pytest.mark.minutes
@pytest.mark.parametrize("algorithm", ["maml", "anil"])
def test_training_here_and_by_the_loop_of_learn2learn_differ_by_nothing_that_episodes_show(algorithm, images):
    found = compared(algorithm, TRAINING, 600, images)
    assert abs(found.difference) <= found.half_width  # the 95 % interval of the paired difference contains 0
    assert found.half_width < 0.01  # and is narrower than 2 points
    assert found.ours > found.untrained + 0.1  # both have learned


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [pytest.param("maml", marks=pytest.mark.minutes), "anil"])
def test_the_first_steps_are_the_same(algorithm, images):
    found = compared(algorithm, SHORT, 20, images)
    assert found.equal == 1
