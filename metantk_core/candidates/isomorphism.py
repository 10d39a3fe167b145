"""Which NAS-Bench-201 cells are one network in disguise: operations of the edges enter, a text of the class leaves.

Cells with equal texts are of one class. ``nasbench201`` numbers the cells and picks one of each class.
"""

from collections.abc import Mapping
from typing import Literal

Equivalence = Literal["benchmark", "function"]
"""What makes two cells one: the benchmark's text (``expansion``), or the function that they compute (``function``)."""

#: The operation on each edge (source, target) of a cell.
Operations = Mapping[tuple[int, int], str]

_LAST = 3


def expansion(operations: Operations) -> str:
    """Return the expression by which NAS-Bench-201 counts 6,466 unique cells (Dong & Yang 2020).

    A node is the sorted sum of its incoming edges, written out down to the input; that number follows from exactly
    these simplifications: ``none`` is the zero ``#``, and so is any edge from a node that reads ``#``; ``skip_connect``
    gives the text of its source, without brackets around it, and sums are commutative. Zeros remain as terms, so that
    the node ``#+#`` is no zero, and what is applied to it counts as something. And the expression doesn't say whether
    two equal terms are one edge whose output is used twice, or two edges, each with weights of its own.

    Args:
        operations: The operation on each edge of the cell.
    """
    nodes = ["0"]
    for target in range(1, _LAST + 1):
        terms = []
        for source, node in enumerate(nodes):
            name = operations[source, target]
            if name == "none" or node == "#":
                terms.append("#")
            else:
                terms.append(node if name == "skip_connect" else f"({node})@{name}")
        nodes.append("+".join(sorted(terms)))
    return nodes[_LAST]


def function(operations: Operations) -> str:
    """Return a text that is equal for two cells if and only if they compute the same function but for weights' names.

    Every convolution (with its normalisation) has weights of its own and stands for any function that takes 0 to 0.
    That allows these simplifications, and no others: ``none`` and whatever leaves a node without input vanish,
    ``skip_connect`` is the identity, sums are commutative and associative (but ``x + x`` is not ``x``), average pooling
    is linear, and renaming weights changes nothing. Weights that nothing depends on do not count. "0 to 0" holds for
    untrained networks, whose normalisations shift by 0: then a score of outputs and gradients has the same distribution
    for all members of a class, while ``params``, ``flops`` and what looks at ReLUs see dead branches, too.

    Args:
        operations: The operation on each edge of the cell.
    """
    # Of all edges only the one into node 1 can be used twice, by way of node 2 and directly: any other convolution in
    # the expression is another one, so that no names are needed to tell them apart.
    shared = "none" not in (operations[1, 2], operations[2, 3], operations[1, 3])
    nodes: list[list[str]] = [["x"]]
    for target in range(1, _LAST + 1):
        terms = []
        for source, node in enumerate(nodes):
            name = operations[source, target]
            if name == "none" or not node:
                continue
            if name == "skip_connect":
                terms += node
            elif name == "avg_pool_3x3":
                terms += [f"pool {term}" for term in node]
            else:
                once = "one " if shared and target == 1 else ""
                terms.append(f"{once}{name}({_sum(node)})")
        nodes.append(terms)
    return _sum(nodes[_LAST])


def _sum(terms: list[str]) -> str:
    return " + ".join(sorted(terms)) or "0"
