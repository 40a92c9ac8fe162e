#include "vmm/vfio/vfio_pci.h"

#include <linux/vfio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/devices/bus.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/pci/fake_pci.h"
#include "vmm/pci/pci_host.h"
#include "vmm/vfio/identity.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::RecordingIntxRouter;
using ::cpr::testing::RecordingRouter;
using ::cpr::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr unsigned kSlot = 4;
constexpr uint32_t kIntxGsi = PciIntxGsi(kSlot, 1);
constexpr uint64_t kBarBytes = 0x4000, kTable = 0x1000, kPba = 0x2000;
constexpr unsigned kVectors = 3, kMsix = 0x40, kMsi = 0x50, kMsiVectors = 4;

// A function of the host: its regions are a memfd. BAR 0 of 16 KiB has the MSI-X table in its second page and the
// pending bits in its third; BAR 2 is of ports. It has MSI as well.
struct FakeHostDevice {
  static constexpr uint64_t RegionOffset(uint32_t index) { return uint64_t{index} << 20; }

  int memfd = ::memfd_create("device", MFD_CLOEXEC);
  std::vector<int> eventfds;  // connected
  uint32_t kind = 0;          // of those
  int unmasked_by = -1;
  bool has_err = false, has_req = false;
  std::map<uint32_t, int> notices;  // eventfds, by VFIO_PCI_ERR_IRQ_INDEX and so on
  int connects = 0, resets = 0;

  FakeHostDevice() {
    [[maybe_unused]] const int result = ::ftruncate(memfd, 16 << 20);
    Put(0x00, {0x34, 0x12, 0xe8, 0x11});
    Put(0x06, {0x10});
    Put(0x10, {0x04});
    Put(0x18, {0x01});
    Put(0x34, {kMsix});
    Put(kMsi, {0x05, 0x00, 0x84, 0x00});
    Put(kMsix, {0x11, kMsi, kVectors - 1, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x20, 0x00, 0x00});
  }

  // What lies in configuration space.
  void Put(unsigned offset, std::vector<uint8_t> bytes) const {
    PutInRegion(VFIO_PCI_CONFIG_REGION_INDEX, offset, std::move(bytes));
  }
  void PutInRegion(uint32_t region, uint64_t offset, std::vector<uint8_t> bytes) const {
    [[maybe_unused]] const ssize_t n =
        ::pwrite(memfd, bytes.data(), bytes.size(), static_cast<off_t>(RegionOffset(region) + offset));
  }
  uint32_t Get(uint32_t region, uint64_t offset, unsigned size_bytes) const {
    uint32_t value = 0;
    [[maybe_unused]] const ssize_t n =
        ::pread(memfd, &value, size_bytes, static_cast<off_t>(RegionOffset(region) + offset));
    return value;
  }

  vfio::Device Device() {
    return vfio::Device::Adopt(UniqueFd(memfd), [this](int, unsigned long request, void* argument) {  // NOLINT
      if (request == VFIO_DEVICE_GET_REGION_INFO) return Region(*static_cast<vfio_region_info*>(argument));
      if (request == VFIO_DEVICE_GET_IRQ_INFO) return CountNotices(*static_cast<vfio_irq_info*>(argument));
      if (request == VFIO_DEVICE_SET_IRQS) return SetIrqs(static_cast<const uint8_t*>(argument));
      if (request == VFIO_DEVICE_RESET) return ++resets, 0;
      errno = ENOTTY;
      return -1;
    });
  }

