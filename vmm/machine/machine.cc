#include "vmm/machine/machine.h"

#include <algorithm>
#include <cstring>

#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/machine/ram_layout.h"

namespace cpr {
namespace {

uint64_t FromBytes(absl::Span<const uint8_t> data) {
  uint64_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof(value)));
  return value;
}

void ToBytes(uint64_t value, absl::Span<uint8_t> data) {
  std::memcpy(data.data(), &value, std::min(data.size(), sizeof(value)));
}

// A new guest's TSC runs as the host's does; over a reboot of the host it has to be known how fast that was.
absl::Status NoteTscFrequency(const kvm::System& system, const BareVm& bare, KvmPlan* plan) {
  if (!system.caps().get_tsc_khz) return absl::OkStatus();
  for (size_t i = 0; i < plan->vcpus.size(); ++i) {
    if (plan->vcpus[i].tsc_khz.has_value()) continue;
    CPR_ASSIGN_OR_RETURN(plan->vcpus[i].tsc_khz, bare.vcpus[i].TscKhz());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const kvm::System* system, EventLoop* loop, Parts parts,
                                                         EventCallback on_event) {
  const auto add_slots = [&](kvm::Vm& vm) { return parts.memory.AddSlots(vm); };
  CPR_ASSIGN_OR_RETURN(BareVm bare, CreateBareVm(*system, parts.kvm, add_slots));
  CPR_RETURN_IF_ERROR(NoteTscFrequency(*system, bare, &parts.kvm));
  FdTable* const fds = parts.fds;
  std::optional<VfioDeviceSet::Arrived> vfio = std::move(parts.vfio);
  std::unique_ptr<Machine> machine(
      new Machine(system, loop, std::move(parts), std::move(bare.vm), std::move(on_event)));
  CPR_RETURN_IF_ERROR(machine->CreatePlatform(fds, std::move(vfio)));
  if (machine->devices() != nullptr) machine->description_.devices = machine->devices()->configs();
  CPR_ASSIGN_OR_RETURN(VcpuSet vcpus, VcpuSet::Create(std::move(bare.vcpus), machine.get()));
  machine->vcpus_.emplace(std::move(vcpus));
  return machine;
}

Machine::Machine(const kvm::System* system, EventLoop* loop, Parts parts, kvm::Vm vm, EventCallback on_event)
    : system_(system),
      loop_(loop),
      description_(std::move(parts.description)),
      kvm_plan_(std::move(parts.kvm)),
      on_event_(std::move(on_event)),
      self_(std::make_shared<Machine*>(this)),
      memory_(std::move(parts.memory)),
      serial_(std::move(parts.serial)),
      vm_(std::move(vm)) {}

Machine::~Machine() { Pause(); }

absl::Status Machine::CreatePlatform(FdTable* fds, std::optional<VfioDeviceSet::Arrived> vfio) {
  CPR_ASSIGN_OR_RETURN(
      platform_,
      Platform::Create({.vm = &vm_,
                        .kernel_irqchip = kvm_plan_.vm.irqchip == kvm::IrqchipKind::kFull,
                        .serial = serial_.get(),
                        .ram_below_4g_bytes = memory_.low_bytes(),
                        .ram_above_4g_bytes = memory_.high_bytes(),
                        .pci = PciWindowsAbove(memory_.high_bytes() > 0 ? kHighRamGpa + memory_.high_bytes() : 0),
                        .devices = *description_.devices,
                        .memory = &memory_,
                        .loop = loop_,
                        .fds = fds,
                        .vfio_devices = *description_.vfio_devices,
                        .vfio_arrived = std::move(vfio),
                        .reset = [this] { RequestEvent(GuestEvent::kReset, "the guest reset itself"); },
                        .suspend = [this] { RequestEvent(GuestEvent::kSuspend, "the guest suspended itself"); },
                        .power_off = [this] { RequestEvent(GuestEvent::kShutdown, "the guest powered itself off"); },
                        .device_failed = [this](const std::string& text) { StopFor(text); }}));
  return absl::OkStatus();
}

void Machine::Resume() {
  if (running_) return;
  running_ = true;
  // A guest that has just reset itself must not go on behind that; its event will pause the machine, or has.
  if (event_pending_) return;
  if (ran_) {
    // A guest that has been stopped for long is told, so that its watchdogs do not bark. What it did not ask for or
    // cannot have does not matter.
    const std::vector<kvm::Vcpu*> vcpus = vcpus_->vcpus();
    vcpus_->RunOnThreads(vcpus.size(), [&](size_t i) { kvm::NotifyGuestStopped(*vcpus[i]).IgnoreError(); });
  }
  ran_ = true;
  platform_->ConnectInput();
  platform_->pci().AttachInterrupts().IgnoreError();  // KVM had them before
  vcpus_->Start();
  if (devices() != nullptr) devices()->Resume();
}

void Machine::Pause() {
  if (!running_) return;
  if (devices() != nullptr) devices()->Quiesce();  // the guest runs while the disks finish
  vcpus_->Park();
  platform_->pci().DetachInterrupts().IgnoreError();  // KVM has them
  running_ = false;
}

void Machine::RequestEvent(GuestEvent event, const std::string& text) {
  if (event_pending_.exchange(true)) return;  // the first one counts
  vcpus_->RequestPark();
  loop_->Post([weak = std::weak_ptr<Machine*>(self_), event, text] {
    if (const auto self = weak.lock()) (*self)->DeliverEvent(event, text);
  });
}

void Machine::DeliverEvent(GuestEvent event, const std::string& text) {
  Pause();
  event_pending_ = false;
  if (on_event_) on_event_(event, text);
}

// At once, and whatever the guest has just asked for: that is not what is told of then.
void Machine::StopFor(const std::string& text) {
  Pause();
  if (on_event_) on_event_(GuestEvent::kInternalError, text);
}

void Machine::ReadPort(uint16_t port, absl::Span<uint8_t> data) {
  ToBytes(platform_->ports().Read(port, static_cast<unsigned>(data.size())), data);
}

void Machine::WritePort(uint16_t port, absl::Span<const uint8_t> data) {
  platform_->ports().Write(port, static_cast<unsigned>(data.size()), FromBytes(data));
}

void Machine::ReadMmio(uint64_t gpa, absl::Span<uint8_t> data) {
  ToBytes(platform_->mmio().Read(gpa, static_cast<unsigned>(data.size())), data);
}

void Machine::WriteMmio(uint64_t gpa, absl::Span<const uint8_t> data) {
  platform_->mmio().Write(gpa, static_cast<unsigned>(data.size()), FromBytes(data));
}

void Machine::EndOfInterrupt(uint8_t vector) {
  if (Ioapic* ioapic = platform_->ioapic(); ioapic != nullptr) ioapic->Eoi(vector);
}

void Machine::GuestStopped(uint32_t /*vcpu_id*/, GuestEvent event, const std::string& text) {
  RequestEvent(event, text);
}

absl::StatusOr<std::unique_ptr<Machine>> CreateMachine(const kvm::System* system, EventLoop* loop,
                                                       const MachineDescription& description,
                                                       Machine::EventCallback on_event) {
  const MemoryBackend ram = description.memory.value_or(MemoryBackend());
  CPR_ASSIGN_OR_RETURN(std::vector<RamBlock> blocks, CreateGuestRam(ram));
  CPR_ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::Create(std::move(blocks), ram.prealloc));
  CPR_ASSIGN_OR_RETURN(KvmPlan plan, PlanKvm(*system, description));
  std::unique_ptr<Chardev> serial;
  if (description.serial.has_value() && !description.serial->none) {
    CPR_ASSIGN_OR_RETURN(serial, Chardev::Create(description.serial->config, loop));
  }
  CPR_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine, Machine::Create(system, loop,
                                                                         {.description = description,
                                                                          .kvm = std::move(plan),
                                                                          .memory = std::move(memory),
                                                                          .serial = std::move(serial)},
                                                                         std::move(on_event)));
  CPR_RETURN_IF_ERROR(machine->Boot());
  return machine;
}

}  // namespace cpr
