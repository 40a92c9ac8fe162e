#include "tests/driver/programs.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace cpr {

absl::StatusOr<std::string> FindBuilt(absl::string_view path) {
  std::error_code ignored;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", ignored).string();
  for (const std::string& folder :
       {std::string("."), absl::StrCat(self, ".runfiles/libcpr"), std::string("bazel-bin")}) {
    const std::filesystem::path file = absl::StrCat(folder, "/", path);
    if (std::filesystem::is_regular_file(file, ignored)) return std::filesystem::absolute(file, ignored).string();
  }
  return absl::NotFoundError(absl::StrCat(path, " is not built: bazel build //", path));
}

}  // namespace cpr
