#ifndef LIBCPR_TESTING_FD_LEAK_GUARD_H_
#define LIBCPR_TESTING_FD_LEAK_GUARD_H_

#include <map>
#include <string>

#include "gtest/gtest.h"

namespace cpr::testing {

// The open descriptors of this process: number -> what /proc/self/fd says of it.
std::map<int, std::string> OpenFds();

// Fails a test that ends with other descriptors than it began with. libcpr/testing:test_main installs it for every
// test of a program.
class FdLeakGuard : public ::testing::EmptyTestEventListener {
 public:
  void OnTestStart(const ::testing::TestInfo& info) override;
  void OnTestEnd(const ::testing::TestInfo& info) override;

 private:
  std::map<int, std::string> before_;
};

}  // namespace cpr::testing

#endif  // LIBCPR_TESTING_FD_LEAK_GUARD_H_
