"""Building ONNX graphs node by node.

Graphs are built directly rather than traced: they are chains of well-known operators, each with a name that
says what it does, which every runtime and our own lowering can rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

OPSET = 18
# The oldest file format that may carry opset 18, for the sake of older readers.
_IR_VERSION = 8


class GraphBuilder:
    """Nodes and constants in the order in which they were added; a node is named after what it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add a constant and return its name; one that is there already is used again."""
        if name not in self._known:
            self._known.add(name)
            self.constants.append(numpy_helper.from_array(value, name))
        return name

    def number(self, value: float) -> str:
        """Add a float32 number, named after itself."""
        return self.constant(f"{value:.9g}", np.array(value, np.float32))

    def features(self) -> str:
        """Add the axis of the features, which reductions take as an input."""
        return self.constant("feature_axis", np.array([1]))

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str,
        attributes: Mapping[str, float] | None = None,
    ) -> str:
        """Add a node with one output that is read, and return that output's name."""
        node = helper.make_node(operator, inputs, [output], name=output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
        self.nodes.append(node)
        return output

    def add_smallest(self, values: str, count: int, output: str) -> str:
        """Add the `count` smallest columns of each row, in any order; return the name."""
        k = self.constant(f"{output}_count", np.array([count]))
        self.add("TopK", [values, k], output, {"axis": 1, "largest": 0, "sorted": 0})
        self.nodes[-1].output.append(f"{output}_indices")
        return output

    def finish(self, name: str, width: int, *, state: int = 0) -> bytes:
        """Return the ONNX file: `input`, and the outputs `score` [batch], `output` and `contributions`.

        `input`, `output` and `contributions` are [batch, D]; all are float32. With a `state` of so many
        columns there are also an input `state` and an output `state_next`.
        """

        def tensor(tensor_name: str, *columns: int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(tensor_name, TensorProto.FLOAT, ["batch", *columns])

        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                name,
                [tensor("input", width), *([tensor("state", state)] if state else [])],
                [
                    tensor("score"),
                    tensor("output", width),
                    tensor("contributions", width),
                    *([tensor("state_next", state)] if state else []),
                ],
                self.constants,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name="datasentinel",
        )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
