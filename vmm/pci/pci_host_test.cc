#include "vmm/pci/pci_host.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"
#include "vmm/pci/fake_pci.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::RecordingRouter;
using ::cpr::testing::StatusIs;
using ::cpr::testing::ToyFunction;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class PciHostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(toy_.status, IsOk());
    CPR_ASSERT_OK_AND_ASSIGN(host_, PciHost::Create(PciWindowsAbove(0), &ports_, &mmio_));
    CPR_ASSERT_OK_AND_ASSIGN(const unsigned slot, host_->Add(3, &toy_));
    ASSERT_EQ(slot, 3u);
  }
  uint32_t Read(unsigned slot, unsigned offset, unsigned size_bytes = 4) {
    host_->WritePort(0, 4, 0x80000000 | slot << 11 | (offset & ~3u));
    return host_->ReadPort(4 + offset % 4, size_bytes);
  }
  void Write(unsigned slot, unsigned offset, unsigned size_bytes, uint32_t value) {
    host_->WritePort(0, 4, 0x80000000 | slot << 11 | (offset & ~3u));
    host_->WritePort(4 + offset % 4, size_bytes, value);
  }
  static constexpr uint64_t EcamOf(unsigned slot, unsigned offset) { return 0xe0000000 + (slot << 15) + offset; }

  Bus ports_, mmio_;
  RecordingRouter router_;
  ToyFunction toy_{&router_};
  std::unique_ptr<PciHost> host_;
};

TEST_F(PciHostTest, BothMechanismsShowTheSameFunctions) {
  EXPECT_EQ(Read(0, 8) >> 8, 0x060000u);
  EXPECT_EQ(Read(3, 0), 0x56781234u);
  EXPECT_EQ(mmio_.Read(EcamOf(3, 0), 4), 0x56781234u);
  EXPECT_EQ(mmio_.Read(EcamOf(3, 2), 2), 0x5678u);
  EXPECT_EQ(Read(4, 0), 0xffffffffu);
  EXPECT_EQ(mmio_.Read(EcamOf(3, 0x100), 4), 0xffffffffu) << "no extended space";
  EXPECT_EQ(mmio_.Read(EcamOf(3, 0x1000), 4), 0xffffffffu) << "no second function";
}

TEST_F(PciHostTest, ConfigurationDataNeedsTheEnableBit) {
  host_->WritePort(0, 4, 3 << 11);
  EXPECT_EQ(host_->ReadPort(4, 4), 0xffffffffu);
  host_->WritePort(0, 4, 0x80010000 | 3 << 11);  // bus 1
  EXPECT_EQ(host_->ReadPort(4, 4), 0xffffffffu);
  host_->WritePort(0, 2, 0x1234);
  EXPECT_EQ(host_->ReadPort(0, 4), 0x80010000u | 3 << 11) << "the address takes dwords alone";
}

TEST_F(PciHostTest, CapabilitiesAreLinkedAndMasked) {
  const unsigned vendor = Read(3, kPciCapabilityPointer, 1);
  EXPECT_EQ(vendor, toy_.vendor_capability);
  EXPECT_EQ(Read(3, vendor, 1), 9u);
  const unsigned msix = Read(3, vendor + 1, 1);
  EXPECT_EQ(Read(3, msix, 1), 0x11u);
  EXPECT_EQ(Read(3, msix + 1, 1), 0u);
  EXPECT_EQ(Read(3, msix + 2, 2), ToyFunction::kVectors - 1);
  Write(3, vendor + 4, 1, 0xff);
  EXPECT_EQ(Read(3, vendor + 4, 1), 0xfbu);
}

TEST_F(PciHostTest, BarsTellTheirSize) {
  Write(3, kPciBar0, 4, 0xffffffff);
  Write(3, kPciBar0 + 4, 4, 0xffffffff);
  EXPECT_EQ(Read(3, kPciBar0), 0xfffff004u);
  EXPECT_EQ(Read(3, kPciBar0 + 4), 0xffffffffu);
  Write(3, kPciBar0 + 8, 4, 0xffffffff);
  EXPECT_EQ(Read(3, kPciBar0 + 8), 0xfffffff1u);
  Write(3, kPciBar0 + 12, 4, 0xffffffff);
  EXPECT_EQ(Read(3, kPciBar0 + 12), 0u);
}

TEST_F(PciHostTest, BarsArePlacedAndFollowTheirRegisters) {
  EXPECT_EQ(Read(3, kPciCommand, 2) & 3, 3u);
  mmio_.Write(0xc0000010, 4, 42);
  EXPECT_EQ(ports_.Read(0xc000, 4), 0u);
  EXPECT_EQ((toy_.values[{0u, 0x10u}]), 42u);
  toy_.moves.clear();
  Write(3, kPciBar0, 4, 0xc8000000);
  EXPECT_EQ(mmio_.Read(0xc8000010, 4), 42u);
  EXPECT_EQ(mmio_.Read(0xc0000010, 4), 0xffffffffu);
  Write(3, kPciCommand, 2, 0);
  EXPECT_EQ(mmio_.Read(0xc8000010, 4), 0xffffffffu);
  EXPECT_THAT(toy_.moves,
              ElementsAre(Pair(0, 0xc8000000), Pair(0, std::nullopt), Pair(2, std::nullopt), Pair(4, std::nullopt)));
}

TEST_F(PciHostTest, BarOverSomethingElseAnswersNowhere) {
  Write(3, kPciBar0, 4, 0xe0000000);
  EXPECT_EQ(mmio_.Read(EcamOf(0, 0), 4), 0x00081b36u);
  Write(3, kPciBar0, 4, 0xc0000000);
  EXPECT_EQ(mmio_.Read(0xc0000010, 4), 0u);
}

