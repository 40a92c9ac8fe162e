#ifndef LIBCPR_TESTING_TEMP_FOLDER_H_
#define LIBCPR_TESTING_TEMP_FOLDER_H_

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace cpr::testing {

// A folder of its own under /tmp (or `parent`), removed with all in it at the end. Its path is short enough for unix
// sockets, which ::testing::TempDir() is not under Bazel.
class TempFolder {
 public:
  explicit TempFolder(const std::string& parent = "/tmp") {
    std::string name = parent + "/cpr-XXXXXX";
    if (const char* made = ::mkdtemp(name.data())) path_ = made;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace cpr::testing

#endif  // LIBCPR_TESTING_TEMP_FOLDER_H_
