#include "serving/reasons.h"

#include <algorithm>
#include <numeric>

namespace datasentinel {

std::vector<Reason> rank_reasons(const ScoringTask& task, std::size_t row, std::size_t top) {
  const std::size_t columns = task.model->scorer->input_dim();
  const std::size_t first = row * columns;
  const float* const contributions = task.contributions.data() + first;
  std::vector<std::size_t> order(columns);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto last = order.begin() + static_cast<std::ptrdiff_t>(std::min(top, columns));
  std::partial_sort(order.begin(), last, order.end(), [contributions](std::size_t a, std::size_t b) {
    return contributions[a] != contributions[b] ? contributions[a] > contributions[b] : a < b;
  });

  std::vector<Reason> reasons;
  reasons.reserve(static_cast<std::size_t>(last - order.begin()));
  for (auto column = order.begin(); column != last; ++column) {
    Reason& reason = reasons.emplace_back();
    reason.column = *column;
    reason.contribution = contributions[*column];
    reason.value = task.values.data()[first + *column];
    if (task.wanted.reconstructions) reason.expected = task.reconstructions.data()[first + *column];
  }
  return reasons;
}

}  // namespace datasentinel
