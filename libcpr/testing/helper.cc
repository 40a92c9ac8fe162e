#include "libcpr/testing/helper.h"

#include <unistd.h>

#include <cstdio>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace cpr::testing {
namespace {

constexpr char kFlag[] = "--cpr-helper=";

std::map<std::string, Helper>& Helpers() {
  static auto* helpers = new std::map<std::string, Helper>;
  return *helpers;
}

}  // namespace

bool RegisterHelper(const std::string& name, Helper helper) { return Helpers().emplace(name, std::move(helper)).second; }

bool RunHelperIfAsked(int argc, char** argv, int* exit_code) {
  if (argc < 2 || !absl::StartsWith(argv[1], kFlag)) return false;
  const std::string name(absl::StripPrefix(argv[1], kFlag));
  const auto found = Helpers().find(name);
  if (found == Helpers().end()) {
    std::fprintf(stderr, "no test helper is named %s\n", name.c_str());
    *exit_code = 127;
    return true;
  }
  *exit_code = found->second(std::vector<std::string>(argv + 2, argv + argc));
  return true;
}

std::vector<std::string> HelperCommand(const std::string& name, std::vector<std::string> args) {
  char self[4096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof(self));
  std::vector<std::string> command = {std::string(self, n < 0 ? 0 : static_cast<size_t>(n)), kFlag + name};
  command.insert(command.end(), args.begin(), args.end());
  return command;
}

}  // namespace cpr::testing
