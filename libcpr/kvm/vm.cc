#include "libcpr/kvm/vm.h"

#include "absl/strings/str_cat.h"
#include "libcpr/base/ioctl.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/kvm/flex.h"

namespace cpr::kvm {
namespace {

absl::Status EnableCap(int vm_fd, uint32_t cap, absl::string_view name, uint64_t arg) {
  const kvm_enable_cap enable = {.cap = cap, .args = {arg}};
  return Ioctl(vm_fd, KVM_ENABLE_CAP, name, &enable).status();
}

absl::Status CallIoEventFd(int vm_fd, const IoEventFd& event, uint32_t flags) {
  const kvm_ioeventfd request = {
      .datamatch = event.datamatch.value_or(0),
      .addr = event.address,
      .len = event.size_bytes,
      .fd = event.eventfd,
      .flags = flags | (event.space == IoEventFd::Space::kPio ? uint32_t{KVM_IOEVENTFD_FLAG_PIO} : 0) |
               (event.datamatch.has_value() ? uint32_t{KVM_IOEVENTFD_FLAG_DATAMATCH} : 0),
  };
  const absl::Status status = CPR_IOCTL(vm_fd, KVM_IOEVENTFD, &request).status();
  return Annotate(status, absl::StrCat("ioeventfd at 0x", absl::Hex(event.address)));
}

}  // namespace

absl::StatusOr<int> Vm::CheckExtension(int cap) const { return CPR_IOCTL(fd(), KVM_CHECK_EXTENSION, cap); }

absl::Status Vm::SetTssAddr(uint64_t gpa) { return CPR_IOCTL(fd(), KVM_SET_TSS_ADDR, gpa).status(); }

absl::Status Vm::SetIdentityMapAddr(uint64_t gpa) { return CPR_IOCTL(fd(), KVM_SET_IDENTITY_MAP_ADDR, &gpa).status(); }

absl::Status Vm::SetBootCpuId(uint32_t vcpu_id) { return CPR_IOCTL(fd(), KVM_SET_BOOT_CPU_ID, vcpu_id).status(); }

absl::Status Vm::SetUserMemoryRegion(const kvm_userspace_memory_region& region) {
  const absl::Status status = CPR_IOCTL(fd(), KVM_SET_USER_MEMORY_REGION, &region).status();
  return Annotate(status, absl::StrCat("memslot ", region.slot, " at 0x", absl::Hex(region.guest_phys_addr)));
}

absl::Status Vm::EnableX2ApicApi(uint64_t flags) {
  return EnableCap(fd(), KVM_CAP_X2APIC_API, "KVM_ENABLE_CAP KVM_CAP_X2APIC_API", flags);
}

absl::Status Vm::EnableExceptionPayload() {
  return EnableCap(fd(), KVM_CAP_EXCEPTION_PAYLOAD, "KVM_ENABLE_CAP KVM_CAP_EXCEPTION_PAYLOAD", 1);
}

absl::Status Vm::EnableTripleFaultEvent() {
  return EnableCap(fd(), KVM_CAP_X86_TRIPLE_FAULT_EVENT, "KVM_ENABLE_CAP KVM_CAP_X86_TRIPLE_FAULT_EVENT", 1);
}

absl::Status Vm::CreateIrqchip() { return CPR_IOCTL(fd(), KVM_CREATE_IRQCHIP, 0).status(); }

absl::Status Vm::EnableSplitIrqchip(uint32_t routes) {
  return EnableCap(fd(), KVM_CAP_SPLIT_IRQCHIP, "KVM_ENABLE_CAP KVM_CAP_SPLIT_IRQCHIP", routes);
}

absl::Status Vm::CreatePit2(uint32_t flags) {
  const kvm_pit_config config = {.flags = flags};
  return CPR_IOCTL(fd(), KVM_CREATE_PIT2, &config).status();
}

absl::Status Vm::AssignIrqfd(int eventfd, uint32_t gsi, std::optional<int> resamplefd) {
  const kvm_irqfd request = {
      .fd = static_cast<uint32_t>(eventfd),
      .gsi = gsi,
      .flags = resamplefd.has_value() ? uint32_t{KVM_IRQFD_FLAG_RESAMPLE} : 0,
      .resamplefd = static_cast<uint32_t>(resamplefd.value_or(0)),
  };
  return Annotate(CPR_IOCTL(fd(), KVM_IRQFD, &request).status(), absl::StrCat("irqfd of GSI ", gsi));
}

absl::Status Vm::DeassignIrqfd(int eventfd, uint32_t gsi) {
  const kvm_irqfd request = {.fd = static_cast<uint32_t>(eventfd), .gsi = gsi, .flags = KVM_IRQFD_FLAG_DEASSIGN};
  return Annotate(CPR_IOCTL(fd(), KVM_IRQFD, &request).status(), absl::StrCat("irqfd of GSI ", gsi, " detached"));
}

absl::Status Vm::AssignIoEventFd(const IoEventFd& event) { return CallIoEventFd(fd(), event, 0); }

absl::Status Vm::DeassignIoEventFd(const IoEventFd& event) {
  return CallIoEventFd(fd(), event, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

absl::Status Vm::SetGsiRouting(absl::Span<const kvm_irq_routing_entry> routes) {
  internal::Flex<kvm_irq_routing, kvm_irq_routing_entry> table(routes);
  table->nr = static_cast<uint32_t>(routes.size());
  return CPR_IOCTL(fd(), KVM_SET_GSI_ROUTING, table.get()).status();
}

absl::StatusOr<int> Vm::SignalMsi(const kvm_msi& msi) { return CPR_IOCTL(fd(), KVM_SIGNAL_MSI, &msi); }

absl::Status Vm::IrqLine(uint32_t gsi, bool level) {
  const kvm_irq_level line = {.irq = gsi, .level = level ? 1u : 0u};
  return CPR_IOCTL(fd(), KVM_IRQ_LINE, &line).status();
}

absl::StatusOr<kvm_clock_data> Vm::Clock() const {
  kvm_clock_data clock = {};
  CPR_RETURN_IF_ERROR(CPR_IOCTL(fd(), KVM_GET_CLOCK, &clock).status());
  return clock;
}

absl::Status Vm::SetClock(const kvm_clock_data& clock) { return CPR_IOCTL(fd(), KVM_SET_CLOCK, &clock).status(); }

absl::StatusOr<kvm_irqchip> Vm::Irqchip(uint32_t chip_id) const {
  kvm_irqchip chip = {.chip_id = chip_id};
  CPR_RETURN_IF_ERROR(CPR_IOCTL(fd(), KVM_GET_IRQCHIP, &chip).status());
  return chip;
}

absl::Status Vm::SetIrqchip(const kvm_irqchip& chip) { return CPR_IOCTL(fd(), KVM_SET_IRQCHIP, &chip).status(); }

absl::StatusOr<kvm_pit_state2> Vm::Pit2() const {
  kvm_pit_state2 pit = {};
  CPR_RETURN_IF_ERROR(CPR_IOCTL(fd(), KVM_GET_PIT2, &pit).status());
  return pit;
}

absl::Status Vm::SetPit2(const kvm_pit_state2& pit) { return CPR_IOCTL(fd(), KVM_SET_PIT2, &pit).status(); }

absl::StatusOr<Vcpu> Vm::CreateVcpu(uint32_t id) const {
  auto vcpu_fd = CPR_IOCTL(fd(), KVM_CREATE_VCPU, id);
  if (!vcpu_fd.ok()) return Annotate(vcpu_fd.status(), absl::StrCat("vcpu ", id));
  return Vcpu::Adopt(UniqueFd(*vcpu_fd), id, vcpu_run_size_bytes_);
}

}  // namespace cpr::kvm
