#ifndef TESTS_GUEST_FAKE_FUNCTION_H_
#define TESTS_GUEST_FAKE_FUNCTION_H_

#include <array>
#include <cstdint>

#include "tests/guest/guest_vm.h"

namespace cpr::testing {

// A PCI function alone on bus 0, as 00:03.0, for a guest with one vCPU: as much of one as the guest uses, in dwords.
// Its memory BARs, of 32 bits, have no place until the guest gives them one. Called on the vCPU's thread.
class FakeFunction {
 public:
  virtual ~FakeFunction() = default;

  // For GuestVm::Options::serve.
  bool Serve(GuestVm* guest, kvm_run* run);

 protected:
  static constexpr uint32_t kMemory = 2, kBusMaster = 4;  // of the command register

  // `ids`: device << 16 | vendor.
  explicit FakeFunction(uint32_t ids);
  void AddBar(unsigned bar, uint32_t size_bytes);
  // The dword at `offset` of configuration space; ones in `writable` are the guest's to write.
  void AddConfig(unsigned offset, uint32_t value, uint32_t writable);
  uint32_t Config(unsigned offset) const { return config_[offset / 4]; }

  virtual uint32_t ReadBar(GuestVm* guest, unsigned bar, uint64_t offset) = 0;
  virtual void WriteBar(GuestVm* guest, unsigned bar, uint64_t offset, uint32_t value) = 0;
  // After each write of configuration space.
  virtual void ConfigWritten(GuestVm* /*guest*/) {}

 private:
  uint32_t AccessConfig(GuestVm* guest, const uint32_t* value);

  uint32_t config_address_ = 0;
  std::array<uint32_t, 64> config_{}, writable_{};
  std::array<uint32_t, 6> bar_bytes_{};
};

}  // namespace cpr::testing

#endif  // TESTS_GUEST_FAKE_FUNCTION_H_
