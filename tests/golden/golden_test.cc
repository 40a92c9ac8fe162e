#include <fcntl.h>

#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vmstate/state_header.h"
#include "tests/golden/golden_state.h"

namespace cpr {
namespace {

constexpr char kFolder[] = "tests/golden";
constexpr char kCurrent[] = "tests/golden/v1";

std::string ReadFile(const std::string& path) {
  const auto fd = OpenFile(path, O_RDONLY);
  if (!fd.ok()) return fd.status().ToString();
  const auto bytes = ReadToEnd(fd->get(), kMaxTotalBytes);
  return bytes.ok() ? *bytes : bytes.status().ToString();
}

std::vector<std::string> Releases() {
  std::vector<std::string> releases;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    if (entry.is_directory()) releases.push_back(entry.path());
  }
  return releases;
}

TEST(GoldenTest, ThereAreGoldenFiles) { EXPECT_FALSE(Releases().empty()); }

TEST(GoldenTest, StatesOfEveryReleaseMeanWhatTheyMeant) {
  for (const std::string& release : Releases()) {
    const auto dump = DumpState(ReadFile(release + "/sections.cprstate"));
    ASSERT_TRUE(dump.ok()) << release << ": " << dump.status();
    EXPECT_EQ(*dump, ReadFile(release + "/sections.txt")) << release;
  }
}

// Detects changes of the writer.
TEST(GoldenTest, WriterWritesWhatTheCurrentReleaseWrote) {
  const std::string golden = ReadFile(std::string(kCurrent) + "/sections.cprstate");
  CPR_ASSERT_OK_AND_ASSIGN(const std::string written, WriteGoldenState());
  CPR_ASSERT_OK_AND_ASSIGN(const std::string dump, DumpState(written));
  constexpr char kHowToProceed[] =
      "\nThe writer's output has changed. If that was not meant, undo it: states already on disks must stay readable.\n"
      "If it was meant: 1. raise format_minor (old readers may ignore the news) or format_major (they may not), see\n"
      "docs/compatibility.md; 2. mkdir tests/golden/vN && bazel run //tests/golden:write_golden -- "
      "$PWD/tests/golden/vN;\n"
      "3. point kCurrent here to vN; 4. keep the old folders: the test above proves that they still load.";
  EXPECT_EQ(dump, ReadFile(std::string(kCurrent) + "/sections.txt")) << kHowToProceed;
  // The part outside protobuf is compared by its bytes, up to the sizes and the CRC that depend on the messages.
  EXPECT_EQ(written.substr(0, 24), golden.substr(0, 24)) << kHowToProceed;
  EXPECT_EQ(written.substr(32, 24), golden.substr(32, 24)) << kHowToProceed;
}

}  // namespace
}  // namespace cpr
