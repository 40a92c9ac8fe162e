#include "vmm/pci/msix.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/pci/fake_pci.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::RecordingRouter;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

uint64_t Drain(int eventfd) {
  uint64_t count = 0;
  return ::read(eventfd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

class MsixTest : public ::testing::Test {
 protected:
  void SetUp() override { CPR_ASSERT_OK_AND_ASSIGN(msix_, Msix::Create(3, &router_)); }
  void Unmask(unsigned vector, uint32_t data) {
    msix_->WriteTable(16 * vector, 8, 0xfee00000);
    msix_->WriteTable(16 * vector + 8, 8, data);
  }
  int EventfdOf(unsigned vector) { return router_.attached.at(24 + vector); }

  RecordingRouter router_;
  std::unique_ptr<Msix> msix_;
};

TEST_F(MsixTest, OpenVectorIsSignalledAtOnce) {
  msix_->SetControl(true, false);
  Unmask(1, 0x41);
  EXPECT_EQ(router_.routes.at(25), (MsiMessage{0xfee00000, 0x41}));
  msix_->Signal(1);
  EXPECT_EQ(Drain(EventfdOf(1)), 1u);
  EXPECT_EQ(msix_->ReadPba(0, 8), 0u);
}

TEST_F(MsixTest, MaskedVectorIsPendingUntilUnmasked) {
  msix_->SetControl(true, false);
  msix_->Signal(2);
  EXPECT_EQ(Drain(EventfdOf(2)), 0u);
  EXPECT_EQ(msix_->ReadPba(0, 4), 4u);
  Unmask(2, 0x42);
  EXPECT_EQ(Drain(EventfdOf(2)), 1u);
  EXPECT_EQ(msix_->ReadPba(0, 4), 0u);
}

TEST_F(MsixTest, AllRoutesAreCommittedAtOnce) {
  msix_->SetControl(true, true);
  for (unsigned vector = 0; vector < 3; ++vector) Unmask(vector, vector);
  EXPECT_EQ(router_.commits, 0);
  msix_->SetControl(true, false);
  EXPECT_EQ(router_.commits, 1);
  EXPECT_EQ(router_.routes.size(), 3u);
}

TEST_F(MsixTest, NothingHappensWhileOffOrBeyondTheTable) {
  msix_->Signal(0);
  msix_->SetControl(true, false);
  msix_->Signal(77);
  Unmask(0, 0x40);
  EXPECT_EQ(Drain(EventfdOf(0)), 0u);
  EXPECT_EQ(msix_->ReadTable(16 * 3, 8), 0u);
  msix_->WriteTable(16 * 3, 8, ~uint64_t{0});
}

TEST_F(MsixTest, SharedVectorIsHeardOnlyWhileOpen) {
  CPR_ASSERT_OK_AND_ASSIGN(const int eventfd, msix_->Share(0));
  EXPECT_FALSE(router_.attached.contains(24));
  ASSERT_EQ(::eventfd_write(eventfd, 1), 0);  // as vhost would
  EXPECT_EQ(msix_->ReadPba(0, 1), 1u);
  msix_->SetControl(true, false);
  Unmask(0, 0x40);
  EXPECT_EQ(EventfdOf(0), eventfd);
  msix_->WriteTable(12, 4, 1);
  EXPECT_FALSE(router_.attached.contains(24));
}

TEST_F(MsixTest, SharedVectorGathersWhileStopped) {
  msix_->SetControl(true, false);
  Unmask(0, 0x40);
  CPR_ASSERT_OK_AND_ASSIGN(const int eventfd, msix_->Share(0));
  ASSERT_THAT(msix_->DetachShared(), IsOk());
  EXPECT_FALSE(router_.attached.contains(24));
  EXPECT_TRUE(router_.attached.contains(25)) << "a vector that is not shared costs the pause nothing";
  ASSERT_EQ(::eventfd_write(eventfd, 1), 0);
  EXPECT_TRUE(msix_->Save()[0].pending);
  ASSERT_THAT(msix_->AttachShared(), IsOk());
  EXPECT_EQ(Drain(EventfdOf(0)), 1u);
}

TEST_F(MsixTest, AVectorThatCannotBeHeardDoesNotSilenceTheNext) {
  msix_->SetControl(true, false);
  for (const unsigned vector : {0u, 1u}) {
    Unmask(vector, 0x40 + vector);
    ASSERT_THAT(msix_->Share(vector), IsOk());
  }
  ASSERT_THAT(msix_->DetachShared(), IsOk());
  router_.refused = {24};
  EXPECT_THAT(msix_->AttachShared(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("no irqfd")));
  EXPECT_TRUE(router_.attached.contains(25));
}

TEST_F(MsixTest, SharedVectorForgetsWhatHasGathered) {
  CPR_ASSERT_OK_AND_ASSIGN(const int eventfd, msix_->Share(0));
  ASSERT_EQ(::eventfd_write(eventfd, 2), 0);
  msix_->Signal(1);
  msix_->SetControl(true, false);
  msix_->Signal(1);
  EXPECT_EQ(msix_->ReadPba(0, 1), 3u);
  msix_->DiscardShared();
  EXPECT_EQ(msix_->ReadPba(0, 1), 2u) << "and nothing of the others";
}

TEST_F(MsixTest, AdoptedVectorWaitsForResume) {
  msix_->SetControl(true, false);
  Unmask(0, 0x40);
  const std::vector<MsixVectorState> state = msix_->Save();
  CPR_ASSERT_OK_AND_ASSIGN(auto next, Msix::Create(3, &router_));
  UniqueFd eventfd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
  const int number = eventfd.get();
  ASSERT_THAT(next->AdoptShared(0, std::move(eventfd)), IsOk());
  ASSERT_THAT(next->Restore(state, true, false), IsOk());
  EXPECT_FALSE(router_.attached.contains(27));
  ASSERT_THAT(next->AttachShared(), IsOk());
  EXPECT_EQ(router_.attached.at(27), number);
  EXPECT_EQ(Drain(number), 1u) << "what had gathered is still there for KVM";
}

}  // namespace
}  // namespace cpr