 private:
  static int Region(vfio_region_info& info) {
    info.offset = RegionOffset(info.index);
    info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    info.size = 0;
    if (info.index == VFIO_PCI_CONFIG_REGION_INDEX) info.size = 256;
    if (info.index == VFIO_PCI_BAR2_REGION_INDEX) info.size = 32;
    if (info.index == VFIO_PCI_BAR0_REGION_INDEX) {
      info.size = kBarBytes;
      info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
    }
    return 0;
  }
  int CountNotices(vfio_irq_info& info) const {
    info.count = 1;
    if (info.index == VFIO_PCI_ERR_IRQ_INDEX ? has_err : has_req) return 0;
    errno = EINVAL;
    return -1;
  }
  int SetIrqs(const uint8_t* argument) {
    vfio_irq_set set;
    std::memcpy(&set, argument, sizeof(set));
    if (set.index == VFIO_PCI_ERR_IRQ_INDEX || set.index == VFIO_PCI_REQ_IRQ_INDEX) {
      std::memcpy(&notices[set.index], argument + offsetof(vfio_irq_set, data), sizeof(int));
      return 0;
    }
    if ((set.flags & VFIO_IRQ_SET_ACTION_TRIGGER) == 0) {  // unmasked by an eventfd
      std::memcpy(&unmasked_by, argument + offsetof(vfio_irq_set, data), sizeof(int));
      return 0;
    }
    kind = set.index;
    eventfds.resize(set.count);
    if (set.count > 0) std::memcpy(eventfds.data(), argument + offsetof(vfio_irq_set, data), set.count * sizeof(int));
    ++connects;
    return 0;
  }
};

class VfioPciTest : public ::testing::Test {
 protected:
  VfioPci::Wiring Wiring() {
    return {.name = "vfio x",
            .router = &router_,
            .intx_router = &intx_router_,
            .set_memslot =
                [this](uint32_t slot, uint64_t gpa, absl::Span<uint8_t> memory) {
                  memslots_.erase(slot);
                  if (!memory.empty()) memslots_[slot] = {gpa, memory};
                  return absl::OkStatus();
                },
            .first_memslot = 100,
            .loop = loop_.get(),
            .failed = [this](const std::string& text) { failures_.push_back(text); },
            .warn = [this](const std::string& text) { warnings_.push_back(text); }};
  }
  void SetUp() override { CPR_ASSERT_OK_AND_ASSIGN(host_, PciHost::Create({}, &ports_, &mmio_)); }
  void TearDown() override { host_.reset(); }
  // `start`: the guest runs from here on.
  void Plug(VfioPci::Arrived* arrived = nullptr, bool start = true) {
    CPR_ASSERT_OK_AND_ASSIGN(function_, VfioPci::Create(device_.Device(), Wiring(), arrived));
    ASSERT_THAT(host_->Add(kSlot, function_.get()), IsOk());
    function_->Plug(kSlot);
    if (arrived == nullptr && start) {
      EXPECT_THAT(host_->AttachInterrupts(), IsOk());
    }
    bar_ = *function_->BarAddress(0);
  }
  void Write(unsigned offset, unsigned size_bytes, uint32_t value) {
    mmio_.Write(0xe0000000 + (kSlot << 15) + offset, size_bytes, value);
  }
  uint32_t Read(unsigned offset, unsigned size_bytes) {
    return static_cast<uint32_t>(mmio_.Read(0xe0000000 + (kSlot << 15) + offset, size_bytes));
  }
  void EnableMsix() { Write(kMsix + 2, 2, 0x8000); }
  void WriteMsi() {
    Write(kMsi + 4, 4, 0xfee01000);
    Write(kMsi + 8, 4, 0);
    Write(kMsi + 12, 2, 0x40);
  }
  // The VMM that has the device goes; the next one takes it over with its eventfds.
  void HandOver() {
    const PciFunctionState state = function_->Save();
    VfioPci::Arrived eventfds;
    CPR_ASSERT_OK_AND_ASSIGN(const std::vector<int> lent, function_->Eventfds());
    for (const int eventfd : lent) eventfds.interrupts.emplace_back(::dup(eventfd));
    for (size_t i = 0; i < eventfds.notices.size(); ++i) {
      if (const int eventfd = function_->notices().fds()[i]; eventfd >= 0) eventfds.notices[i].Reset(::dup(eventfd));
    }
    ASSERT_THAT(host_->DetachInterrupts(), IsOk());
    EXPECT_THAT(router_.attached, IsEmpty());
    for (const auto& [gsi, open] : intx_router_.open) EXPECT_FALSE(open) << gsi;
    ::eventfd_write(eventfds.interrupts[signalled_].get(), 1);  // the device goes on
    for (const auto& [kind, eventfd] : device_.notices) ::eventfd_write(eventfd, 1);
    host_.reset();
    device_.memfd = ::dup(device_.memfd);
    function_.reset();
    SetUp();
    Plug(&eventfds);
    ASSERT_THAT(host_->RestoreFunction(kSlot, state), IsOk());
    ASSERT_THAT(host_->AttachInterrupts(), IsOk());
    EXPECT_EQ(function_->Save(), state);
  }

