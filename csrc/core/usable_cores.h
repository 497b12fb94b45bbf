#pragma once

#include <istream>

namespace datasentinel {

/// How many cores this process may keep busy: those of its affinity mask, and no more than the quotas of its
/// control groups allow. At least one.
[[nodiscard]] unsigned usable_cores();

/// The cores of a control group's cpu.max, "QUOTA PERIOD" or "max PERIOD", begun ones included; from one to
/// `most`.
[[nodiscard]] unsigned quota_of(std::istream& cpu_max, unsigned most);

}  // namespace datasentinel
