#ifndef TESTS_GUEST_FAKE_MSIX_CARD_H_
#define TESTS_GUEST_FAKE_MSIX_CARD_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "tests/guest/fake_function.h"

namespace cpr::testing {

// As much of QEMU's e1000e (8086:10d3) as the guest uses: software raises a cause, which interrupts by the MSI-X vector
// that IVAR says. set_fault is for any thread.
class FakeMsixCard final : public FakeFunction {
 public:
  enum class Fault { kNone, kThroughMask, kForgets, kLosesAtUnmask, kSendsTwice, kStaysPending };
  static constexpr unsigned kVectors = 5;

  explicit FakeMsixCard(bool has_msix);
  // From the next time on that the cause is raised.
  void set_fault(Fault fault) { fault_ = fault; }

 private:
  static constexpr unsigned kEntryDwords = 4;

  uint32_t ReadBar(GuestVm* guest, unsigned bar, uint64_t offset) override;
  void WriteBar(GuestVm* guest, unsigned bar, uint64_t offset, uint32_t value) override;
  void ConfigWritten(GuestVm* guest) override { SendPending(guest); }
  void Raise(GuestVm* guest);
  bool Masked(unsigned vector) const;
  void Send(GuestVm* guest, unsigned vector);
  void SendPending(GuestVm* guest);
  uint32_t ReadPending(GuestVm* guest);

  std::atomic<Fault> fault_{Fault::kNone};
  uint32_t enabled_causes_ = 0, ivar_ = 0, pending_ = 0, stuck_ = 0, sends_again_ = 0;
  std::array<uint32_t, kVectors * kEntryDwords> table_{};
};

}  // namespace cpr::testing

#endif  // TESTS_GUEST_FAKE_MSIX_CARD_H_
