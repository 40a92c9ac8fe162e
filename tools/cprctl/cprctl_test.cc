// Runs cprctl itself on files, as a user would.
#include <fcntl.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/base/io.h"
#include "libcpr/modes/ownership.h"
#include "libcpr/testing/matchers.h"
#include "libcpr/vmstate/container.h"
#include "proto/cpr/v1/handover.pb.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

struct Ran {
  int exit_code;
  std::string output;
};

Ran RunCprctl(const std::string& arguments) {
  FILE* pipe = ::popen(absl::StrCat("tools/cprctl/cprctl ", arguments, " 2>&1").c_str(), "re");
  std::string output;
  for (int c; (c = std::fgetc(pipe)) != EOF;) output.push_back(static_cast<char>(c));
  return {WEXITSTATUS(::pclose(pipe)), output};
}

std::string WriteFile(const std::string& bytes) {
  const std::string path = ::testing::TempDir() + "/vm.state";
  const auto fd = OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC);
  EXPECT_THAT(fd, IsOk());
  EXPECT_THAT(WriteAll(fd->get(), bytes), IsOk());
  return path;
}

std::string State() {
  std::string bytes;
  ContainerWriter writer(&bytes, StateIdentity{.created_at_realtime_ns = 1'000'000'000, .state_id = {0xab}});
  const auto save = [](std::string* payload) {
    payload->append("thirteen byte");
    return absl::OkStatus();
  };
  EXPECT_THAT(writer.Add({.name = "machine", .stage = Stage::kEarly}, save), IsOk());
  EXPECT_THAT(
      writer.Add({.name = "serial", .instance = 2, .version = 4, .min_reader_version = 3, .optional = true}, save),
      IsOk());
  EXPECT_THAT(writer.Finish(), IsOk());
  return bytes;
}

TEST(CprctlTest, SaysWhereTheMarkOfAStreamedStateIs) {
  v1::RamState ram;
  ram.set_mark_id("0123456789abcdef");
  v1::RamBlockDescriptor& block = *ram.add_blocks()->mutable_layout();
  block.set_shared(true);
  block.set_path("/dev/shm/ram0");
  std::string bytes;
  ContainerWriter writer(&bytes, StateIdentity{});
  EXPECT_THAT(writer.Add({.name = "cpr/ram", .stage = Stage::kEarly},
                         [&](std::string* payload) {
                           ram.AppendToString(payload);
                           return absl::OkStatus();
                         }),
              IsOk());
  EXPECT_THAT(writer.Finish(), IsOk());
  EXPECT_THAT(RunCprctl("inspect " + WriteFile(bytes)).output,
              HasSubstr("said by mark 30313233343536373839616263646566 in /dev/shm/ram0.cpr-mark\n"));
}

TEST(CprctlTest, PrintsAWholeState) {
  std::string bytes = State();
  bytes[kOwnershipOffsetBytes] = 7;
  const Ran ran = RunCprctl("inspect " + WriteFile(bytes));
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_EQ(ran.output, absl::StrCat("cpr state, format 1.0, x86_64, ", bytes.size(), " of ", bytes.size(),
                                     " bytes\n"
                                     "saved     1970-01-01T00:00:01+00:00\n"
                                     "id        ab000000000000000000000000000000\n"
                                     "ownership 7: not a value that this cprctl knows; not changed since\n"
                                     "stage    instance  version  reader        bytes  crc32c section\n"
                                     "early           0        1  >= 1             13  ok     machine\n"
                                     "late            2        4  >= 3             13  ok     serial (optional)\n"));
}

// The line about the ownership word of a state in which it is `owner`, changed two seconds after 1970 began.
std::string OwnershipLine(Owner owner) {
  std::string bytes = State();
  OwnershipBlock block;
  block.word = static_cast<uint64_t>(owner);
  block.changed_at_realtime_ns = 2'000'000'000;
  std::memcpy(bytes.data() + kOwnershipOffsetBytes, &block, sizeof(block));
  const std::string output = RunCprctl("inspect " + WriteFile(bytes)).output;
  const size_t begin = output.find("ownership ");
  return output.substr(begin, output.find('\n', begin) - begin);
}

TEST(CprctlTest, SaysWhoOwnsTheGuest) {
  const std::string changed = "; changed 1970-01-01T00:00:02+00:00";
  EXPECT_EQ(OwnershipLine(Owner::kUnspecified), "ownership 0: the state has not been handed over" + changed);
  EXPECT_EQ(OwnershipLine(Owner::kOld), "ownership 1: old, the guest is still the old program's" + changed);
  EXPECT_EQ(OwnershipLine(Owner::kOffered),
            "ownership 2: offered, the guest is whose program takes it first" + changed);
  EXPECT_EQ(OwnershipLine(Owner::kNew), "ownership 3: new, the guest has been resumed" + changed);
  EXPECT_EQ(OwnershipLine(Owner::kReturned), "ownership 4: returned, the guest goes back to the old program" + changed);
}

TEST(CprctlTest, ShowsWhichSectionIsDamagedAndTheOthers) {
  std::string bytes = State();
  bytes[bytes.find("thirteen")] = 'T';
  const std::string path = WriteFile(bytes);
  const Ran ran = RunCprctl("inspect " + path);
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.output,
              AllOf(HasSubstr("at byte 128: BAD, 13 bytes: checksum 0x"), HasSubstr("ok     serial"),
                    HasSubstr(absl::StrCat("cprctl: ", path, ": section 1 of 2 at byte 128: checksum 0x"))));
}

TEST(CprctlTest, ACutStateIsShownAsFarAsItGoes) {
  std::string bytes = State();
  const size_t size = bytes.size();
  bytes.resize(size - 40);
  const Ran ran = RunCprctl("inspect " + WriteFile(bytes));
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.output, AllOf(HasSubstr("ok     machine"), HasSubstr(" that are left\n"),
                                EndsWith(absl::StrCat("state is cut: ", size - 40, " of ", size, " bytes\n"))));
}

TEST(CprctlTest, OtherFilesAreCalledWhatTheyAre) {
  const std::string path = WriteFile("QEVM and more");
  EXPECT_EQ(RunCprctl("inspect " + path).output,
            absl::StrCat("cprctl: ", path, ": not a cpr state: begins with \"QEVM and\", a QEMU migration stream\n"));
  EXPECT_THAT(RunCprctl("inspect " + WriteFile("")).output, HasSubstr("not a cpr state: empty"));
  EXPECT_THAT(RunCprctl("inspect /nonexistent").output, HasSubstr("/nonexistent: No such file"));
  EXPECT_THAT(RunCprctl("inspect /dev/zero").output, HasSubstr("is not a regular file"));
}

TEST(CprctlTest, WrongUsageIsExplained) {
  const Ran ran = RunCprctl("");
  EXPECT_EQ(ran.exit_code, 2);
  EXPECT_THAT(ran.output, StartsWith("usage: cprctl inspect FILE"));
}

}  // namespace
}  // namespace cpr
