#include "serving/batch_scorer.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>

namespace datasentinel {
namespace {

/// More rows than this gain nothing from sharing a batch.
constexpr std::size_t kMaxSharedRows = 4096;

std::optional<Error> run(const ServedModel& model, ConstRows rows, Outputs outputs) {
  const auto start = std::chrono::steady_clock::now();
  try {
    model.scorer->run(rows, outputs);
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, "out of memory while scoring");
  } catch (const std::exception& error) {
    return Error(ErrorCode::backend_failure, error.what());
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  model.cost.add(rows.rows, took.count());
  return std::nullopt;
}

void score_alone(ScoringTask& task) { BatchScorer::score_rows(task, 0, task.rows); }

void copy_to(FloatBuffer& buffer, const float*& from, std::size_t count) {
  std::copy_n(from, count, buffer.extend(count));
  from += count;
}

}  // namespace

void ScoringTask::recycle() noexcept {
  model = nullptr;
  wanted = {};
  rows = 0;
  failure.reset();
  waited = {};
  for (FloatBuffer* buffer : {&values, &scores, &reconstructions, &contributions}) buffer->recycle();
}

void BatchScorer::score_rows(ScoringTask& task, std::size_t begin, std::size_t count) {
  const std::size_t columns = task.model->scorer->input_dim();
  Outputs outputs;
  try {
    if (task.wanted.scores) outputs.scores = task.scores.extend(count);
    if (task.wanted.reconstructions) outputs.reconstructions = task.reconstructions.extend(count * columns);
    if (task.wanted.contributions) outputs.contributions = task.contributions.extend(count * columns);
  } catch (const std::bad_alloc&) {
    task.failure = Error(ErrorCode::out_of_memory, "out of memory while scoring");
    return;
  }
  const float* const first = task.values.data() + begin * columns;
  task.failure = run(*task.model, {.data = first, .rows = count, .columns = columns}, outputs);
}

void BatchScorer::score(std::span<ScoringTask* const> tasks) {
  if (tasks.size() == 1) return score_alone(*tasks.front());
  order_.assign(tasks.begin(), tasks.end());
  for (auto first = order_.begin(); first != order_.end();) {
    const auto alike = [&task = **first](const ScoringTask* other) {
      return other->model == task.model && other->wanted == task.wanted;
    };
    const auto last = std::stable_partition(first, order_.end(), alike);
    score_alike({first, last});
    first = last;
  }
}

void BatchScorer::score_alike(std::span<ScoringTask* const> tasks) {
  while (!tasks.empty()) {
    std::size_t count = 0;
    std::size_t rows = 0;
    while (count < tasks.size() && (count == 0 || rows + tasks[count]->rows <= kMaxSharedRows)) {
      rows += tasks[count++]->rows;
    }
    if (count == 1) {
      score_alone(*tasks.front());
    } else {
      score_batch(tasks.first(count), rows);
    }
    tasks = tasks.subspan(count);
  }
}

void BatchScorer::score_batch(std::span<ScoringTask* const> tasks, std::size_t rows) {
  const ServedModel& model = *tasks.front()->model;
  const Wanted wanted = tasks.front()->wanted;
  const std::size_t columns = model.scorer->input_dim();
  for (const ScoringTask* task : tasks) {
    std::copy_n(task->values.data(), task->values.size(), values_.extend(task->values.size()));
  }
  Outputs outputs;
  if (wanted.scores) outputs.scores = scores_.extend(rows);
  if (wanted.reconstructions) outputs.reconstructions = reconstructions_.extend(rows * columns);
  if (wanted.contributions) outputs.contributions = contributions_.extend(rows * columns);

  if (run(model, {.data = values_.data(), .rows = rows, .columns = columns}, outputs)) {
    // One bad row refuses the whole batch; alone, each task gets its own answer.
    for (ScoringTask* task : tasks) score_alone(*task);
  } else {
    const float* scores = outputs.scores;
    const float* reconstructions = outputs.reconstructions;
    const float* contributions = outputs.contributions;
    for (ScoringTask* task : tasks) {
      if (wanted.scores) copy_to(task->scores, scores, task->rows);
      if (wanted.reconstructions) copy_to(task->reconstructions, reconstructions, task->rows * columns);
      if (wanted.contributions) copy_to(task->contributions, contributions, task->rows * columns);
    }
  }
  for (FloatBuffer* buffer : {&values_, &scores_, &reconstructions_, &contributions_}) buffer->recycle();
}

}  // namespace datasentinel
