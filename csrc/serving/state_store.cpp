#include "serving/state_store.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace datasentinel {
namespace {

constexpr std::size_t kChunkFloats = std::size_t{1} << 16;

}  // namespace

StateStore::StateStore(std::size_t state_size, std::size_t carried_size, StateLimits limits)
    : state_size_(state_size),
      carried_size_(carried_size),
      limits_(limits),
      chunk_slots_(std::max<std::size_t>(1, kChunkFloats / std::max<std::size_t>(1, record_size()))) {
  if (state_size == 0) throw Error(ErrorCode::invalid_argument, "a state has at least one value");
  if (limits.max_streams == 0 || limits.max_bytes == 0) {
    throw Error(ErrorCode::invalid_argument, "max_streams and the memory for streams must be at least 1");
  }
  limits_.max_streams = std::min<std::size_t>(limits.max_streams, kNone);
}

void StateStore::require_fit(const StreamRules& rules, std::size_t columns) const {
  if (rules.row_s > 0 && state_size_ < 2) {
    throw Error(ErrorCode::invalid_argument, "a state that fades with time has at least two values");
  }
  require_fit(rules.carry);
  if (rules.carry.carries() && rules.carry.first.size() != columns) {
    throw Error(ErrorCode::invalid_argument, "values are carried for each of a model's " +
                                                 std::to_string(columns) + " columns or for none, not for " +
                                                 std::to_string(rules.carry.first.size()));
  }
}

void StateStore::require_fit(const CarryRule& carry) const {
  if (carry.size() == carried_size_) return;
  throw Error(ErrorCode::invalid_argument, "values are carried for " + std::to_string(carry.first.size()) +
                                               " columns, and the states have room for those of " +
                                               std::to_string(carried_size_ / 2));
}

void StateStore::read(std::string_view stream, float* state) const {
  read({&stream, 1}, {}, state, nullptr, nullptr);
}

void StateStore::read(std::span<const std::string_view> streams, const CarryRule& carry, float* states,
                      double* times_s, float* carried) const {
  const std::lock_guard lock(mutex_);
  for (const std::string_view stream : streams) {
    const Place place = find(stream);
    if (times_s != nullptr) *times_s++ = place == kNone ? kUnknown : slots_[place].time_s;
    if (states != nullptr) {
      if (place != kNone) {
        std::copy_n(state_at(place), state_size_, states);
      } else {
        std::fill_n(states, state_size_, 0.0F);
      }
      states += state_size_;
    }
    if (carried == nullptr) continue;
    if (place != kNone) {
      std::copy_n(state_at(place) + state_size_, carried_size_, carried);
    } else {
      carry.begin(carried);
    }
    carried += carried_size_;
  }
}

void StateStore::write(std::span<const std::string_view> streams, const StreamRules& rules,
                       const float* states, const double* times_s, const float* carried) {
  const std::lock_guard lock(mutex_);
  for (const std::string_view stream : streams) {
    Place place = find(stream);
    if (place == kNone) {
      place = add(stream);
    } else {
      unlink(place);
    }
    link_newest(place);
    slots_[place].last_used = ++last_use_;
    slots_[place].time_s = times_s == nullptr ? kUnknown : *times_s++;
    set_record(place, rules, states, carried);
    states += state_size_;
    if (carried != nullptr) carried += carried_size_;
    while (oldest_ != newest_ && (by_stream_.size() > limits_.max_streams || bytes_ > limits_.max_bytes)) {
      ++evicted_;
      drop(oldest_);
    }
  }
}

bool StateStore::forget(std::string_view stream) {
  const std::lock_guard lock(mutex_);
  const Place place = find(stream);
  if (place == kNone) return false;
  drop(place);
  return true;
}

bool StateStore::contains(std::string_view stream) const {
  const std::lock_guard lock(mutex_);
  return find(stream) != kNone;
}

std::size_t StateStore::size() const {
  const std::lock_guard lock(mutex_);
  return by_stream_.size();
}

std::size_t StateStore::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

std::size_t StateStore::warming() const {
  const std::lock_guard lock(mutex_);
  return warming_;
}

std::size_t StateStore::stale() const {
  const std::lock_guard lock(mutex_);
  return stale_;
}

std::vector<std::size_t> StateStore::stale_columns(std::string_view stream, const CarryRule& carry) const {
  require_fit(carry);
  const std::lock_guard lock(mutex_);
  std::vector<std::size_t> columns;
  const Place place = find(stream);
  if (place == kNone) return columns;
  for (std::size_t column = 0; column < carry.first.size(); ++column) {
    if (carry.is_stale(state_at(place) + state_size_, column)) columns.push_back(column);
  }
  return columns;
}

std::uint64_t StateStore::evicted() const {
  const std::lock_guard lock(mutex_);
  return evicted_;
}

