#include "core/dynamic_library.h"

#include <dlfcn.h>

#include "core/error.h"

namespace datasentinel {
namespace {

std::string last_loader_error() {
  const char* text = dlerror();
  return text == nullptr ? "unknown error" : text;
}

}  // namespace

DynamicLibrary::DynamicLibrary(std::string path)
    : path_(std::move(path)), handle_(dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr) {
    const std::string reason = last_loader_error();
    throw Error(ErrorCode::unavailable, "cannot open '" + path_ + "': " + reason, reason);
  }
}

DynamicLibrary::~DynamicLibrary() {
  if (handle_ != nullptr) dlclose(handle_);
}

void* DynamicLibrary::find(const char* name) const {
  void* address = find_or_null(name);
  if (address == nullptr) {
    throw Error(ErrorCode::unavailable, "'" + path_ + "' has no symbol '" + name + "'", last_loader_error());
  }
  return address;
}

void* DynamicLibrary::find_or_null(const char* name) const noexcept { return dlsym(handle_, name); }

}  // namespace datasentinel
