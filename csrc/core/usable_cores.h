#pragma once

namespace datasentinel {

/// How many cores this process may keep busy: those of its affinity mask, and no more than the quotas of its
/// control groups allow. At least one.
[[nodiscard]] unsigned usable_cores();

}  // namespace datasentinel
