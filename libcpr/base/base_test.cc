#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/crc32c.h"
#include "libcpr/base/io.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

TEST(UniqueFdTest, MovingOntoItselfKeepsTheDescriptorOpen) {
  UniqueFd fd(::memfd_create("x", MFD_CLOEXEC));
  UniqueFd& alias = fd;
  fd = std::move(alias);
  EXPECT_GE(::fcntl(fd.get(), F_GETFD), 0) << "self-move closed the fd";
}

TEST(UniqueFdTest, ClosesAtTheEndOfItsLife) {
  int number = -1;
  {
    UniqueFd fd(::memfd_create("x", MFD_CLOEXEC));
    number = fd.get();
  }
  EXPECT_EQ(::fcntl(number, F_GETFD), -1);
}

TEST(StatusTest, ErrnoSurvivesAnnotation) {
  const absl::Status status = Annotate(ErrnoStatus(EBADF, "KVM_CREATE_VM"), "machine");
  EXPECT_EQ(StatusErrno(status), EBADF);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("machine: KVM_CREATE_VM: Bad file")));
}

TEST(StatusTest, WithoutErrnoAnswersZero) { EXPECT_EQ(StatusErrno(absl::InternalError("x")), 0); }

TEST(IoctlTest, ErrorNamesTheRequest) {
  UniqueFd fd(::memfd_create("x", MFD_CLOEXEC));
  int argument = 0;
  const auto result = CPR_IOCTL(fd.get(), TIOCGWINSZ, &argument);
  EXPECT_THAT(result.status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("TIOCGWINSZ")));
  EXPECT_EQ(StatusErrno(result.status()), ENOTTY);
}

// The vectors of RFC 3720 appendix B.4.
TEST(Crc32cTest, AgreesWithTheRfc) {
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
}

TEST(Crc32cTest, LongDataIsSummedAsByteForByte) {
  std::string data(50'000, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * i + i / 251);
  uint32_t crc = 0;
  for (size_t size = 1; size <= data.size(); ++size) {
    crc = Crc32c(absl::string_view(data).substr(size - 1, 1), crc);
    const bool at_a_border = size % 4096 <= 9 || size % 4096 >= 4088;
    ASSERT_TRUE(!at_a_border || Crc32c(absl::string_view(data).substr(0, size)) == crc) << size << " bytes";
  }
  EXPECT_EQ(Crc32c(data), crc);
}

TEST(Crc32cTest, GoesOnFromTheCrcOfThePartBefore) { EXPECT_EQ(Crc32c("56789", Crc32c("1234")), Crc32c("123456789")); }

TEST(IoTest, ReadingPastTheEndSaysHowFarItCame) {
  UniqueFd fd(::memfd_create("x", MFD_CLOEXEC));
  ASSERT_THAT(PwriteAll(fd.get(), "abc", 0), IsOk());
  char buffer[8];
  EXPECT_THAT(PreadAll(fd.get(), buffer, sizeof(buffer), 0),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("ended after 3 of 8 bytes")));
}

TEST(IoTest, ReadToEndRefusesMoreThanTheLimit) {
  UniqueFd fd(::memfd_create("x", MFD_CLOEXEC));
  ASSERT_THAT(PwriteAll(fd.get(), "abcd", 0), IsOk());
  EXPECT_THAT(ReadToEnd(fd.get(), 3).status(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("3 bytes")));
}

TEST(IoTest, OpenNamesThePath) {
  EXPECT_THAT(OpenFile("/nonexistent/x", O_RDONLY).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/x")));
}

TEST(MappingTest, SharedMappingsOfOneFileShowTheSameBytes) {
  UniqueFd fd(::memfd_create("x", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  auto a = Mapping::Create(fd.get(), 0, 4096);
  auto b = Mapping::Create(fd.get(), 0, 4096);
  ASSERT_THAT(a.status(), IsOk());
  ASSERT_THAT(b.status(), IsOk());
  a->data()[7] = 42;
  EXPECT_EQ(b->data()[7], 42);
}

TEST(MappingTest, MoveLeavesTheSourceEmpty) {
  auto a = Mapping::CreateAnonymous(4096);
  ASSERT_THAT(a.status(), IsOk());
  Mapping b = *std::move(a);
  EXPECT_EQ(a->data(), nullptr);
  EXPECT_EQ(b.size_bytes(), 4096u);
}

}  // namespace
}  // namespace cpr