bool StateStore::copy(std::size_t& place, std::size_t count, StatePage& page) const {
  const std::lock_guard lock(mutex_);
  const std::size_t end = std::min(slots_.size(), place + count);
  for (; place < end; ++place) {
    const Slot& slot = slots_[place];
    if (!slot.taken || slot.stream.starts_with('\0')) continue;
    const float* const state = state_at(static_cast<Place>(place));
    page.streams.push_back(slot.stream);
    page.last_used.push_back(slot.last_used);
    page.times_s.push_back(slot.time_s);
    page.records.insert(page.records.end(), state, state + record_size());
  }
  return place < slots_.size();
}

std::size_t StateStore::insert(std::span<const std::string> streams, const StreamRules& rules,
                               const float* records, const double* times_s) {
  require_fit(rules.carry);
  const std::lock_guard lock(mutex_);
  std::size_t taken = 0;
  for (const std::string& stream : streams) {
    const float* const record = records;
    records += record_size();
    const double time_s = times_s == nullptr ? kUnknown : *times_s++;
    if (find(stream) != kNone) continue;
    if (by_stream_.size() == limits_.max_streams || bytes_ + bytes_of(stream) > limits_.max_bytes) break;
    const Place place = add(stream);
    link_oldest(place);
    slots_[place].last_used = before_uses_--;
    slots_[place].time_s = time_s;
    set_record(place, rules, record, record + state_size_);
    ++taken;
  }
  return taken;
}

std::size_t StateStore::bytes_of(std::string_view stream) const noexcept {
  // A node of the map holds its pair, a hash and a pointer; its bucket is another.
  constexpr std::size_t kToFind = sizeof(std::pair<std::string_view, Place>) + 3 * sizeof(void*);
  const std::size_t own = stream.size() < sizeof(std::string) / 2 ? 0 : stream.size() + 1;
  return sizeof(Slot) + kToFind + own + record_size() * sizeof(float);
}

StateStore::Place StateStore::find(std::string_view stream) const noexcept {
  const auto found = by_stream_.find(stream);
  return found == by_stream_.end() ? kNone : found->second;
}

/// Makes a place for a stream that is not known, in no list yet.
StateStore::Place StateStore::add(std::string_view stream) {
  if (free_.empty()) {
    const std::size_t place = slots_.size();
    if (place / chunk_slots_ == chunks_.size()) {
      chunks_.push_back(std::make_unique_for_overwrite<float[]>(chunk_slots_ * record_size()));
    }
    free_.reserve(place + 1);  // So that `drop` never throws.
    slots_.emplace_back();
    free_.push_back(static_cast<Place>(place));
  }
  const Place place = free_.back();
  Slot& slot = slots_[place];
  slot.stream = stream;
  by_stream_.emplace(slot.stream, place);
  slot.taken = true;
  free_.pop_back();
  bytes_ += bytes_of(stream);
  return place;
}

void StateStore::drop(Place place) {
  Slot& slot = slots_[place];
  mark(slot, false, false);
  bytes_ -= bytes_of(slot.stream);
  by_stream_.erase(slot.stream);
  unlink(place);
  slot = Slot();
  free_.push_back(place);
}

void StateStore::set_record(Place place, const StreamRules& rules, const float* state,
                            const float* carried) noexcept {
  float* const own = state_at(place);
  std::copy_n(state, state_size_, own);
  if (carried == nullptr) {
    rules.carry.begin(own + state_size_);
  } else {
    std::copy_n(carried, carried_size_, own + state_size_);
  }
  mark(slots_[place], state[state_size_ - 1] < static_cast<float>(rules.warm_up_rows) + 1,
       rules.carry.is_stale(own + state_size_));
}

void StateStore::mark(Slot& slot, bool warming, bool stale) noexcept {
  warming_ += static_cast<std::size_t>(warming) - static_cast<std::size_t>(slot.warming);
  stale_ += static_cast<std::size_t>(stale) - static_cast<std::size_t>(slot.stale);
  slot.warming = warming;
  slot.stale = stale;
}

void StateStore::link_newest(Place place) noexcept {
  slots_[place].older = newest_;
  slots_[place].newer = kNone;
  (newest_ == kNone ? oldest_ : slots_[newest_].newer) = place;
  newest_ = place;
}

void StateStore::link_oldest(Place place) noexcept {
  slots_[place].older = kNone;
  slots_[place].newer = oldest_;
  (oldest_ == kNone ? newest_ : slots_[oldest_].older) = place;
  oldest_ = place;
}

void StateStore::unlink(Place place) noexcept {
  const Slot& slot = slots_[place];
  (slot.older == kNone ? oldest_ : slots_[slot.older].newer) = slot.newer;
  (slot.newer == kNone ? newest_ : slots_[slot.newer].older) = slot.older;
}

}  // namespace datasentinel
