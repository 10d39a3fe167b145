"""While tests run, every call of ours is compared with its annotations, shapes included."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from metantk_core.kernels import KernelBlocks
from metantk_core.networks import count_macs
from metantk_core.seeding import derive


def test_axes_of_one_name_are_one_length():
    query_query, query_support = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 6, dtype=torch.float64)
    KernelBlocks(query_query, query_support, torch.zeros(6, 6, dtype=torch.float64), 2)
    with pytest.raises(BeartypeCallHintViolation):
        KernelBlocks(query_query, query_support, torch.zeros(5, 5, dtype=torch.float64), 2)
    with pytest.raises(BeartypeCallHintViolation):
        KernelBlocks(query_query, query_support, torch.zeros(6, 6), 2)


def test_where_no_shape_is_named_types_are_compared_all_the_same():
    assert derive(0, "a")
    with pytest.raises(BeartypeCallHintViolation):
        derive("a", "a")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BeartypeCallHintViolation):
        count_macs(torch.nn.Linear(1, 1), (1, 1))  # pyright: ignore[reportArgumentType]
