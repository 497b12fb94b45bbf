// What runs models for callers one after the other, and keeps captures apart from other work. Needs no ONNX
// Runtime; the backend itself is tested from Python.

#include <atomic>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "backends/onnxruntime/runtime.h"
#include "backends/onnxruntime/worker.h"
#include "check.h"

namespace datasentinel::onnxruntime {
namespace {

constexpr int kCallers = 4;
constexpr int kTurns = 500;

void in_threads(const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kCallers; ++i) threads.emplace_back(body, i);
  for (auto& thread : threads) thread.join();
}

void a_worker_does_all_work_on_one_thread_before_the_call_returns() {
  Worker worker;
  // Neither is guarded: only the worker's thread touches them.
  int done = 0;
  std::set<std::thread::id> threads;
  in_threads([&](int) {
    for (int turn = 0; turn < kTurns; ++turn) {
      bool mine = false;
      worker.run([&] {
        ++done;
        threads.insert(std::this_thread::get_id());
        mine = true;
      });
      CHECK(mine);
    }
  });
  worker.run([&] {
    CHECK(done == kCallers * kTurns);
    CHECK(threads.size() == 1);
  });
}

void a_worker_s_exception_is_its_caller_s() {
  Worker worker;
  std::atomic<int> caught = 0;
  in_threads([&](int caller) {
    for (int turn = 0; turn < kTurns; ++turn) {
      const std::string text = std::to_string(caller);
      try {
        worker.run([&] {
          if (caller % 2 == 0) throw std::runtime_error(text);
        });
      } catch (const std::runtime_error& error) {
        CHECK(error.what() == text);
        ++caught;
      }
    }
  });
  CHECK(caught == kCallers / 2 * kTurns);
}

void a_capture_and_other_work_exclude_each_other() {
  CaptureGate gate;
  std::atomic<int> working = 0;
  std::atomic<int> capturing = 0;
  in_threads([&](int caller) {
    for (int turn = 0; turn < kTurns; ++turn) {
      if (caller == 0) {
        const auto lock = gate.capture();
        ++capturing;
        CHECK(working == 0);
        CHECK(capturing == 1);
        --capturing;
      } else {
        const auto lock = gate.work();
        ++working;
        CHECK(capturing == 0);
        --working;
      }
    }
  });
}

}  // namespace
}  // namespace datasentinel::onnxruntime

int main() {
  using namespace datasentinel::onnxruntime;
  a_worker_does_all_work_on_one_thread_before_the_call_returns();
  a_worker_s_exception_is_its_caller_s();
  a_capture_and_other_work_exclude_each_other();
  return datasentinel::check::result();
}
