#include "core/recent_rows.h"

#include <algorithm>
#include <iterator>

namespace datasentinel {

RecentRows::RecentRows(std::size_t columns, std::chrono::nanoseconds interval, std::size_t capacity)
    : interval_(interval) {
  for (Kind* kind : {&normal_, &anomalous_}) {
    kind->ring.resize(capacity);
    for (Row& row : kind->ring) row.values.resize(columns);
  }
}

void RecentRows::keep(Kind& kind, ConstRows rows, const float* scores, std::size_t index, bool is_anomaly,
                      Clock::time_point now) noexcept {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return;
  kind.due.store(now + interval_, std::memory_order_relaxed);
  Row& row = kind.ring[kind.next];
  kind.next = (kind.next + 1) % kind.ring.size();
  row.time_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                    std::chrono::system_clock::now().time_since_epoch())
                    .count();
  row.score = scores[index];
  row.is_anomaly = is_anomaly;
  std::copy_n(rows.row(index), rows.columns, row.values.begin());
}

std::vector<RecentRows::Row> RecentRows::after(std::int64_t time_ns) const {
  std::vector<Row> found;
  {
    const std::lock_guard lock(mutex_);
    for (const Kind* kind : {&normal_, &anomalous_}) {
      std::copy_if(kind->ring.begin(), kind->ring.end(), std::back_inserter(found),
                   [time_ns](const Row& row) { return row.time_ns > time_ns; });
    }
  }
  std::sort(found.begin(), found.end(), [](const Row& a, const Row& b) { return a.time_ns < b.time_ns; });
  return found;
}

}  // namespace datasentinel