  // The VMM that has the device goes, and so does the device; the next one opens it anew for the guest, which sleeps.
  void OpenAnew() {
    const PciFunctionState state = function_->Save();
    const auto pin = static_cast<uint8_t>(device_.Get(VFIO_PCI_CONFIG_REGION_INDEX, kPciInterruptPin, 1));
    host_.reset();
    function_.reset();
    EXPECT_THAT(router_.attached, IsEmpty());
    device_ = FakeHostDevice();
    device_.Put(kPciInterruptPin, {pin});
    SetUp();
    Plug(nullptr, /*start=*/false);
    ASSERT_THAT(host_->RestoreFunction(kSlot, state), IsOk());
    EXPECT_EQ(function_->Save(), state);
  }

  static uint64_t CountOf(int eventfd) {
    eventfd_t count = 0;
    return ::eventfd_read(eventfd, &count) == 0 ? count : 0;
  }

  unsigned signalled_ = 0;  // the interrupt that comes while the device changes hands
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create().value();
  Bus ports_, mmio_;
  RecordingRouter router_;
  RecordingIntxRouter intx_router_;
  FakeHostDevice device_;
  std::map<uint32_t, std::pair<uint64_t, absl::Span<uint8_t>>> memslots_;
  std::vector<std::string> warnings_, failures_;
  std::unique_ptr<VfioPci> function_;  // outlives the bus
  std::unique_ptr<PciHost> host_;
  uint64_t bar_ = 0;
};

TEST_F(VfioPciTest, GuestSeesTheDevice) {
  Plug();
  EXPECT_EQ(Read(0, 4), 0x11e81234u);
  EXPECT_EQ(Read(kMsix, 1), 0x11u);
  EXPECT_EQ(Read(kMsi, 1), 0x05u);
}

TEST_F(VfioPciTest, BarIsMemoryButForTheTablesPages) {
  Plug();
  ASSERT_EQ(memslots_.size(), 2u);
  EXPECT_EQ(memslots_.at(100).first, bar_);
  EXPECT_EQ(memslots_.at(100).second.size(), kTable);
  EXPECT_EQ(memslots_.at(101).first, bar_ + 0x3000);
  memslots_.at(101).second[8] = 0x77;
  EXPECT_EQ(device_.Get(VFIO_PCI_BAR0_REGION_INDEX, 0x3008, 1), 0x77u);
}

TEST_F(VfioPciTest, MemoryFollowsTheBar) {
  Plug();
  Write(kPciCommand, 2, 0);
  EXPECT_THAT(memslots_, IsEmpty()) << "the guest has switched it off";
  Write(kPciBar0, 4, 0xd0000000);
  Write(kPciCommand, 2, kPciCommandMemory);
  EXPECT_EQ(memslots_.at(100).first, 0xd0000000u);
}

TEST_F(VfioPciTest, TheRestOfTheTablesPageIsTheDevices) {
  Plug();
  device_.PutInRegion(VFIO_PCI_BAR0_REGION_INDEX, kTable + 0x800, {0x55});
  EXPECT_EQ(mmio_.Read(bar_ + kTable + 0x800, 1), 0x55u);
  mmio_.Write(bar_ + kPba + 0x800, 4, 0x12345678);
  EXPECT_EQ(device_.Get(VFIO_PCI_BAR0_REGION_INDEX, kPba + 0x800, 4), 0x12345678u);
}

