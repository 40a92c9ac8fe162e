#include "vmm/virtio/pci.h"

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/virtio/fake_driver.h"
#include "vmm/virtio/fake_router.h"
#include "vmm/virtio/rng.h"

namespace cpr {
namespace {

using ::cpr::testing::FakeDriver;
using ::cpr::testing::FakeRouter;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr unsigned kConfigVector = 1, kQueueVector = 0;
constexpr uint64_t kBufferGpa = 0x8000;

class VirtioPciTest : public ::testing::Test {
 protected:
  VirtioPciTest() {
    device_.Resume();
    auto pci = VirtioPci::Create(&device_, 0x00ff00, &router_, [this](uint64_t gpa, int eventfd, bool add) {
      if (add) doorbells_[gpa] = eventfd;
      if (!add) doorbells_.erase(gpa);
      return absl::OkStatus();
    });
    if (!pci.ok()) std::abort();
    pci_ = *std::move(pci);
    pci_->SetBarAddress(0, 0xc0000000);
    pci_->WriteConfig(kPciCommand, 2, kPciCommandMemory | kPciCommandBusMaster);
  }

  uint64_t Read(uint64_t offset, unsigned size_bytes) { return pci_->AccessBarRead(0, offset, size_bytes); }
  void Write(uint64_t offset, unsigned size_bytes, uint64_t value) {
    pci_->AccessBarWrite(0, offset, size_bytes, value);
  }
  uint64_t OfferedFeatures() {
    Write(VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
    const uint64_t low = Read(VIRTIO_PCI_COMMON_DF, 4);
    Write(VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
    return low | Read(VIRTIO_PCI_COMMON_DF, 4) << 32;
  }
  void WriteFeatures(uint64_t features) {
    for (const unsigned window : {0u, 1u, 2u}) {
      Write(VIRTIO_PCI_COMMON_GFSELECT, 4, window);
      Write(VIRTIO_PCI_COMMON_GF, 4, window < 2 ? features >> (32 * window) & UINT32_MAX : 0xffffffff);
    }
  }
  // As Linux does.
  void BringUp() {
    Write(VIRTIO_PCI_COMMON_STATUS, 1, 0);
    Write(VIRTIO_PCI_COMMON_STATUS, 1, 3);
    WriteFeatures(OfferedFeatures());
    Write(VIRTIO_PCI_COMMON_STATUS, 1, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
    Write(VIRTIO_PCI_COMMON_MSIX, 2, kConfigVector);
    const VirtqueueState layout = driver_.layout();
    Write(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    Write(VIRTIO_PCI_COMMON_Q_SIZE, 2, layout.size);
    WriteAddress(VIRTIO_PCI_COMMON_Q_DESCLO, layout.descriptors_gpa);
    WriteAddress(VIRTIO_PCI_COMMON_Q_AVAILLO, layout.available_gpa);
    WriteAddress(VIRTIO_PCI_COMMON_Q_USEDLO, layout.used_gpa);
    Write(VIRTIO_PCI_COMMON_Q_MSIX, 2, kQueueVector);
    Write(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    Write(VIRTIO_PCI_COMMON_STATUS, 1, 3 | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
  }
  void WriteAddress(uint64_t offset, uint64_t gpa) {
    Write(offset, 4, gpa & UINT32_MAX);
    Write(offset + 4, 4, gpa >> 32);
  }
  void EnableMsix() {
    for (unsigned vector = 0; vector < 2; ++vector) Write(VirtioPci::kMsixAt + vector * 16 + 12, 4, 0);
    for (unsigned at = pci_->ReadConfig(kPciCapabilityPointer, 1); at != 0; at = pci_->ReadConfig(at + 1, 1)) {
      if (pci_->ReadConfig(at, 1) == 0x11) pci_->WriteConfig(at + 2, 2, 0x8000);
    }
  }
  // How many interrupts `vector` had since this was asked last.
  uint64_t Interrupts(unsigned vector) {
    const auto found = router_.attached.find(FakeRouter::kFirstGsi + vector);
    uint64_t count = 0;
    if (found == router_.attached.end() || ::read(found->second, &count, sizeof(count)) < 0) return 0;
    return count;
  }

  const GuestMemory memory_ = testing::CreateTestMemory();
  FakeRouter router_;
  std::map<uint64_t, int> doorbells_;
  VirtioRng device_{&memory_};
  FakeDriver driver_{&memory_, 0x1000, 8};
  std::unique_ptr<VirtioPci> pci_;
};

TEST_F(VirtioPciTest, ConfigurationSpaceSaysWhatAndWhere) {
  EXPECT_EQ(pci_->ReadConfig(0, 4), 0x10441af4u);
  std::map<unsigned, std::pair<uint32_t, uint32_t>> places;  // by type: offset and length
  for (unsigned at = pci_->ReadConfig(kPciCapabilityPointer, 1); at != 0; at = pci_->ReadConfig(at + 1, 1)) {
    if (pci_->ReadConfig(at, 1) != 0x09) continue;
    EXPECT_EQ(pci_->ReadConfig(at + 4, 1), 0u) << "the BAR";
    const unsigned type = pci_->ReadConfig(at + 3, 1);
    EXPECT_EQ(pci_->ReadConfig(at + 2, 1), type == VIRTIO_PCI_CAP_NOTIFY_CFG ? 20u : 16u);
    places[type] = {pci_->ReadConfig(at + 8, 4), pci_->ReadConfig(at + 12, 4)};
    if (type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
      EXPECT_EQ(pci_->ReadConfig(at + 16, 4), 4u);
    }
  }
  EXPECT_THAT(places, ElementsAre(Pair(VIRTIO_PCI_CAP_COMMON_CFG, Pair(0u, 56u)),
                                  Pair(VIRTIO_PCI_CAP_NOTIFY_CFG, Pair(0x3000u, 4u)),
                                  Pair(VIRTIO_PCI_CAP_ISR_CFG, Pair(0x1000u, 1u)),
                                  Pair(VIRTIO_PCI_CAP_DEVICE_CFG, Pair(0x2000u, 0x1000u))));
}

TEST_F(VirtioPciTest, DriverComesUpAndIsServed) {
  EnableMsix();
  BringUp();
  EXPECT_EQ(OfferedFeatures(), device_.features());
  EXPECT_EQ(device_.driver_features(), device_.features());
  EXPECT_EQ(device_.queue(0), driver_.layout());
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_STATUS, 1), 15u);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_Q_AVAILLO, 4), driver_.layout().available_gpa);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1u);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_Q_MSIX, 2), kQueueVector);
  driver_.Add({{kBufferGpa, 32, true}});
  Write(VirtioPci::kDoorbellsAt, 2, 0);
  uint64_t rung = 0;
  EXPECT_EQ(::read(device_.notify_fd(0), &rung, sizeof(rung)), 8);
  device_.Serve(0);
  EXPECT_EQ(driver_.TakeUsed(), std::make_pair(0u, 32u));
  EXPECT_EQ(Interrupts(kQueueVector), 1u);
  EXPECT_EQ(Interrupts(kConfigVector), 0u);
  EXPECT_EQ(Read(VirtioPci::kInterruptStatusAt, 1), 1u);
  EXPECT_EQ(Read(VirtioPci::kInterruptStatusAt, 1), 0u);
}

TEST_F(VirtioPciTest, BrokenDriverIsToldByTheConfigVector) {
  EnableMsix();
  BringUp();
  driver_.Offer(8);
  device_.Serve(0);
  EXPECT_EQ(Interrupts(kConfigVector), 1u);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_STATUS, 1), 15u | VIRTIO_CONFIG_S_NEEDS_RESET);
  EXPECT_EQ(Read(VirtioPci::kInterruptStatusAt, 1), 2u);
}

