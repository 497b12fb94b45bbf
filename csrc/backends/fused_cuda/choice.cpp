#include "backends/fused_cuda/choice.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"

namespace datasentinel::fused_cuda {
namespace {

constexpr const char* kVariable = "DATASENTINEL_TENSOR_CORES";
constexpr std::size_t kDistinctRows = 1021;  // A prime, so that no lane sees the same rows at the same place.
constexpr std::size_t kHostShare = 4;        // Fewer are enough to compare everything, in host memory.
constexpr std::size_t kRounds = 9;

/// Made-up rows, in host memory and on the device.
class Batch {
 public:
  Batch(const Driver& driver, std::size_t rows, std::size_t columns)
      : driver_(driver), rows_(rows), values_(rows * columns), columns_(columns) {
    std::mt19937 random(0);
    std::normal_distribution<float> normal;
    const std::size_t distinct = std::min(values_.size(), kDistinctRows * columns);
    std::generate_n(values_.begin(), distinct, [&] { return normal(random); });
    for (std::size_t i = distinct; i < values_.size(); ++i) values_[i] = values_[i - distinct];
    const std::size_t bytes = values_.size() * sizeof(float);
    driver_.enter();
    on_device_ = cuda::make_device_memory(driver_, bytes);
    scores_ = cuda::make_device_memory(driver_, rows * sizeof(float));
    stream_ = cuda::make_stream(driver_);
    driver_.check(driver_.cuMemcpyHtoDAsync_v2(on_device_.get(), values_.data(), bytes, stream_.get()),
                  "copying rows to the device");
    wait();
  }

  void score_on_device(CudaSession& session) const {
    static_cast<void>(session.score(on_device_.get(), rows_, scores_.get(), session.stream()));
  }

  /// All that a session makes of the first rows, and the scores of all of them on the device.
  [[nodiscard]] std::vector<std::vector<float>> results_of(CudaSession& session) const {
    std::vector<std::vector<float>> results(4);
    const auto made = [&](std::size_t which, std::size_t count) {
      results[which].assign(count, std::numeric_limits<float>::quiet_NaN());
      return count == 0 ? nullptr : results[which].data();
    };
    const std::size_t some = rows_ / kHostShare;
    session.run({.data = values_.data(), .rows = some, .columns = columns_},
                {.scores = made(0, some),
                 .reconstructions = made(1, session.has_output() ? some * columns_ : 0),
                 .contributions = made(2, session.has_contributions() ? some * columns_ : 0)});
    // Nothing may be left there of the other session's.
    const std::size_t bytes = rows_ * sizeof(float);
    driver_.check(driver_.cuMemcpyHtoDAsync_v2(scores_.get(), made(3, rows_), bytes, stream_.get()),
                  "copying to the device");
    wait();
    score_on_device(session);
    driver_.check(driver_.cuMemcpyDtoHAsync_v2(results[3].data(), scores_.get(), bytes, stream_.get()),
                  "copying results from the device");
    wait();
    return results;
  }

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }

 private:
  void wait() const {
    driver_.check(driver_.cuStreamSynchronize(stream_.get()), "copying between host and device");
  }

