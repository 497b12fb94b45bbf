#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backends/fused/operators.h"
#include "core/error.h"

namespace datasentinel::fused {

using onnx::Node;

// Support vector machines.

namespace {

/// The attribute's numbers, which must be finite.
std::vector<double> numbers_of(const Node& node, std::string_view name) {
  const onnx::Attribute* found = node.attribute(name);
  if (found == nullptr) return {};
  if (!std::ranges::all_of(found->reals, [](float x) { return std::isfinite(x); })) {
    throw Error(ErrorCode::invalid_model,
                node.describe() + " has a number in \"" + std::string(name) + "\" that is not finite");
  }
  return {found->reals.begin(), found->reals.end()};
}

std::string text_of(const Node& node, std::string_view name, std::string otherwise) {
  const onnx::Attribute* found = node.attribute(name);
  if (found != nullptr) return found->text;
  return otherwise;
}

/// Point after point, as the columns of a layer that multiplies with each.
Dense columns_of(std::span<const double> points, std::size_t width, double factor) {
  Dense layer;
  layer.inputs = width;
  layer.outputs = points.size() / width;
  std::vector<double> weights(points.size());
  for (std::size_t n = 0; n < layer.outputs; ++n) {
    for (std::size_t k = 0; k < width; ++k) {
      weights[k * layer.outputs + n] = factor * points[n * width + k];
    }
  }
  layer.weights = std::move(weights);
  return layer;
}

}  // namespace

/// The sum over the support vectors v of coefficient times kernel(x, v), plus rho. Without vectors, the
/// coefficients are those of the columns.
Symbol Operators::support_vectors(const Node& node) {
  Symbol& x = input(node, 0);
  if (!x.shape.is_matrix()) refuse(node, "its input is not a matrix");
  if (node.integer_or("one_class", 0) != 0) refuse(node, "one_class leaves a sign and no score");
  if (text_of(node, "post_transform", "NONE") != "NONE")
    refuse(node, "it knows the post_transform NONE only");
  const std::vector<double> vectors = numbers_of(node, "support_vectors");
  const std::vector<double> coefficients = numbers_of(node, "coefficients");
  const std::vector<double> rho = numbers_of(node, "rho");
  std::vector<double> parameters = numbers_of(node, "kernel_params");
  if (parameters.empty()) parameters.resize(3, 0.0);
  const auto count = static_cast<std::uint64_t>(node.integer_or("n_supports", 0));
  const bool fits = count == 0 ? vectors.empty() && coefficients.size() == x.width
                               : vectors.size() / x.width == count && vectors.size() % x.width == 0 &&
                                     coefficients.size() == count;
  if (!fits || rho.size() != 1 || parameters.size() != 3) {
    throw Error(ErrorCode::invalid_model,
                node.describe() +
                    " has support vectors, coefficients, kernel_params or rho that do not fit " +
                    std::to_string(count) + " vectors of " + std::to_string(x.width) + " columns");
  }
  const double gamma = parameters[0];
  const double offset = parameters[1];
  const double degree = parameters[2];
  const std::string kernel = count == 0 ? "LINEAR" : text_of(node, "kernel_type", "LINEAR");
  if (kernel == "LINEAR") {
    std::vector<double> weights = count == 0 ? coefficients : std::vector<double>(x.width, 0.0);
    for (std::size_t i = 0; i < vectors.size(); ++i) {
      weights[i % x.width] += coefficients[i / x.width] * vectors[i];
    }
    return builder_.add(builder_.dense(columns_of(weights, x.width, 1), x), rho);
  }
  Symbol kernels;
  if (kernel == "RBF") {
    // Not |x|^2 - 2 x v + |v|^2, which loses what x and v have in common.
    kernels = builder_.distances(columns_of(vectors, x.width, 1), x, -gamma, {.function = Function::exp});
  } else if (kernel == "SIGMOID" || kernel == "POLY") {
    Symbol products = builder_.add(builder_.dense(columns_of(vectors, x.width, gamma), x),
                                   std::vector<double>(coefficients.size(), offset));
    if (kernel == "POLY" && !is_whole_power(degree)) {
      refuse(node, "its degree is not a whole number from 1 to " + std::to_string(kMostPower));
    }
    kernels = kernel == "POLY" ? whole_power(products, static_cast<int>(degree))
                               : builder_.apply({.function = Function::tanh}, products, true);
  } else {
    refuse(node, "it does not know the kernel " + kernel);
  }
  Symbol terms = builder_.multiply(std::move(kernels), coefficients);
  return builder_.add(builder_.sum(terms, 1), rho);
}

}  // namespace datasentinel::fused