TEST_F(VirtioPciTest, QueuesAndVectorsThatDoNotExist) {
  Write(VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_Q_SIZE, 2), 0u);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffffu);
  Write(VIRTIO_PCI_COMMON_Q_MSIX, 2, 0);
  Write(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
  Write(VIRTIO_PCI_COMMON_MSIX, 2, 2);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_MSIX, 2), 0xffffu) << "there are two";
  Write(VirtioPci::kDoorbellsAt + 4, 2, 1);
  Write(VirtioPci::kBarBytes - 8, 8, ~uint64_t{0});
  for (uint64_t offset = 0; offset < VirtioPci::kBarBytes; offset += 4) Read(offset, 4);
  for (uint64_t offset = 0; offset < VirtioPci::kMsixAt; offset += 4) Write(offset, 4, 0xffffffff);
}

TEST_F(VirtioPciTest, WideAccessIsThatOfBothRegisters) {
  Write(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
  Write(VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x123456789abcdef0);
  EXPECT_EQ(device_.queue(0).descriptors_gpa, 0x123456789abcdef0u);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x123456789abcdef0u);
  EXPECT_EQ(Read(VIRTIO_PCI_COMMON_MSIX, 4), 0x1ffffu) << "no vector, one queue";
}

TEST_F(VirtioPciTest, DoorbellsFollowTheBar) {
  EXPECT_THAT(doorbells_, IsEmpty());
  pci_->BarMoved(0, 0xc0000000);
  EXPECT_THAT(doorbells_, ElementsAre(Pair(0xc0003000, device_.notify_fd(0))));
  pci_->BarMoved(0, 0xd0000000);
  EXPECT_THAT(doorbells_, ElementsAre(Pair(0xd0003000, device_.notify_fd(0))));
  pci_->BarMoved(0, std::nullopt);
  EXPECT_THAT(doorbells_, IsEmpty());
  pci_->BarMoved(0, 0xc0000000);
  pci_.reset();
  EXPECT_THAT(doorbells_, IsEmpty());
}

TEST_F(VirtioPciTest, ResetIsOfDeviceAndTransport) {
  BringUp();
  pci_->Reset();
  EXPECT_EQ(device_.status(), 0);
  EXPECT_EQ(pci_->SaveTransport(), (VirtioPciState{.queue_vectors = {0xffff}}));
  BringUp();
  Write(VIRTIO_PCI_COMMON_STATUS, 1, 0);
  EXPECT_EQ(pci_->SaveTransport().queue_vectors[0], 0xffff);
}

}  // namespace
}  // namespace cpr
