#include "onnx/tensor_reader.h"

#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "onnx/protobuf_reader.h"

namespace datasentinel::onnx {
namespace {

[[noreturn]] void fail(const Tensor& tensor, const std::string& what) {
  throw Error(ErrorCode::invalid_model, "tensor \"" + tensor.name + "\" " + what);
}

/// Bytes per element in raw_data; 0 for types that are not read.
std::size_t element_size(ElementType type) noexcept {
  switch (type) {
    case ElementType::uint8:
    case ElementType::int8:
    case ElementType::boolean: return 1;
    case ElementType::uint16:
    case ElementType::int16:
    case ElementType::float16:
    case ElementType::bfloat16: return 2;
    case ElementType::float32:
    case ElementType::int32:
    case ElementType::uint32: return 4;
    case ElementType::float64:
    case ElementType::int64:
    case ElementType::uint64: return 8;
    default: return 0;
  }
}

double half_to_double(std::uint64_t bits) noexcept {
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const auto exponent = static_cast<int>((bits >> 10) & 0x1F);
  const auto fraction = static_cast<double>(bits & 0x3FF);
  if (exponent == 31) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

/// Appends one element given by the bits that raw_data or int32_data holds for it.
void append_bits(Tensor& tensor, std::uint64_t bits) {
  switch (tensor.type) {
    case ElementType::float32:
      tensor.reals.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
      break;
    case ElementType::float64: tensor.reals.push_back(std::bit_cast<double>(bits)); break;
    case ElementType::float16: tensor.reals.push_back(half_to_double(bits)); break;
    case ElementType::bfloat16:
      tensor.reals.push_back(std::bit_cast<float>(static_cast<std::uint32_t>((bits & 0xFFFF) << 16)));
      break;
    case ElementType::int8: tensor.integers.push_back(static_cast<std::int8_t>(bits)); break;
    case ElementType::int16: tensor.integers.push_back(static_cast<std::int16_t>(bits)); break;
    case ElementType::int32: tensor.integers.push_back(static_cast<std::int32_t>(bits)); break;
    case ElementType::boolean: tensor.integers.push_back(bits != 0 ? 1 : 0); break;
    default: tensor.integers.push_back(static_cast<std::int64_t>(bits)); break;
  }
}

void append_raw(Tensor& tensor, std::span<const std::byte> raw) {
  const std::size_t size = element_size(tensor.type);
  for (std::size_t at = 0; at < raw.size(); at += size) {
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < size; ++i) bits |= std::to_integer<std::uint64_t>(raw[at + i]) << (8 * i);
    append_bits(tensor, bits);
  }
}

/// The product of the dimensions; a product beyond what any file can hold is an error.
std::size_t checked_size(const Tensor& tensor) {
  constexpr auto kLimit = std::uint64_t{1} << 48;
  std::uint64_t size = 1;
  bool empty = false;
  for (const std::int64_t dim : tensor.dims) {
    if (dim < 0) fail(tensor, "has a negative dimension");
    if (dim == 0) {
      empty = true;
    } else if (static_cast<std::uint64_t>(dim) > kLimit / size) {
      fail(tensor, "is impossibly large");
    } else {
      size *= static_cast<std::uint64_t>(dim);
    }
  }
  return empty ? 0 : static_cast<std::size_t>(size);
}

}  // namespace

Tensor read_tensor(std::span<const std::byte> message) {
  constexpr std::int64_t kExternal = 1;
  Tensor tensor;
  std::vector<float> floats;
  std::vector<double> doubles;
  std::vector<std::int64_t> narrow;  // int32_data holds every type of up to 32 bits and the 16-bit floats
  std::vector<std::int64_t> wide;    // int64_data and uint64_data
  std::span<const std::byte> raw;
  bool has_raw = false;
  bool external = false;

  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    switch (field->number()) {
      case 1: field->append_to(tensor.dims); break;
      case 2: tensor.type = static_cast<ElementType>(static_cast<std::int32_t>(field->as_int64())); break;
      case 4: field->append_to(floats); break;
      case 5: field->append_to(narrow); break;
      case 7: field->append_to(wide); break;
      case 8: tensor.name = field->as_string(); break;
      case 9:
        raw = field->as_bytes();
        has_raw = true;
        break;
      case 10: field->append_to(doubles); break;
      case 11: field->append_to(wide); break;
      case 13: external = true; break;
      case 14: external = external || field->as_int64() == kExternal; break;
      default: break;
    }
  }
  if (external) {
    fail(tensor, "keeps its data outside the model file; save the model with its weights inside");
  }
  const std::size_t size = checked_size(tensor);
  if (element_size(tensor.type) == 0) return tensor;

  if (has_raw) {
    if (raw.size() % element_size(tensor.type) != 0 || raw.size() / element_size(tensor.type) != size) {
      fail(tensor, "has " + std::to_string(raw.size()) + " bytes of data for " + std::to_string(size) +
                       " elements of type " + to_string(tensor.type));
    }
    append_raw(tensor, raw);
    return tensor;
  }
  switch (tensor.type) {
    case ElementType::float32: tensor.reals.assign(floats.begin(), floats.end()); break;
    case ElementType::float64: tensor.reals = std::move(doubles); break;
    case ElementType::int64:
    case ElementType::uint32:
    case ElementType::uint64: tensor.integers = std::move(wide); break;
    default:
      for (const std::int64_t bits : narrow) append_bits(tensor, static_cast<std::uint64_t>(bits));
  }
  const std::size_t found = tensor.reals.size() + tensor.integers.size();
  if (found != size) {
    fail(tensor, "has " + std::to_string(found) + " values for " + std::to_string(size) + " elements");
  }
  return tensor;
}

void require_finite(const Tensor& tensor) {
  for (std::size_t i = 0; i < tensor.reals.size(); ++i) {
    if (!std::isfinite(tensor.reals[i])) {
      fail(tensor, "is not finite: element " + std::to_string(i) + " is " + std::to_string(tensor.reals[i]));
    }
  }
}

}  // namespace datasentinel::onnx
