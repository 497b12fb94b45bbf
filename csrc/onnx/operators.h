#pragma once

#include "onnx/graph.h"

namespace datasentinel::onnx {

/// Throws Error{invalid_model} naming the node where a graph is not one: a standard operator has too few or
/// too many inputs or outputs or an attribute of another kind, a constant that picks, counts or shapes does
/// not hold whole numbers, a value is defined twice, or nothing defines a value that is read.
///
/// Operators that the table in operators.cpp does not know are only checked for the names they read.
void require_well_formed(const Graph& graph);

/// Throws Error{invalid_model} where a Constant node has not exactly one output and one value.
void require_constant(const Node& node);

}  // namespace datasentinel::onnx
