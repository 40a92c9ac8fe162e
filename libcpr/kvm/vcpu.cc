#include "libcpr/kvm/vcpu.h"

#include <sys/ioctl.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/flex.h"

#define CPR_VCPU_READ(type, request) Read<type>(request, #request)
#define CPR_VCPU_CALL(request, arg) Call(request, #request, arg)

namespace cpr::kvm {
namespace {

// More leaves than any kernel offers (KVM_MAX_CPUID_ENTRIES).
constexpr uint32_t kMaxCpuidEntries = 256;

kvm_device_attr TscOffsetAttr(const uint64_t* offset) {
  return {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = reinterpret_cast<uint64_t>(offset)};
}

}  // namespace

absl::StatusOr<Vcpu> Vcpu::Adopt(UniqueFd fd, uint32_t id, size_t run_size_bytes) {
  auto run = Mapping::Create(fd.get(), 0, run_size_bytes);
  if (!run.ok()) return Annotate(run.status(), absl::StrCat("kvm_run vcpu ", id));
  return Vcpu(std::move(fd), id, *std::move(run));
}

absl::StatusOr<int> Vcpu::Call(unsigned long request, absl::string_view name, uint64_t arg) const {  // NOLINT
  const int result = ::ioctl(fd_.get(), request, arg);
  if (result < 0) return ErrnoStatus(errno, absl::StrCat(name, " vcpu ", id_));
  return result;
}

absl::StatusOr<int> Vcpu::Call(unsigned long request, absl::string_view name,
                               const volatile void* arg) const {  // NOLINT
  return Call(request, name, reinterpret_cast<uint64_t>(arg));
}

template <typename T>
absl::StatusOr<T> Vcpu::Read(unsigned long request, absl::string_view name) const {  // NOLINT
  T value = {};
  CPR_RETURN_IF_ERROR(Call(request, name, &value).status());
  return value;
}

absl::StatusOr<Vcpu::Outcome> Vcpu::Run() {
  if (::ioctl(fd_.get(), KVM_RUN, 0) >= 0) return Outcome::kExit;
  if (errno == EINTR || errno == EAGAIN) return Outcome::kInterrupted;
  return ErrnoStatus(errno, absl::StrCat("KVM_RUN vcpu ", id_));
}

void Vcpu::SetImmediateExit(bool on) const {
  std::atomic_ref<uint8_t>(run()->immediate_exit).store(on ? 1 : 0, std::memory_order_relaxed);
}

absl::Status Vcpu::KvmclockCtrl() { return CPR_VCPU_CALL(KVM_KVMCLOCK_CTRL, uint64_t{0}).status(); }
absl::Status Vcpu::Nmi() { return CPR_VCPU_CALL(KVM_NMI, uint64_t{0}).status(); }

absl::StatusOr<kvm_regs> Vcpu::Regs() const { return CPR_VCPU_READ(kvm_regs, KVM_GET_REGS); }
absl::Status Vcpu::SetRegs(const kvm_regs& regs) { return CPR_VCPU_CALL(KVM_SET_REGS, &regs).status(); }

absl::StatusOr<kvm_sregs> Vcpu::Sregs() const { return CPR_VCPU_READ(kvm_sregs, KVM_GET_SREGS); }
absl::Status Vcpu::SetSregs(const kvm_sregs& sregs) { return CPR_VCPU_CALL(KVM_SET_SREGS, &sregs).status(); }

absl::StatusOr<kvm_sregs2> Vcpu::Sregs2() const { return CPR_VCPU_READ(kvm_sregs2, KVM_GET_SREGS2); }
absl::Status Vcpu::SetSregs2(const kvm_sregs2& sregs) { return CPR_VCPU_CALL(KVM_SET_SREGS2, &sregs).status(); }

absl::StatusOr<kvm_mp_state> Vcpu::MpState() const { return CPR_VCPU_READ(kvm_mp_state, KVM_GET_MP_STATE); }
absl::Status Vcpu::SetMpState(const kvm_mp_state& state) { return CPR_VCPU_CALL(KVM_SET_MP_STATE, &state).status(); }

absl::StatusOr<kvm_lapic_state> Vcpu::Lapic() const { return CPR_VCPU_READ(kvm_lapic_state, KVM_GET_LAPIC); }
absl::Status Vcpu::SetLapic(const kvm_lapic_state& lapic) { return CPR_VCPU_CALL(KVM_SET_LAPIC, &lapic).status(); }

absl::StatusOr<kvm_debugregs> Vcpu::DebugRegs() const { return CPR_VCPU_READ(kvm_debugregs, KVM_GET_DEBUGREGS); }
absl::Status Vcpu::SetDebugRegs(const kvm_debugregs& regs) { return CPR_VCPU_CALL(KVM_SET_DEBUGREGS, &regs).status(); }

absl::StatusOr<kvm_xcrs> Vcpu::Xcrs() const { return CPR_VCPU_READ(kvm_xcrs, KVM_GET_XCRS); }
absl::Status Vcpu::SetXcrs(const kvm_xcrs& xcrs) { return CPR_VCPU_CALL(KVM_SET_XCRS, &xcrs).status(); }

absl::StatusOr<kvm_vcpu_events> Vcpu::VcpuEvents() const { return CPR_VCPU_READ(kvm_vcpu_events, KVM_GET_VCPU_EVENTS); }
absl::Status Vcpu::SetVcpuEvents(const kvm_vcpu_events& events) {
  return CPR_VCPU_CALL(KVM_SET_VCPU_EVENTS, &events).status();
}

absl::StatusOr<std::vector<uint8_t>> Vcpu::Xsave2(size_t size_bytes) const {
  std::vector<uint8_t> xsave(size_bytes);
  CPR_RETURN_IF_ERROR(CPR_VCPU_CALL(KVM_GET_XSAVE2, xsave.data()).status());
  return xsave;
}

absl::StatusOr<std::vector<uint8_t>> Vcpu::Xsave() const {
  std::vector<uint8_t> xsave(sizeof(kvm_xsave));
  CPR_RETURN_IF_ERROR(CPR_VCPU_CALL(KVM_GET_XSAVE, xsave.data()).status());
  return xsave;
}

absl::Status Vcpu::SetXsave(absl::Span<const uint8_t> xsave) {
  return CPR_VCPU_CALL(KVM_SET_XSAVE, xsave.data()).status();
}

absl::StatusOr<std::vector<kvm_cpuid_entry2>> Vcpu::Cpuid2() const {
  internal::Flex<kvm_cpuid2, kvm_cpuid_entry2> cpuid(kMaxCpuidEntries);
  cpuid->nent = kMaxCpuidEntries;
  CPR_RETURN_IF_ERROR(CPR_VCPU_CALL(KVM_GET_CPUID2, cpuid.get()).status());
  return cpuid.Take(cpuid->nent);
}

absl::Status Vcpu::SetCpuid2(absl::Span<const kvm_cpuid_entry2> entries) {
  internal::Flex<kvm_cpuid2, kvm_cpuid_entry2> cpuid(entries);
  cpuid->nent = static_cast<uint32_t>(entries.size());
  return CPR_VCPU_CALL(KVM_SET_CPUID2, cpuid.get()).status();
}

absl::StatusOr<std::vector<kvm_msr_entry>> Vcpu::Msrs(absl::Span<const uint32_t> indices) const {
  internal::Flex<kvm_msrs, kvm_msr_entry> msrs(indices.size());
  msrs->nmsrs = static_cast<uint32_t>(indices.size());
  for (size_t i = 0; i < indices.size(); ++i) msrs.entries()[i].index = indices[i];
  CPR_ASSIGN_OR_RETURN(const int count, CPR_VCPU_CALL(KVM_GET_MSRS, msrs.get()));
  return msrs.Take(static_cast<size_t>(count));
}

absl::StatusOr<size_t> Vcpu::SetMsrs(absl::Span<const kvm_msr_entry> entries) {
  internal::Flex<kvm_msrs, kvm_msr_entry> msrs(entries);
  msrs->nmsrs = static_cast<uint32_t>(entries.size());
  CPR_ASSIGN_OR_RETURN(const int count, CPR_VCPU_CALL(KVM_SET_MSRS, msrs.get()));
  return static_cast<size_t>(count);
}

absl::StatusOr<std::vector<uint8_t>> Vcpu::NestedState(size_t size_bytes) const {
  internal::Flex<kvm_nested_state, uint8_t> state(size_bytes);
  state->size = static_cast<uint32_t>(size_bytes);
  CPR_RETURN_IF_ERROR(CPR_VCPU_CALL(KVM_GET_NESTED_STATE, state.get()).status());
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(state.get());
  return std::vector<uint8_t>(bytes, bytes + state->size);
}

absl::Status Vcpu::SetNestedState(absl::Span<const uint8_t> state) {
  return CPR_VCPU_CALL(KVM_SET_NESTED_STATE, state.data()).status();
}

absl::StatusOr<uint32_t> Vcpu::TscKhz() const {
  CPR_ASSIGN_OR_RETURN(const int tsc_khz, CPR_VCPU_CALL(KVM_GET_TSC_KHZ, uint64_t{0}));
  return static_cast<uint32_t>(tsc_khz);
}

absl::Status Vcpu::SetTscKhz(uint32_t tsc_khz) { return CPR_VCPU_CALL(KVM_SET_TSC_KHZ, uint64_t{tsc_khz}).status(); }

absl::StatusOr<uint64_t> Vcpu::TscOffset() const {
  uint64_t offset = 0;
  const kvm_device_attr attr = TscOffsetAttr(&offset);
  CPR_RETURN_IF_ERROR(Call(KVM_GET_DEVICE_ATTR, "KVM_GET_DEVICE_ATTR KVM_VCPU_TSC_OFFSET", &attr).status());
  return offset;
}

absl::Status Vcpu::SetTscOffset(uint64_t offset) {
  const kvm_device_attr attr = TscOffsetAttr(&offset);
  return Call(KVM_SET_DEVICE_ATTR, "KVM_SET_DEVICE_ATTR KVM_VCPU_TSC_OFFSET", &attr).status();
}

}  // namespace cpr::kvm
