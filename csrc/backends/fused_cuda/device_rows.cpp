// What a session does with rows that lie on the device.

#include <atomic>
#include <mutex>
#include <utility>

#include "backends/fused_cuda/session.h"
#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

class Block final : public DeviceBlock {
 public:
  Block(std::shared_ptr<const Driver> driver, std::size_t bytes)
      : driver_(std::move(driver)), memory_(cuda::make_device_memory(*driver_, bytes)) {}
  ~Block() override { driver_->enter_if_possible(); }
  [[nodiscard]] std::uint64_t address() const noexcept override { return memory_.get(); }

 private:
  std::shared_ptr<const Driver> driver_;
  DeviceMemory memory_;
};

}  // namespace

bool CudaSession::is_captured(std::uint64_t stream) {
  driver_->enter();
  int status = 0;
  driver_->check(driver_->cuStreamIsCapturing(reinterpret_cast<void*>(stream), &status),
                 "asking what the stream does");
  return status != 0;
}

void CudaSession::wait_for(std::uint64_t stream) {
  driver_->enter();
  driver_->check(driver_->cuStreamSynchronize(reinterpret_cast<void*>(stream)), "waiting for a stream");
}

std::shared_ptr<const DeviceBlock> CudaSession::allocate(std::size_t bytes) {
  driver_->enter();
  return std::make_shared<const Block>(driver_, bytes);
}

std::optional<Cell> CudaSession::score(std::uint64_t rows, std::size_t count, std::uint64_t scores,
                                       std::uint64_t stream) {
  const std::lock_guard lock(device_rows_.mutex);
  loss_.refuse_if_lost();
  void* const handle = reinterpret_cast<void*>(stream);
  std::uint64_t& bad = device_rows_.bad.place();
  try {
    driver_->enter();
    bad = kNowhere;
    launch({.input = rows, .rows = count, .scores = scores, .bad = device_rows_.bad.mapped}, handle);
    driver_->check(driver_->cuStreamSynchronize(handle), "running the kernel");
  } catch (const Error&) {
    // The memory is the caller's, who may free it now.
    static_cast<void>(driver_->cuStreamSynchronize(handle));
    loss_.settle(*driver_, device_rows_.stream);
    throw;
  }
  return cell_of(bad);
}

void CudaSession::launch(std::uint64_t rows, std::size_t count, std::uint64_t scores, std::uint64_t stream) {
  loss_.refuse_if_lost();
  driver_->enter();
  device_rows_.has_launched.store(true, std::memory_order_relaxed);
  launch({.input = rows, .rows = count, .scores = scores, .bad = device_rows_.launched_bad.mapped},
         reinterpret_cast<void*>(stream));
}

std::optional<Cell> CudaSession::take_bad_value() {
  return cell_of(std::atomic_ref(device_rows_.launched_bad.place()).exchange(kNowhere));
}

}  // namespace datasentinel::fused_cuda
