#include "serving/batch_scorer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <new>

namespace datasentinel {
namespace {

/// More rows than this gain nothing from sharing a batch.
constexpr std::size_t kMaxSharedRows = 4096;

/// Runs `call`, which scores so many rows; what it throws becomes the answer.
template <typename Call>
std::optional<Error> run(const ServedModel& model, std::size_t rows, Call call) {
  const auto start = std::chrono::steady_clock::now();
  try {
    call();
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, "out of memory while scoring");
  } catch (const std::exception& error) {
    return Error(ErrorCode::backend_failure, error.what());
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
  model.cost.add(rows, took.count());
  return std::nullopt;
}

std::optional<Error> run(const ServedModel& model, ConstRows rows, Outputs outputs) {
  return run(model, rows.rows, [&] { model.scorer->run(rows, outputs); });
}

/// Room for the answers to `count` more rows. Throws std::bad_alloc.
Outputs extend(ScoringTask& task, std::size_t count, std::size_t columns) {
  Outputs outputs;
  if (task.wanted.scores) outputs.scores = task.scores.extend(count);
  if (task.wanted.reconstructions) outputs.reconstructions = task.reconstructions.extend(count * columns);
  if (task.wanted.contributions) outputs.contributions = task.contributions.extend(count * columns);
  return outputs;
}

/// Appends some rows of a task, by stream, with room for their answers. Throws Error{invalid_argument} for
/// bad rows before any is scored, or std::bad_alloc.
void append_parts(ScoringTask& task, std::size_t begin, std::size_t count, std::vector<StreamPart>& parts) {
  const Scorer& scorer = *task.model->scorer;
  const std::size_t columns = scorer.input_dim();
  if (begin == 0) {
    StreamScorer::check(scorer, task.model->abilities.rules.carry,
                        {.data = task.values.data(), .rows = task.rows, .columns = columns});
  }
  const Outputs outputs = extend(task, count, columns);
  task.warming.resize(begin + count);
  std::size_t first = 0;
  for (const StreamRows& of_stream : task.streams) {
    const std::size_t last = first + of_stream.rows;
    const std::size_t from = std::max(first, begin);
    const std::size_t to = std::min(last, begin + count);
    if (from < to) {
      parts.push_back({.stream = of_stream.stream,
                       .rows = task.values.data() + from * columns,
                       .count = to - from,
                       .outputs = outputs.from_row(from - begin, columns),
                       .warming = task.warming.data() + from,
                       .times_s = task.times_s.empty() ? nullptr : task.times_s.data() + from,
                       .to_fill = task.values.data() + from * columns,
                       .starts = of_stream.starts && from == first,
                       .ends = of_stream.ends && to == last});
    }
    first = last;
  }
}

/// Calls with the last value of each row whose time is known, and that time.
template <typename Call>
void for_each_season(std::span<const StreamPart> parts, std::size_t columns, Call call) {
  for (const StreamPart& part : parts) {
    for (std::size_t row = 0; part.times_s != nullptr && row < part.count; ++row) {
      if (!std::isnan(part.times_s[row])) call(part.to_fill[(row + 1) * columns - 1], part.times_s[row]);
    }
  }
}

/// Scores the rows, and then lets the model's shadow see them, filled in where they lacked values, and on its
/// own clock: whatever becomes of that changes no answer.
void score_parts(const ServedModel& model, StreamScorer& scorer, std::vector<StreamPart>& parts) {
  scorer.score(*model.scorer, model.abilities.rules, *model.states(), parts);
  Shadow* const shadow = model.abilities.shadow.get();
  if (shadow == nullptr || shadow->has_failed()) return;
  for (StreamPart& part : parts) {
    part.outputs = {};
    part.warming = nullptr;
  }
  const std::size_t columns = model.scorer->input_dim();
  std::vector<float> seconds;  // Reasons tell them as the answering model saw them.
  try {
    if (shadow->clock() != nullptr) {
      for_each_season(parts, columns, [&](float& second, double time_s) {
        seconds.push_back(second);
        second = shadow->clock()->second_of_week(time_s);
      });
    }
    scorer.score(shadow->scorer(), shadow->rules(), shadow->states(), parts, model.states());
  } catch (const std::exception& error) {
    shadow->fail(error.what());
  }
  for_each_season(parts, columns,
                  [next = seconds.cbegin(), end = seconds.cend()](float& second, double) mutable {
                    if (next != end) second = *next++;
                  });
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
  streams.clear();
  times_s.clear();
  warming.clear();
  for (FloatBuffer* buffer : {&values, &scores, &reconstructions, &contributions}) buffer->recycle();
}

std::size_t ScoringTask::count_anomalies() const noexcept {
  std::size_t anomalies = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) anomalies += static_cast<std::size_t>(is_anomaly(i));
  return anomalies;
}

void BatchScorer::score_rows(ScoringTask& task, std::size_t begin, std::size_t count) {
  const ServedModel& model = *task.model;
  const std::size_t columns = model.scorer->input_dim();
  task.failure = run(model, count, [&] {
    if (model.states() != nullptr) {
      std::vector<StreamPart> parts;
      append_parts(task, begin, count, parts);
      StreamScorer scorer;
      return score_parts(model, scorer, parts);
    }
    const Outputs outputs = extend(task, count, columns);
    const float* const first = task.values.data() + begin * columns;
    model.scorer->run({.data = first, .rows = count, .columns = columns}, outputs);
  });
}

void BatchScorer::score(std::span<ScoringTask* const> tasks) {
  if (tasks.size() == 1 && tasks.front()->model->states() == nullptr) return score_alone(*tasks.front());
  order_.assign(tasks.begin(), tasks.end());
  for (auto first = order_.begin(); first != order_.end();) {
    const auto alike = [&task = **first](const ScoringTask* other) {
      // The rows of a stream keep their order, whatever is wanted of each.
      return other->model == task.model && (task.model->states() != nullptr || other->wanted == task.wanted);
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
    if (tasks.front()->model->states() != nullptr) {
      score_streams(tasks.first(count));
    } else if (count == 1) {
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

void BatchScorer::score_streams(std::span<ScoringTask* const> tasks) {
  const ServedModel& model = *tasks.front()->model;
  const auto reset = [](ScoringTask& task) {
    for (FloatBuffer* buffer : {&task.scores, &task.reconstructions, &task.contributions}) buffer->clear();
  };
  parts_.clear();
  std::size_t rows = 0;
  for (ScoringTask* task : tasks) {
    task->failure = run(model, 0, [&] { append_parts(*task, 0, task->rows, parts_); });
    if (!task->failure) rows += task->rows;
  }
  if (run(model, rows, [&] { score_parts(model, streams_, parts_); })) {
    // As `score_batch`: alone, each task gets its own answer.
    for (ScoringTask* task : tasks) {
      if (task->failure) continue;
      reset(*task);
      score_alone(*task);
    }
  }
}

}  // namespace datasentinel