TEST_F(VfioPciTest, PortsAreTheDevices) {
  Plug();
  Write(kPciCommand, 2, kPciCommandIo);
  ports_.Write(*function_->BarAddress(2) + 4, 2, 0xabcd);
  EXPECT_EQ(device_.Get(VFIO_PCI_BAR2_REGION_INDEX, 4, 2), 0xabcdu);
}

TEST_F(VfioPciTest, DeviceAnswersThoughTheGuestSwitchesItOff) {
  Plug();
  Write(kPciCommand, 2, kPciCommandMemory | kPciCommandBusMaster);
  EXPECT_EQ(device_.Get(VFIO_PCI_CONFIG_REGION_INDEX, kPciCommand, 2),
            kPciCommandIo | kPciCommandMemory | kPciCommandBusMaster);
  Write(kPciCommand, 2, 0);
  EXPECT_EQ(Read(kPciCommand, 2), 0u);
  EXPECT_EQ(device_.Get(VFIO_PCI_CONFIG_REGION_INDEX, kPciCommand, 2), kPciCommandIo | kPciCommandMemory);
}

TEST_F(VfioPciTest, OtherConfigurationIsTheDevices) {
  Plug();
  Write(0x80, 4, 0x04030201);
  EXPECT_EQ(device_.Get(VFIO_PCI_CONFIG_REGION_INDEX, 0x80, 4), 0x04030201u);
  EXPECT_EQ(Read(0x82, 2), 0x0403u);
  Write(kPciCommand, 4, 0xf9000000 | kPciCommandMemory);  // status, too
  EXPECT_EQ(device_.Get(VFIO_PCI_CONFIG_REGION_INDEX, kPciStatus, 2), 0xf900u);
  Write(0x100, 4, 1);
  EXPECT_EQ(Read(0x100, 4), ~0u) << "no extended configuration space";
}

TEST_F(VfioPciTest, InterruptsAreConnectedWhileTheGuestHasMsixOn) {
  Plug();
  EXPECT_EQ(device_.connects, 0);
  EnableMsix();
  CPR_ASSERT_OK_AND_ASSIGN(std::vector<int> eventfds, function_->Eventfds());
  ASSERT_EQ(eventfds.size(), kVectors + kMsiVectors);
  eventfds.resize(kVectors);
  EXPECT_EQ(device_.eventfds, eventfds);
  Write(kMsix + 2, 2, 0);
  EXPECT_THAT(device_.eventfds, IsEmpty());
}

TEST_F(VfioPciTest, KvmListensToUnmaskedVectorsAlone) {
  Plug();
  EnableMsix();
  EXPECT_THAT(router_.attached, IsEmpty());
  mmio_.Write(bar_ + kTable + 16, 8, 0xfee00000);
  mmio_.Write(bar_ + kTable + 24, 8, 0x41);
  EXPECT_THAT(router_.attached, ElementsAre(Pair(25, function_->Eventfds().value()[1])));
}

TEST_F(VfioPciTest, MaskedVectorIsPendingAndComesWhenItIsUnmasked) {
  Plug();
  EnableMsix();
  ::eventfd_write(device_.eventfds[1], 1);
  EXPECT_EQ(mmio_.Read(bar_ + kPba, 8), 2u);
  mmio_.Write(bar_ + kTable + 24, 8, 0x41);
  EXPECT_EQ(mmio_.Read(bar_ + kPba, 8), 0u);
  EXPECT_EQ(CountOf(router_.attached.at(25)), 1u) << "for KVM to inject";
}

TEST_F(VfioPciTest, MaskedVectorStaysPendingOverAHandover) {
  Plug();
  EnableMsix();
  signalled_ = 1;
  ::eventfd_write(device_.eventfds[1], 1);
  HandOver();
  EXPECT_THAT(router_.attached, IsEmpty());
  EXPECT_EQ(mmio_.Read(bar_ + kPba, 8), 2u);
  mmio_.Write(bar_ + kTable + 24, 8, 0x41);
  ASSERT_EQ(router_.attached.size(), 1u);
  EXPECT_EQ(CountOf(router_.attached.begin()->second), 2u) << "one to KVM, which makes it one interrupt";
}

