#ifndef TESTS_GUEST_FAKE_EDU_H_
#define TESTS_GUEST_FAKE_EDU_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "tests/guest/fake_function.h"

namespace cpr::testing {

// As much of QEMU's edu device (1234:11e8, docs/specs/edu.rst) as the guest uses. A DMA ends at once. What is public is
// for any thread.
class FakeEdu final : public FakeFunction {
 public:
  enum class Fault { kNone, kWrongByte, kLostInterrupt, kSecondInterrupt, kOtherStatus };
  static constexpr uint32_t kWrongOffset = 1234;

  // `intx_pin`: of the IOAPIC in the kernel, that its INTx leads to; none: it has no INTx.
  FakeEdu(std::optional<uint32_t> intx_pin, bool has_msi);
  // From the next DMA on.
  void set_fault(Fault fault) { fault_ = fault; }
  // The device forgets its interrupt; the line stays as it is.
  void ForgetStatus() { status_ = 0; }

 private:
  uint32_t ReadBar(GuestVm* guest, unsigned bar, uint64_t offset) override;
  void WriteBar(GuestVm* guest, unsigned bar, uint64_t offset, uint32_t value) override;
  void DoDma(GuestVm* guest, bool to_ram);
  void Interrupt(GuestVm* guest);
  void SetLine(GuestVm* guest, bool asserted);

  const std::optional<uint32_t> intx_pin_;
  std::atomic<Fault> fault_{Fault::kNone};
  std::atomic<uint32_t> status_ = 0;
  uint32_t source_ = 0, destination_ = 0, count_bytes_ = 0;
  std::array<uint8_t, 4096> buffer_{};
};

}  // namespace cpr::testing

#endif  // TESTS_GUEST_FAKE_EDU_H_