  const Driver& driver_;
  std::size_t rows_;
  std::vector<float> values_;
  std::size_t columns_;
  cuda::DeviceMemory on_device_, scores_;
  cuda::Stream stream_;
};

/// Where results differ by more than rounding can make them; empty where they do not.
std::string difference(const std::vector<std::vector<float>>& found,
                       const std::vector<std::vector<float>>& expected, Precision precision) {
  const double tolerance = precision == Precision::bf16 ? 2e-2 : 2e-3;
  const auto size = [](float x) { return std::abs(static_cast<double>(x)); };
  for (std::size_t which = 0; which < expected.size(); ++which) {
    double sum = 0;
    for (const float x : expected[which]) sum += size(x);
    for (std::size_t i = 0; i < expected[which].size(); ++i) {
      const float x = found[which][i];
      const float y = expected[which][i];
      if (!(size(x - y) <= tolerance * (size(y) + sum / static_cast<double>(expected[which].size())))) {
        return std::to_string(x) + " instead of " + std::to_string(y);
      }
    }
  }
  return {};
}

/// Median microseconds of both for rows on the device, measured in turns.
std::pair<double, double> times_us(const Batch& batch, CudaSession& one, CudaSession& other) {
  std::array<double, kRounds> some{};
  std::array<double, kRounds> others{};
  const auto time_us = [&](CudaSession& session) {
    const auto start = std::chrono::steady_clock::now();
    batch.score_on_device(session);
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  };
  for (std::size_t round = 0; round < kRounds; ++round) {
    some[round] = time_us(one);
    others[round] = time_us(other);
  }
  std::ranges::sort(some);
  std::ranges::sort(others);
  return {some[kRounds / 2], others[kRounds / 2]};
}

/// What is kept of a trial: the instructions' name, a colon and the reason.
TensorCores instructions_of(std::string_view verdict) {
  return verdict.starts_with("wgmma:") ? TensorCores::wgmma : TensorCores::mma;
}

/// Kernels, and why these.
struct Choice {
  std::unique_ptr<CudaSession> session;
  std::string verdict;
};

/// Takes `wgmma` where it is right and faster. Throws Error where there is too little memory, or CUDA is
/// lost.
Choice try_wgmma(const Alternatives& alternatives, const Batch& batch, std::unique_ptr<CudaSession> mma,
                 const std::vector<std::vector<float>>& expected) {
  std::unique_ptr<CudaSession> wgmma;
  std::vector<std::vector<float>> found;
  try {
    wgmma = alternatives.load(TensorCores::wgmma);
    found = batch.results_of(*wgmma);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::out_of_memory) throw;
    try {
      batch.score_on_device(*mma);
    } catch (const Error&) {
      throw Error(error.code(), std::string("wgmma was tried, and CUDA works no more in this process (") +
                                    error.what() + "); start another, which will not try it");
    }
    return {std::move(mma), std::string("mma: wgmma failed: ") + error.what()};
  }
  if (const std::string words = difference(found, expected, alternatives.precision); !words.empty()) {
    return {std::move(mma), "mma: results with wgmma differ: " + words};
  }
  const auto [mma_us, wgmma_us] = times_us(batch, *mma, *wgmma);
  std::array<char, 96> times{};
  std::snprintf(times.data(), times.size(), "mma %.1f us, wgmma %.1f us for %zu rows on the device", mma_us,
                wgmma_us, batch.rows());
  if (wgmma_us < mma_us) return {std::move(wgmma), std::string("wgmma: ") + times.data()};
  return {std::move(mma), std::string("mma: ") + times.data()};
}

/// What came of an earlier trial, if the cache knows of one.
std::optional<Choice> kept_choice(const EngineCache& cache, const EngineKey& key,
                                  const Alternatives& alternatives) {
  const std::optional<Bytes> kept = cache.load(key);
  if (!kept) return std::nullopt;
  const std::string verdict(reinterpret_cast<const char*>(kept->data()), kept->size());
  return Choice{alternatives.load(instructions_of(verdict)), verdict};
}

Choice chosen_by_trial(const Driver& driver, const EngineCache& cache, const EngineKey& key,
                       const Alternatives& alternatives) {
  const auto keep = [&](std::string_view verdict) {
    return cache.store(key, std::as_bytes(std::span(verdict.data(), verdict.size())));
  };
  auto mma = alternatives.load(TensorCores::mma);
  try {
    const Batch batch(driver, alternatives.rows, mma->input_dim());
    const auto expected = batch.results_of(*mma);
    // Another process may have begun meanwhile.
    if (auto kept = kept_choice(cache, key, alternatives)) return *std::move(kept);
    // Not before: what went wrong up to here would be held against wgmma for ever.
    if (!keep("mma: a trial of wgmma did not end, or has not yet")) {
      return {std::move(mma), "mma: wgmma is not tried without a cache folder"};
    }
    Choice choice = try_wgmma(alternatives, batch, std::move(mma), expected);
    keep(choice.verdict);
    return choice;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_memory) throw;
  } catch (const std::bad_alloc&) {  // Of the host.
  }
  cache.remove(key);
  return {alternatives.load(TensorCores::mma), "mma: there is no memory to try wgmma"};
}

/// The verdict of DATASENTINEL_TENSOR_CORES; empty where it is not set.
std::string forced_verdict() {
  const char* const forced = std::getenv(kVariable);
  if (forced == nullptr || *forced == '\0') return {};
  for (const TensorCores some : {TensorCores::mma, TensorCores::wgmma}) {
    if (forced == to_string(some)) return std::string(forced) + ": " + kVariable + " says so";
  }
  throw Error(ErrorCode::invalid_argument,
              std::string(kVariable) + " must be mma or wgmma, not '" + forced + "'");
}

}  // namespace

std::unique_ptr<CudaSession> load_faster(const Driver& driver, const EngineCache& cache, const EngineKey& key,
                                         const Alternatives& alternatives) {
  std::optional<Choice> choice;
  if (const std::string forced = forced_verdict(); !forced.empty()) {
    choice = Choice{alternatives.load(instructions_of(forced)), forced};
  } else {
    choice = kept_choice(cache, key, alternatives);
  }
  if (!choice) choice = chosen_by_trial(driver, cache, key, alternatives);
  choice->session->add_fact("tensor cores", choice->verdict);
  return std::move(choice->session);
}

}  // namespace datasentinel::fused_cuda