TEST_F(VfioPciTest, WhatIsPendingEndsWithMsix) {
  Plug();
  const std::function<void()> ends[] = {[this] { Write(kMsix + 2, 2, 0); }, [this] { host_->Reset(); }};
  for (const auto& end : ends) {
    EnableMsix();
    ::eventfd_write(device_.eventfds[1], 1);
    EXPECT_EQ(mmio_.Read(bar_ + kPba, 8), 2u);
    end();
    EnableMsix();
    EXPECT_EQ(mmio_.Read(bar_ + kPba, 8), 0u) << "of the driver before";
  }
}

TEST_F(VfioPciTest, IntxThatCameAtTheLastMomentIsNotTheNextDrivers) {
  device_.Put(kPciInterruptPin, {1});
  Plug();
  const int trigger = intx_router_.lines[kIntxGsi].trigger;
  ::eventfd_write(trigger, 1);  // nobody listens to it here
  EnableMsix();
  EXPECT_EQ(CountOf(trigger), 0u);
}

TEST_F(VfioPciTest, MsiIsConnectedAndListenedToWhileTheGuestHasItOn) {
  Plug();
  WriteMsi();
  Write(kMsi + 2, 2, 0x0011);  // two of four
  CPR_ASSERT_OK_AND_ASSIGN(const std::vector<int> eventfds, function_->Eventfds());
  EXPECT_EQ(device_.kind, uint32_t{VFIO_PCI_MSI_IRQ_INDEX});
  EXPECT_THAT(device_.eventfds, ElementsAre(eventfds[kVectors], eventfds[kVectors + 1]));
  const uint32_t gsi = 24 + kVectors;
  EXPECT_THAT(router_.attached, ElementsAre(Pair(gsi, eventfds[kVectors]), Pair(gsi + 1, eventfds[kVectors + 1])));
  EXPECT_EQ(router_.routes[gsi + 1], (MsiMessage{.address = 0xfee01000, .data = 0x41}));
  Write(kMsi + 2, 2, 0);
  EXPECT_THAT(device_.eventfds, IsEmpty());
  EXPECT_THAT(router_.attached, IsEmpty());
}

TEST_F(VfioPciTest, MsiOfAnotherCpuGoesThereAndTheDeviceIsToldNothing) {
  Plug();
  WriteMsi();
  Write(kMsi + 2, 2, 1);
  const int connects = device_.connects;
  Write(kMsi + 4, 4, 0xfee02000);
  EXPECT_EQ(router_.routes[24 + kVectors], (MsiMessage{.address = 0xfee02000, .data = 0x40}));
  EXPECT_EQ(device_.connects, connects);
}

TEST_F(VfioPciTest, ResetSwitchesMsiOff) {
  Plug();
  WriteMsi();
  Write(kMsi + 2, 2, 1);
  host_->Reset();
  EXPECT_THAT(device_.eventfds, IsEmpty());
  EXPECT_THAT(router_.attached, IsEmpty());
  EXPECT_EQ(Read(kMsi + 2, 2), 0x84u);
}

