// Arrays in page-locked host memory, which a device copies itself.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "backends/cuda/driver.h"
#include "bindings/bindings.h"

namespace py = pybind11;

namespace datasentinel {
namespace {

/// Page-locked memory with the driver that it is given back to, in whatever thread the last array goes.
class PinnedBlock {
 public:
  PinnedBlock(std::shared_ptr<const cuda::Driver> driver, std::size_t bytes) : driver_(std::move(driver)) {
    driver_->enter();
    memory_ = cuda::make_pinned_memory(*driver_, bytes);
  }
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  ~PinnedBlock() { driver_->enter_if_possible(); }

  [[nodiscard]] float* values() const noexcept { return static_cast<float*>(memory_.get()); }

 private:
  std::shared_ptr<const cuda::Driver> driver_;
  cuda::PinnedMemory memory_;
};

py::array_t<float> pinned_empty(const std::vector<py::ssize_t>& shape) {
  static cuda::DriverOnDemand driver;
  std::size_t values = 1;
  for (const py::ssize_t size : shape) values *= static_cast<std::size_t>(size);
  std::unique_ptr<PinnedBlock> block;
  {
    const py::gil_scoped_release release;
    block = std::make_unique<PinnedBlock>(driver.get(), values * sizeof(float));
  }
  float* const data = block->values();
  const py::capsule owner(block.get(), [](void* held) {
    const py::gil_scoped_release release;
    delete static_cast<PinnedBlock*>(held);
  });
  static_cast<void>(block.release());
  return py::array_t<float>(shape, data, owner);
}

}  // namespace

void bind_pinned(py::module_& module) { module.def("pinned_empty", &pinned_empty, py::arg("shape")); }

}  // namespace datasentinel
