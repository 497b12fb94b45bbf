#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace datasentinel {

/// Reusable objects of type T (scratch memory, bindings) for a session that several threads call at once.
///
/// A lone thread pays one atomic exchange to borrow and one to return; a second thread at the same moment
/// takes a lock, and an object is made only when more threads than ever before are inside. Thread-safe.
template <typename T>
class Pool {
 public:
  using Factory = std::function<std::unique_ptr<T>()>;

  explicit Pool(Factory make) : make_(std::move(make)), first_(make_().release()) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() { delete first_.load(std::memory_order_acquire); }

  /// An object on loan; returned by the destructor.
  class Loan {
   public:
    Loan(Pool& pool, T* object) noexcept : pool_(pool), object_(object) {}
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    ~Loan() { pool_.give_back(object_); }
    [[nodiscard]] T& operator*() const noexcept { return *object_; }
    [[nodiscard]] T* operator->() const noexcept { return object_; }

   private:
    Pool& pool_;
    T* object_;
  };

  [[nodiscard]] Loan borrow() {
    if (T* object = first_.exchange(nullptr, std::memory_order_acq_rel)) return Loan(*this, object);
    return Loan(*this, borrow_spare());
  }

 private:
  T* borrow_spare() {
    {
      const std::lock_guard lock(mutex_);
      if (!spares_.empty()) {
        T* object = spares_.back().release();
        spares_.pop_back();
        return object;
      }
      // Room for every object in existence, so that give_back never allocates and cannot throw.
      spares_.reserve(++made_);
    }
    return make_().release();
  }

  void give_back(T* object) noexcept {
    T* expected = nullptr;
    if (first_.compare_exchange_strong(expected, object, std::memory_order_acq_rel)) return;
    const std::lock_guard lock(mutex_);
    spares_.emplace_back(object);
  }

  Factory make_;
  std::atomic<T*> first_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> spares_;
  std::size_t made_ = 1;
};

}  // namespace datasentinel
