#include "vmm/chardev/output.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {
namespace {

using Result = Output::Result;

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    read.Reset(fds[0]);
    write.Reset(fds[1]);
  }
  std::string Read() const {
    std::string data(1 << 20, '\0');
    const ssize_t n = ::read(read.get(), data.data(), data.size());
    data.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return data;
  }
  UniqueFd read, write;
};

TEST(OutputTest, BlockingPipeNeverMakesUsWaitAndLosesNothingWithinTheLimit) {
  Pipe pipe;
  Output output;
  output.Attach(std::move(pipe.write));
  const std::string much(Output::kLimitBytes, 'x');  // four times what a pipe holds
  output.Queue(much);
  EXPECT_EQ(output.Flush(), Result::kBlocked);
  std::string seen;
  while (seen.size() < much.size()) {
    seen += pipe.Read();
    output.Flush();
  }
  EXPECT_EQ(seen, much);
  EXPECT_EQ(output.Flush(), Result::kDone);
  EXPECT_EQ(output.dropped_bytes(), 0u);
}

TEST(OutputTest, LeavesTheDescriptionsFlagsAlone) {
  Pipe pipe;
  const int fd = pipe.write.get();
  Output output;
  output.Attach(std::move(pipe.write));
  output.Queue("x");
  EXPECT_EQ(output.Flush(), Result::kDone);
  EXPECT_EQ(::fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
}

TEST(OutputTest, DropsAndCountsBeyondTheLimit) {
  Pipe pipe;
  Output output;
  output.Attach(std::move(pipe.write));
  output.Queue(std::string(Output::kLimitBytes - 1, 'x'));
  output.Queue("yzz");
  EXPECT_EQ(output.unwritten().size(), Output::kLimitBytes);
  EXPECT_EQ(output.unwritten().back(), 'y');
  EXPECT_EQ(output.dropped_bytes(), 2u);
}

TEST(OutputTest, DropsWithoutAReader) {
  Output output;
  output.Queue("lost");
  EXPECT_EQ(output.dropped_bytes(), 4u);
  EXPECT_EQ(output.Flush(), Result::kDone);
}

TEST(OutputTest, ReaderThatWentAwayIsBrokenAndRaisesNoSignal) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  ::close(fds[0]);
  Output output;
  output.Attach(UniqueFd(fds[1]));
  output.Queue("x");
  EXPECT_EQ(output.Flush(), Result::kBroken);
  EXPECT_EQ(output.unwritten(), "");
  EXPECT_EQ(output.dropped_bytes(), 1u);
}

TEST(OutputTest, FullDiskKeepsTheDataForLater) {
  Output output;
  output.Attach(UniqueFd(::open("/dev/full", O_WRONLY | O_CLOEXEC)));
  output.Queue("precious");
  EXPECT_EQ(output.Flush(), Result::kBlocked);
  EXPECT_EQ(output.unwritten(), "precious");
}

TEST(OutputTest, RestoredBytesAreWritten) {
  Pipe pipe;
  Output output;
  output.Attach(std::move(pipe.write));
  output.Restore("old ", 7);
  output.Queue("new");
  EXPECT_EQ(output.Flush(), Result::kDone);
  EXPECT_EQ(pipe.Read(), "old new");
  EXPECT_EQ(output.dropped_bytes(), 7u);
}

}  // namespace
}  // namespace cpr
