// What cpr-vmm accepts, it does; what it cannot do, it refuses: options and commands that are easily left without
// effect.

#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/matchers.h"
#include "tests/driver/guest_rig.h"
#include "tests/driver/json_member.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);

JsonValue UriOf(const std::string& path) { return JsonMembers({{"uri", JsonText(absl::StrCat("file:", path))}}); }

// Leaves the guest in `path` and ends its VMM.
absl::Status Save(GuestRig& rig, const std::string& path) {
  absl::Status status = rig.vmm().SetMode(Mode::kReboot);
  if (status.ok()) status = rig.vmm().SetIgnoreShared();
  if (status.ok()) status = rig.vmm().Migrate(absl::StrCat("file:", path));
  if (status.ok()) status = rig.vmm().qmp().AwaitMigration();
  return status.ok() ? rig.vmm().Quit().status() : status;
}

TEST(Surface, PowerdownPressesAButtonThatAGuestMayIgnore) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  EXPECT_THAT(rig->vmm().qmp().Execute("system_powerdown"), IsOk());
  EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
}

TEST(Surface, GuestThatArrivesUnderDashSStaysPaused) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  const std::string state = rig->File("vm.state");
  ASSERT_THAT(Save(*rig, state), IsOk());
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother({"-S", "-incoming", absl::StrCat("file:", state)}));
  EXPECT_THAT(next.qmp().AwaitStatus("paused"), IsOk());
  const uint64_t beats = rig->view().beats();
  ASSERT_THAT(next.qmp().Execute("cont"), IsOk());
  rig->Replace(std::move(next));
  EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
  EXPECT_GT(rig->view().beats(), beats);
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

TEST(Surface, RefusedStateLeavesRoomForAnotherTry) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  const std::string state = rig->File("vm.state");
  ASSERT_THAT(Save(*rig, state), IsOk());
  const std::string rubbish = rig->File("rubbish");
  std::ofstream(rubbish) << "rubbish";
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother({"-incoming", "defer"}));
  ASSERT_THAT(next.SetIgnoreShared(), IsOk());
  ASSERT_THAT(next.qmp().Execute("migrate-incoming", UriOf(rubbish)), IsOk());
  EXPECT_THAT(next.qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("not a cpr state")));
  EXPECT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  ASSERT_THAT(next.qmp().Execute("migrate-incoming", UriOf(state)), IsOk());
  EXPECT_THAT(next.qmp().AwaitStatus("running"), IsOk());
  rig->Replace(std::move(next));
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

// What it does is for a host with Live Update: the testbed's scenario luo.
TEST(Surface, LuoIsRefusedWithTheReasonAndTheGuestRunsOn) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  ASSERT_THAT(rig->vmm().SetMode(Mode::kLuo), IsOk());
  EXPECT_THAT(rig->vmm().Migrate("luo:vm1").message(),
              HasSubstr("Memory region ram0 is not compatible with cpr-luo: it is of kind file"));
  EXPECT_THAT(rig->view().AwaitBeats(kTimeout), IsOk());
  EXPECT_THAT(rig->view().Verify(kTimeout), IsOk());
}

TEST(Surface, LuoOfASessionThatIsNotThereLeavesRoomForAnotherTry) {
  CPR_SKIP_WITHOUT_KVM();
  CPR_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<GuestRig> rig, GuestRig::Start({}));
  CPR_ASSERT_OK_AND_ASSIGN(Vmm next, rig->StartAnother({"-incoming", "defer"}));
  for (int i = 0; i < 2; ++i) {
    const JsonValue uri = JsonMembers({{"uri", JsonText("luo:nobody")}});
    ASSERT_THAT(next.qmp().Execute("migrate-incoming", uri), IsOk());
    EXPECT_THAT(next.qmp().AwaitMigration(), StatusIs(absl::StatusCode::kAborted, HasSubstr("Live Update")));
    EXPECT_THAT(next.qmp().AwaitStatus("inmigrate"), IsOk());
  }
}

}  // namespace
}  // namespace cpr
