#ifndef LIBCPR_TESTING_HELPER_H_
#define LIBCPR_TESTING_HELPER_H_

#include <functional>
#include <string>
#include <vector>

namespace cpr::testing {

// A test program that execs itself: run with --cpr-helper=NAME [args], main calls the helper registered under NAME
// instead of the tests and exits with what it returns.
using Helper = std::function<int(const std::vector<std::string>& args)>;
bool RegisterHelper(const std::string& name, Helper helper);

// The helper to run for `argv`, run and its exit code stored; false when `argv` asks for none.
bool RunHelperIfAsked(int argc, char** argv, int* exit_code);

// argv to exec this very program as helper `name`.
std::vector<std::string> HelperCommand(const std::string& name, std::vector<std::string> args = {});

}  // namespace cpr::testing

// Registers a helper at namespace scope: CPR_TEST_HELPER(Child, (const std::vector<std::string>& args)) { ... }
#define CPR_TEST_HELPER(name, parameters)                                                            \
  static int CprHelper##name parameters;                                                             \
  static const bool cpr_helper_registered_##name = ::cpr::testing::RegisterHelper(#name, &CprHelper##name); \
  static int CprHelper##name parameters

#endif  // LIBCPR_TESTING_HELPER_H_