TEST_F(PciHostTest, MsixTableIsReachedThroughItsBar) {
  const uint64_t table = Read(3, kPciBar0 + 16);
  mmio_.Write(table, 8, 0xfee01000);
  mmio_.Write(table + 8, 4, 0x51);
  mmio_.Write(table + 12, 4, 0);
  EXPECT_EQ(mmio_.Read(table, 8), 0xfee01000u);
  EXPECT_TRUE(router_.routes.empty());
  const unsigned msix = Read(3, toy_.vendor_capability + 1, 1);
  Write(3, msix + 2, 2, 0x8000);
  EXPECT_EQ(router_.routes.at(24), (MsiMessage{0xfee01000, 0x51}));
  Write(3, msix + 2, 2, 0xc000);
  toy_.msix()->Signal(0);
  EXPECT_EQ(mmio_.Read(table + 48, 8), 1u);
}

TEST_F(PciHostTest, ResetPutsEverythingBack) {
  const PciFunctionState before = toy_.Save();
  Write(3, kPciBar0, 4, 0xc8000000);
  Write(3, kPciCommand, 2, 0x404);
  toy_.msix()->WriteTable(0, 8, 0xfee00000);
  host_->Reset();
  EXPECT_EQ(toy_.Save(), before);
  EXPECT_EQ(mmio_.Read(0xc0000010, 4), 0u);
}

TEST_F(PciHostTest, RestoredBarsMoveOnlyIfTheyMust) {
  const PciFunctionState same = toy_.Save();
  toy_.moves.clear();
  ASSERT_THAT(host_->RestoreFunction(3, same), IsOk());
  EXPECT_TRUE(toy_.moves.empty());
  PciFunctionState moved = same;
  moved.config[kPciBar0 + 3] = 0xc9;
  ASSERT_THAT(host_->RestoreFunction(3, moved), IsOk());
  EXPECT_THAT(toy_.moves, ElementsAre(Pair(0, 0xc9000000)));
}

TEST_F(PciHostTest, RestoredBarsMayHaveChangedPlaces) {
  ToyFunction other(&router_);
  ASSERT_THAT(host_->Add(4, &other), IsOk());
  PciFunctionState first = toy_.Save(), second = other.Save();
  const uint64_t places[] = {Read(3, kPciBar0) & ~15u, Read(4, kPciBar0) & ~15u};
  std::swap_ranges(first.config.begin() + kPciBar0, first.config.begin() + kPciBar0 + 8,
                   second.config.begin() + kPciBar0);
  ASSERT_THAT(host_->RestoreFunction(3, first), IsOk());
  ASSERT_THAT(host_->RestoreFunction(4, second), IsOk());
  mmio_.Write(places[1] + 0x10, 4, 42);
  mmio_.Write(places[0] + 0x10, 4, 43);
  EXPECT_EQ((toy_.values[{0u, 0x10u}]), 42u) << "it answers nowhere";
  EXPECT_EQ((other.values[{0u, 0x10u}]), 43u);
  host_.reset();  // before the functions
}

TEST_F(PciHostTest, SlotsAndWindowsEnd) {
  ToyFunction other(&router_);
  EXPECT_THAT(host_->Add(3, &other), StatusIs(absl::StatusCode::kAlreadyExists, ::testing::_));
  CPR_ASSERT_OK_AND_ASSIGN(const unsigned slot, host_->Add(std::nullopt, &other));
  EXPECT_EQ(slot, 1u);
  struct Huge : ToyFunction {
    explicit Huge(MsiRouter* router) : ToyFunction(router) { AddBar(5, PciBarKind::kMemory32, 1u << 30); }
  } huge(&router_);
  EXPECT_THAT(host_->Add(std::nullopt, &huge), StatusIs(absl::StatusCode::kResourceExhausted, ::testing::_));
  host_.reset();  // before the functions
}

TEST_F(PciHostTest, FunctionsOfAMachineThatWasNotFinishedMayBeGone) {
  auto gone = std::make_unique<ToyFunction>(&router_);
  CPR_ASSERT_OK_AND_ASSIGN(const unsigned slot, host_->Add(std::nullopt, gone.get()));
  const std::optional<uint64_t> bar = gone->BarAddress(0);
  ASSERT_TRUE(bar.has_value()) << slot;
  gone.reset();
  host_.reset();
  EXPECT_THAT(mmio_.Add("another", *bar, 4096, 8, {}), IsOk()) << "its BARs are off the bus";
}

TEST_F(PciHostTest, AFunctionThatCannotInterruptDoesNotSilenceTheNext) {
  ToyFunction next(&router_);
  ASSERT_THAT(host_->Add(4, &next), IsOk());
  for (ToyFunction* function : {&toy_, &next}) {
    function->msix()->SetControl(true, false);
    function->msix()->WriteTable(8, 8, 0x40);  // the first vector's data, unmasked
    ASSERT_THAT(function->msix()->Share(0), IsOk());
  }
  ASSERT_THAT(host_->DetachInterrupts(), IsOk());
  EXPECT_FALSE(router_.attached.contains(24 + ToyFunction::kVectors));
  router_.refused = {24};
  EXPECT_THAT(host_->AttachInterrupts(), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("no irqfd")));
  EXPECT_TRUE(router_.attached.contains(24 + ToyFunction::kVectors));
}

}  // namespace
}  // namespace cpr
