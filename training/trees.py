"""A teacher's trees as nodes of an ONNX graph: what they say of a row is what LightGBM says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.teacher import Teacher, dumped, float32_below

DOMAIN, OPSET = "ai.onnx.ml", 5

_AT_MOST, _ONE_OF = 0, 6  # how a node of TreeEnsemble asks
_SUM, _AS_IT_IS = 1, 0


def say_in_graph(graph: onnx.ModelProto, teacher: Teacher, told: str) -> None:
    """Compute an input of the graph, (batch,) log-odds, by the teacher's trees from `numeric` and `categorical`.

    Args:
        graph: which gets the trees in front and loses the input.
        teacher: whose log-odds they are.
        told: the input's name.
    """
    inner = graph.graph
    (place,) = (index for index, given in enumerate(inner.input) if given.name == told)
    del inner.input[place]
    seen = ["numeric"]
    nodes = []
    if any(given.name == "categorical" for given in inner.input):
        nodes.append(helper.make_node("Cast", ["categorical"], ["codes"], to=TensorProto.FLOAT))
        seen.append("codes")
    nodes += [
        helper.make_node("Concat", seen, ["tree_columns"], axis=1),
        helper.make_node("TreeEnsemble", ["tree_columns"], ["tree_sums"], domain=DOMAIN, **_attributes(teacher)),
        helper.make_node("Constant", [], ["tree_axis"], value=numpy_helper.from_array(np.array([1], np.int64))),
        helper.make_node("Squeeze", ["tree_sums", "tree_axis"], [told]),
    ]
    for index, node in enumerate(nodes):
        inner.node.insert(index, node)
    graph.opset_import.append(helper.make_opsetid(DOMAIN, OPSET))


@dataclass(slots=True)
class _Nodes:
    """The nodes and leaves of all trees, in the columns that the operator wants."""

    feature: list[int] = field(default_factory=list)
    mode: list[int] = field(default_factory=list)
    split: list[np.float32] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    missing_is_true: list[int] = field(default_factory=list)
    children: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    are_leaves: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    leaf: list[float] = field(default_factory=list)

    def add_tree(self, structure: Mapping[str, Any]) -> int:
        """Its nodes; answers with the place of its root."""
        if "split_feature" not in structure:  # a tree of one leaf: the operator knows none, so both ways lead to it
            structure = {
                "split_feature": 0, "decision_type": "<=", "threshold": 0.0, "missing_type": "None",
                "left_child": structure, "right_child": structure,
            }  # fmt: skip
        return self._add_split(structure)

    def _add_split(self, split: Mapping[str, Any]) -> int:
        place = len(self.feature)
        self.feature.append(split["split_feature"])
        if split["decision_type"] == "==":
            self.mode.append(_ONE_OF)
            self.split.append(np.float32(0))
            self.members += [*map(float, split["threshold"].split("||")), np.nan]  # each set ends so
            self.missing_is_true.append(0)
        else:
            self.mode.append(_AT_MOST)
            self.split.append(float32_below(split["threshold"]))
            self.missing_is_true.append(int(_goes_left(split)))
        for way in (True, False):
            self.children[way].append(0)
            self.are_leaves[way].append(0)
        for way, child in ((True, split["left_child"]), (False, split["right_child"])):
            is_leaf = "split_feature" not in child
            self.are_leaves[way][place] = int(is_leaf)
            self.children[way][place] = self._add_leaf(child) if is_leaf else self._add_split(child)
        return place

    def _add_leaf(self, leaf: Mapping[str, Any]) -> int:
        self.leaf.append(leaf["leaf_value"])
        return len(self.leaf) - 1


def _attributes(teacher: Teacher) -> dict[str, Any]:
    """Of the operator TreeEnsemble: the members' mean, and the teacher's line in the leaves."""
    nodes = _Nodes()
    roots, firsts = [], []
    for member in teacher.members:
        for number, tree in enumerate(dumped(member)):
            before = len(nodes.leaf)
            roots.append(nodes.add_tree(tree))
            if number == 0:
                firsts.append(slice(before, len(nodes.leaf)))
    weights = np.array(nodes.leaf) * teacher.line.slope
    for first in firsts:  # every row ends in one leaf of each tree, so that one tree of each member can bear it
        weights[first] += teacher.line.intercept
    weights /= len(teacher.members)
    return {
        "aggregate_function": _SUM,
        "post_transform": _AS_IT_IS,
        "n_targets": 1,
        "tree_roots": roots,
        "nodes_featureids": nodes.feature,
        "nodes_modes": _tensor(np.array(nodes.mode, np.uint8)),
        "nodes_splits": _tensor(np.array(nodes.split, np.float32)),
        "nodes_missing_value_tracks_true": nodes.missing_is_true,
        "nodes_truenodeids": nodes.children[True],
        "nodes_trueleafs": nodes.are_leaves[True],
        "nodes_falsenodeids": nodes.children[False],
        "nodes_falseleafs": nodes.are_leaves[False],
        "leaf_targetids": [0] * len(nodes.leaf),
        "leaf_weights": _tensor(weights.astype(np.float32)),
        **({"membership_values": _tensor(np.array(nodes.members, np.float32))} if nodes.members else {}),
    }


def _goes_left(split: Mapping[str, Any]) -> bool:
    """What is missing goes where LightGBM sends it: where it learned to, or as a 0 if it never saw one."""
    return bool(split["default_left"]) if split["missing_type"] == "NaN" else split["threshold"] >= 0


def _tensor(values: np.ndarray[Any, np.dtype[Any]]) -> TensorProto:
    return numpy_helper.from_array(values)