TEST_F(VfioPciTest, IntxIsOnUntilTheGuestHasMessages) {
  device_.Put(kPciInterruptPin, {1});
  Plug();
  EXPECT_EQ(device_.kind, uint32_t{VFIO_PCI_INTX_IRQ_INDEX});
  ASSERT_TRUE(intx_router_.open[kIntxGsi]);
  EXPECT_THAT(device_.eventfds, ElementsAre(intx_router_.lines[kIntxGsi].trigger));
  EXPECT_EQ(device_.unmasked_by, intx_router_.lines[kIntxGsi].resample);
  EnableMsix();
  EXPECT_EQ(device_.kind, uint32_t{VFIO_PCI_MSIX_IRQ_INDEX});
  EXPECT_FALSE(intx_router_.open[kIntxGsi]);
  Write(kMsix + 2, 2, 0);
  EXPECT_EQ(device_.kind, uint32_t{VFIO_PCI_INTX_IRQ_INDEX});
  EXPECT_TRUE(intx_router_.open[kIntxGsi]);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(VfioPciTest, IntxOfADeviceThatHasComeIsListenedToAgain) {
  device_.Put(kPciInterruptPin, {1});
  Plug();
  const int connects = device_.connects;
  signalled_ = kVectors + kMsiVectors;
  HandOver();
  EXPECT_EQ(device_.connects, connects);
  ASSERT_TRUE(intx_router_.open[kIntxGsi]);
  EXPECT_EQ(CountOf(intx_router_.lines[kIntxGsi].trigger), 1u) << "what came meanwhile";
}

TEST_F(VfioPciTest, IntxOfADeviceThatHasComeWithMessagesStaysOff) {
  device_.Put(kPciInterruptPin, {1});
  Plug();
  EnableMsix();
  signalled_ = kVectors;
  HandOver();
  EXPECT_FALSE(intx_router_.open[kIntxGsi]);
}

TEST_F(VfioPciTest, ResetReachesTheDevice) {
  Plug();
  EnableMsix();
  host_->Reset();
  EXPECT_EQ(device_.resets, 1);
  EXPECT_THAT(device_.eventfds, IsEmpty());
  EXPECT_EQ(Read(kMsix + 2, 2), kVectors - 1u);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(VfioPciTest, DeviceThatHasComeIsToldNothing) {
  Plug();
  EnableMsix();
  mmio_.Write(bar_ + kTable, 8, 0xfee00000);
  mmio_.Write(bar_ + kTable + 8, 8, 0x40);
  Write(kPciCommand, 2, kPciCommandMemory | kPciCommandBusMaster);
  const int connects = device_.connects;
  HandOver();
  EXPECT_EQ(device_.connects, connects);
  EXPECT_EQ(device_.resets, 0);
  EXPECT_EQ(device_.Get(VFIO_PCI_CONFIG_REGION_INDEX, kPciCommand, 2),
            kPciCommandIo | kPciCommandMemory | kPciCommandBusMaster);
  ASSERT_EQ(router_.attached.size(), 1u);
  EXPECT_EQ(CountOf(router_.attached.begin()->second), 1u) << "what came meanwhile";
}

TEST_F(VfioPciTest, MsiOfADeviceThatHasComeIsListenedToAgain) {
  Plug();
  WriteMsi();
  Write(kMsi + 2, 2, 1);
  const int connects = device_.connects;
  signalled_ = kVectors;
  HandOver();
  EXPECT_EQ(device_.connects, connects);
  ASSERT_EQ(router_.attached.size(), 1u);
  EXPECT_EQ(CountOf(router_.attached.begin()->second), 1u) << "what came meanwhile";
  EXPECT_EQ(router_.routes[router_.attached.begin()->first], (MsiMessage{.address = 0xfee01000, .data = 0x40}));
}

// Both come while it changes hands.
TEST_F(VfioPciTest, FailureAndRequestReachTheVmmThatTheGuestComesTo) {
  device_.has_err = device_.has_req = true;
  device_.Put(kPciInterruptPin, {1});
  signalled_ = kVectors + kMsiVectors;
  Plug();
  ASSERT_EQ(device_.notices.size(), 2u);
  EXPECT_FALSE(loop_->RunOnce(absl::ZeroDuration()));
  const std::map<uint32_t, int> told = device_.notices;
  HandOver();
  EXPECT_EQ(device_.notices, told) << "the device is told nothing";
  while (loop_->RunOnce(absl::ZeroDuration())) continue;
  EXPECT_THAT(failures_, ElementsAre(HasSubstr("the device has reported an error")));
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("the host wants the device back")));
}

TEST_F(VfioPciTest, FailureWaitsUntilTheGuestRuns) {
  device_.has_err = true;
  Plug(nullptr, /*start=*/false);
  ::eventfd_write(device_.notices.at(VFIO_PCI_ERR_IRQ_INDEX), 1);
  EXPECT_FALSE(loop_->RunOnce(absl::ZeroDuration()));
  ASSERT_THAT(host_->AttachInterrupts(), IsOk());
  EXPECT_TRUE(loop_->RunOnce(absl::ZeroDuration()));
  EXPECT_EQ(failures_.size(), 1u);
}

