#include "tests/guest/fake_msix_card.h"

#include <utility>

namespace cpr::testing {
namespace {

constexpr uint32_t kIds = 0x10d38086, kRegisterBytes = 1 << 17, kMsixBytes = 1 << 14, kPbaOffset = 0x2000;
constexpr unsigned kRegisterBar = 0, kMsixBar = 3;
constexpr unsigned kCommandRegister = 0x04, kCapabilities = 0x34, kMsix = 0xa0;
constexpr uint32_t kHasCapabilities = 0x10 << 16, kMsixEnable = 1u << 31, kFunctionMask = 1u << 30;
constexpr uint32_t kIcs = 0xc8, kIms = 0xd0, kImc = 0xd8, kIvar = 0xe4, kRxq0 = 1 << 20;
constexpr unsigned kData = 2, kControl = 3;  // dwords of a table's entry
constexpr uint32_t kIvarValid = 8, kIvarVector = 7;

}  // namespace

FakeMsixCard::FakeMsixCard(bool has_msix) : FakeFunction(kIds) {
  AddBar(kRegisterBar, kRegisterBytes);
  AddBar(kMsixBar, kMsixBytes);
  for (unsigned i = 0; i < kVectors; ++i) table_[kEntryDwords * i + kControl] = 1;
  if (!has_msix) return;
  AddConfig(kCommandRegister, kHasCapabilities, 0xffff);
  AddConfig(kCapabilities, kMsix, 0);
  AddConfig(kMsix, 17 | (kVectors - 1) << 16, kMsixEnable | kFunctionMask);
  AddConfig(kMsix + 4, kMsixBar, 0);
  AddConfig(kMsix + 8, kPbaOffset | kMsixBar, 0);
}

uint32_t FakeMsixCard::ReadBar(GuestVm* guest, unsigned bar, uint64_t offset) {
  if (bar == kRegisterBar) return 0;  // a reset that is over
  if (offset == kPbaOffset) return ReadPending(guest);
  return offset / 4 < table_.size() ? table_[offset / 4] : 0;
}

void FakeMsixCard::WriteBar(GuestVm* guest, unsigned bar, uint64_t offset, uint32_t value) {
  if (bar == kMsixBar) {
    if (offset / 4 < table_.size()) table_[offset / 4] = value;
    return SendPending(guest);
  }
  if (offset == kIms) enabled_causes_ |= value;
  if (offset == kImc) enabled_causes_ &= ~value;
  if (offset == kIvar) ivar_ = value;
  if (offset == kIcs && (value & enabled_causes_ & kRxq0) != 0 && (ivar_ & kIvarValid) != 0) Raise(guest);
}

void FakeMsixCard::Raise(GuestVm* guest) {
  const unsigned vector = ivar_ & kIvarVector;
  if (vector >= kVectors || (Config(kMsix) & kMsixEnable) == 0) return;
  if (!Masked(vector) || fault_ == Fault::kThroughMask) return Send(guest, vector);
  if (fault_ != Fault::kForgets) pending_ |= 1u << vector;
}

bool FakeMsixCard::Masked(unsigned vector) const {
  return (Config(kMsix) & kFunctionMask) != 0 || (table_[kEntryDwords * vector + kControl] & 1) != 0;
}

void FakeMsixCard::Send(GuestVm* guest, unsigned vector) {
  if ((Config(kCommandRegister) & kBusMaster) == 0) return;
  const uint32_t* entry = &table_[kEntryDwords * vector];
  guest->vm().SignalMsi({.address_lo = entry[0], .address_hi = entry[1], .data = entry[kData]}).IgnoreError();
}

void FakeMsixCard::SendPending(GuestVm* guest) {
  for (unsigned vector = 0; vector < kVectors; ++vector) {
    const uint32_t bit = 1u << vector;
    if ((pending_ & bit) == 0 || Masked(vector)) continue;
    pending_ &= ~bit;
    if (fault_ == Fault::kStaysPending) stuck_ |= bit;
    if (fault_ == Fault::kSendsTwice) sends_again_ |= bit;
    if (fault_ != Fault::kLosesAtUnmask) Send(guest, vector);
  }
}

// The second one not at once: two would be one to a local APIC.
uint32_t FakeMsixCard::ReadPending(GuestVm* guest) {
  const uint32_t again = std::exchange(sends_again_, 0);
  for (unsigned vector = 0; vector < kVectors; ++vector) {
    if ((again >> vector & 1) != 0) Send(guest, vector);
  }
  return pending_ | stuck_;
}

}  // namespace cpr::testing
