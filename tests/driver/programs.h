#ifndef TESTS_DRIVER_PROGRAMS_H_
#define TESTS_DRIVER_PROGRAMS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace cpr {

// Where a file of the build is, by its path in the checkout ("vmm/cpr-vmm"): below the current folder (a test), in the
// calling program's runfiles (bazel-bin/...), or below bazel-bin (the checkout's top folder). kNotFound: none of them.
absl::StatusOr<std::string> FindBuilt(absl::string_view path);

}  // namespace cpr

#endif  // TESTS_DRIVER_PROGRAMS_H_
