#pragma once

#include <cstdio>
#include <exception>
#include <string>

#include "core/error.h"

// The smallest thing that can fail a CTest executable: CHECK and CHECK_THROWS count failures and say where,
// `main` returns check::result().

namespace datasentinel::check {

inline int failures = 0;

inline void fail(const char* file, int line, const std::string& what) {
  ++failures;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

[[nodiscard]] inline int result() {
  if (failures != 0) std::fprintf(stderr, "%d check(s) failed\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace datasentinel::check

#define CHECK(condition)                                                                        \
  do {                                                                                          \
    if (!(condition)) ::datasentinel::check::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (false)

/// `expression` must throw Error with `error_code`, and its message must contain `text`.
#define CHECK_THROWS_WITH(error_code, text, expression)                                                  \
  do {                                                                                                   \
    try {                                                                                                \
      static_cast<void>(expression);                                                                     \
      ::datasentinel::check::fail(__FILE__, __LINE__, "did not throw: " #expression);                    \
    } catch (const ::datasentinel::Error& error) {                                                       \
      const std::string what = error.what();                                                             \
      if (error.code() != (error_code)) {                                                                \
        ::datasentinel::check::fail(__FILE__, __LINE__, "threw another code: " #expression ": " + what); \
      } else if (what.find(text) == std::string::npos) {                                                 \
        ::datasentinel::check::fail(__FILE__, __LINE__, "threw with another message: " + what);          \
      }                                                                                                  \
    } catch (const std::exception& error) {                                                              \
      ::datasentinel::check::fail(__FILE__, __LINE__, "threw another exception: " #expression);          \
    }                                                                                                    \
  } while (false)

#define CHECK_THROWS(error_code, expression) CHECK_THROWS_WITH(error_code, "", expression)
