#pragma once

#include <string>

namespace datasentinel {

/// Where a backend's vendor library lies on this machine. The core cannot know; the program that embeds it
/// can.
struct LibraryHint {
  std::string path;                              ///< Empty: none was found.
  std::string problem = "no library was given";  ///< Why the path is empty and what to do about it.
};

}  // namespace datasentinel