TEST_F(VfioPciTest, InterruptsWaitUntilTheGuestRuns) {
  device_.Put(kPciInterruptPin, {1});
  Plug(nullptr, /*start=*/false);
  EXPECT_EQ(device_.kind, uint32_t{VFIO_PCI_INTX_IRQ_INDEX});
  EXPECT_FALSE(intx_router_.open[kIntxGsi]);
  ASSERT_THAT(host_->AttachInterrupts(), IsOk());
  EXPECT_TRUE(intx_router_.open[kIntxGsi]);
}

TEST_F(VfioPciTest, DeviceOpenedAnewLearnsWhatTheGuestHadSetUp) {
  device_.Put(kPciInterruptPin, {1});
  Plug();
  Write(kPciCommand, 2, 0);
  Write(kPciBar0, 4, 0xd0000000);
  Write(kPciCommand, 2, kPciCommandMemory | kPciCommandBusMaster);
  mmio_.Write(0xd0000000 + kTable, 8, 0xfee00000);
  mmio_.Write(0xd0000000 + kTable + 8, 8, 0x40);
  EnableMsix();
  OpenAnew();
  EXPECT_EQ(memslots_.at(100).first, 0xd0000000u);
  EXPECT_EQ(device_.Get(VFIO_PCI_CONFIG_REGION_INDEX, kPciCommand, 2),
            kPciCommandIo | kPciCommandMemory | kPciCommandBusMaster);
  EXPECT_EQ(device_.kind, uint32_t{VFIO_PCI_MSIX_IRQ_INDEX});
  EXPECT_EQ(device_.eventfds.size(), kVectors);
  EXPECT_THAT(router_.attached, IsEmpty()) << "the guest is not awake yet";
  ASSERT_THAT(host_->AttachInterrupts(), IsOk());
  EXPECT_THAT(router_.attached, ElementsAre(Pair(::testing::_, function_->Eventfds().value()[0])));
  EXPECT_FALSE(intx_router_.open[kIntxGsi]);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(VfioPciTest, DeviceOpenedAnewIsAsAfterAResetWhenItsGuestWakes) {
  Plug();
  const PciFunctionState booted = function_->Save();
  Write(kPciCommand, 2, kPciCommandMemory | kPciCommandBusMaster);
  EnableMsix();
  OpenAnew();
  host_->Reset();
  EXPECT_EQ(device_.resets, 1);
  EXPECT_EQ(function_->Save(), booted);
  EXPECT_THAT(device_.eventfds, IsEmpty());
  EXPECT_EQ(memslots_.at(100).first, bar_);
}

TEST_F(VfioPciTest, StateOfADeviceWithOtherCapabilitiesIsRefusedByName) {
  Plug();
  PciFunctionState state = function_->Save();
  state.config[kMsix + 2] = kVectors;
  state.vectors.emplace_back();
  EXPECT_THAT(host_->RestoreFunction(kSlot, state),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("vfio x: configuration byte 0x42")));
}

TEST_F(VfioPciTest, IsKnownByItsIdsAndBars) {
  Plug();
  EXPECT_EQ(function_->identity(),
            (VfioIdentity{.vendor_id = 0x1234, .device_id = 0x11e8, .bar_bytes = {kBarBytes, 0, 32}}));
}

TEST_F(VfioPciTest, DeviceWithOtherEventfdsIsRefused) {
  VfioPci::Arrived one;
  one.interrupts.emplace_back(::eventfd(0, EFD_CLOEXEC));
  EXPECT_THAT(VfioPci::Create(device_.Device(), Wiring(), &one),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("1 eventfds of interrupts, the device has 7")));
}

TEST_F(VfioPciTest, TableThatLeavesItsBarIsRefused) {
  device_.Put(kMsix + 5, {0x50});
  EXPECT_THAT(VfioPci::Create(device_.Device(), Wiring(), nullptr),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("MSI-X")));
}

}  // namespace
}  // namespace cpr
