#ifndef TESTS_KVM_BAD_INPUT_H_
#define TESTS_KVM_BAD_INPUT_H_

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/processes.h"
#include "tests/driver/programs.h"

// For tests of what must go wrong in words and without harm: each time the error names the thing in one line, the guest
// runs on where it was, no fd leaks, and no file is left behind half-written.

namespace cpr {

inline constexpr absl::Duration kTimeout = absl::Seconds(30);

// What each of its fds is, as /proc says.
inline std::vector<std::string> OpenFds(pid_t pid) {
  std::error_code ignored;
  std::vector<std::string> fds;
  for (const auto& fd : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored))
    fds.push_back(std::filesystem::read_symlink(fd.path(), ignored).string());
  return fds;
}
inline size_t CountFds(pid_t pid) { return OpenFds(pid).size(); }

inline size_t CountFiles(const std::string& folder) {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteFile(const std::string& path, absl::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

class BadInput : public ::testing::Test {
 protected:
  void SetUp() override {
    CPR_SKIP_WITHOUT_KVM();
    AdoptOrphans();
    CPR_ASSERT_OK_AND_ASSIGN(const std::string faulty, FindBuilt("tests/driver/cpr-vmm-faulty"));
    CPR_ASSERT_OK_AND_ASSIGN(rig_, GuestRig::Start({.vmm = faulty}));
  }
  Vmm& vmm() { return rig_->vmm(); }

  void ExpectGuestRunsOn() {
    EXPECT_THAT(vmm().qmp().AwaitStatus("running", kTimeout), testing::IsOk());
    EXPECT_THAT(rig_->view().AwaitBeats(kTimeout), testing::IsOk());
    EXPECT_THAT(rig_->view().Verify(kTimeout), testing::IsOk());
  }

  // Has `attempt` fail several times, each time with an error that has `words`; the guest runs on in the same process,
  // which has as many fds afterwards as before.
  void ExpectFails(const std::string& words, const std::function<absl::Status()>& attempt, int attempts = 3) {
    const pid_t pid = vmm().process().pid();
    const std::vector<std::string> fds = OpenFds(pid);
    for (int i = 0; i < attempts; ++i) {
      const absl::Status status = attempt();
      EXPECT_FALSE(status.ok());
      const std::string message(status.message());
      EXPECT_THAT(message, ::testing::HasSubstr(words));
      EXPECT_EQ(message.find('\n'), std::string::npos) << "a refusal is one line: " << message;
      ExpectGuestRunsOn();
      ASSERT_EQ(PeerPid(vmm().qmp().fd()), pid);
      EXPECT_THAT(OpenFds(pid), ::testing::UnorderedElementsAreArray(fds)) << "attempt " << i;
    }
  }

  absl::Status Exec(const std::vector<std::string>& command, const std::string& uri = "memfd:") {
    if (const absl::Status set = vmm().SetMode(Mode::kExec); !set.ok()) return set;
    if (const absl::Status set = vmm().SetExecCommand(command); !set.ok()) return set;
    if (const absl::Status begun = vmm().Migrate(uri); !begun.ok()) return begun;
    return vmm().AwaitExec(kTimeout);
  }

  absl::Status Transfer(const std::string& cpr_path) {
    if (const absl::Status set = vmm().SetMode(Mode::kTransfer); !set.ok()) return set;
    const std::string main_uri = absl::StrCat("unix:", rig_->File("main"));
    if (const absl::Status begun = vmm().MigrateChannels(main_uri, cpr_path); !begun.ok()) return begun;
    return vmm().qmp().AwaitMigration(kTimeout);
  }

  absl::Status Save(const std::string& path) {
    if (const absl::Status set = vmm().SetMode(Mode::kReboot); !set.ok()) return set;
    if (const absl::Status set = vmm().SetIgnoreShared(); !set.ok()) return set;
    return MigrateToFile(path);
  }
  // The RAM goes into the file, too.
  absl::Status SaveWithRam(const std::string& path) {
    if (const absl::Status set = vmm().SetMode(Mode::kReboot); !set.ok()) return set;
    return MigrateToFile(path);
  }
  absl::Status MigrateToFile(const std::string& path) {
    if (const absl::Status begun = vmm().Migrate(absl::StrCat("file:", path)); !begun.ok()) return begun;
    return vmm().qmp().AwaitMigration(kTimeout);
  }

  std::unique_ptr<GuestRig> rig_;
};

}  // namespace cpr

#endif  // TESTS_KVM_BAD_INPUT_H_
