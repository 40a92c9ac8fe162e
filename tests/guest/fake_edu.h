#ifndef TESTS_GUEST_FAKE_EDU_H_
#define TESTS_GUEST_FAKE_EDU_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "tests/guest/guest_vm.h"

namespace cpr::testing {

// As much of QEMU's edu device (1234:11e8, docs/specs/edu.rst) as the guest uses, alone on PCI bus 0 as function
// 00:03.0, without a place for its BAR until the guest gives it one. A DMA ends at once. For a guest with one vCPU:
// Serve is called on its thread, set_fault on any.
class FakeEdu {
 public:
  enum class Fault { kNone, kWrongByte, kLostInterrupt, kSecondInterrupt, kOtherStatus };
  static constexpr uint32_t kWrongOffset = 1234;

  explicit FakeEdu(bool has_msi) : has_msi_(has_msi) {}
  // From the next DMA on.
  void set_fault(Fault fault) { fault_ = fault; }

  // For GuestVm::Options::serve.
  bool Serve(GuestVm* guest, kvm_run* run);

 private:
  uint32_t ReadConfig(uint32_t address) const;
  void WriteConfig(uint32_t address, uint32_t value);
  uint32_t ReadRegister(uint64_t offset) const;
  void WriteRegister(GuestVm* guest, uint64_t offset, uint32_t value);
  void DoDma(GuestVm* guest, bool to_ram);
  void Interrupt(GuestVm* guest);

  const bool has_msi_;
  std::atomic<Fault> fault_{Fault::kNone};
  uint32_t config_address_ = 0;
  uint32_t bar_ = 0, command_ = 0, msi_control_ = 0, msi_address_ = 0, msi_data_ = 0;
  uint32_t status_ = 0, source_ = 0, destination_ = 0, count_bytes_ = 0;
  std::array<uint8_t, 4096> buffer_{};
};

}  // namespace cpr::testing

#endif  // TESTS_GUEST_FAKE_EDU_H_
