#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/fd_leak_guard.h"
#include "libcpr/testing/helper.h"

int main(int argc, char** argv) {
  if (int exit_code = 0; cpr::testing::RunHelperIfAsked(argc, argv, &exit_code)) return exit_code;
  ::testing::InitGoogleMock(&argc, argv);
  ::testing::UnitTest::GetInstance()->listeners().Append(new cpr::testing::FdLeakGuard);
  return RUN_ALL_TESTS();
}
