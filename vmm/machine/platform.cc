#include "vmm/machine/platform.h"

#include <cstdio>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/modes/phase.h"

namespace cpr {
namespace {

constexpr uint64_t kCom1Port = 0x3f8;
constexpr unsigned kCom1Irq = 4;

void Warn(const std::string& text) { std::fprintf(stderr, "cpr-vmm: %s\n", text.c_str()); }

BusHandler ByteHandler(std::function<uint8_t(uint64_t)> read, std::function<void(uint64_t, uint8_t)> write) {
  return {.read = [read = std::move(read)](uint64_t offset, unsigned) -> uint64_t { return read(offset); },
          .write = [write = std::move(write)](uint64_t offset, unsigned,
                                              uint64_t value) { write(offset, static_cast<uint8_t>(value)); }};
}

}  // namespace

Platform::Platform(Parameters parameters)
    : parameters_(std::move(parameters)),
      interrupt_routes_(parameters_.vm,
                        parameters_.kernel_irqchip ? kvm::GsiRoutes::OfFullIrqchip() : kvm::GsiRoutes()),
      intx_lines_(
          parameters_.vm, parameters_.loop,
          parameters_.kernel_irqchip ? std::function<void(unsigned, bool)>()
                                     : [this](unsigned pin, bool asserted) { ioapic_->SetLine(pin, asserted); }) {}

absl::StatusOr<std::unique_ptr<Platform>> Platform::Create(Parameters parameters) {
  std::unique_ptr<Platform> platform(new Platform(std::move(parameters)));
  if (!platform->parameters_.kernel_irqchip) CPR_RETURN_IF_ERROR(platform->AddIoapic());
  if (platform->parameters_.serial != nullptr) CPR_RETURN_IF_ERROR(platform->AddSerial());
  CPR_RETURN_IF_ERROR(platform->AddOthers());
  CPR_RETURN_IF_ERROR(platform->AddResetControl());
  CPR_RETURN_IF_ERROR(platform->AddAcpi());
  CPR_RETURN_IF_ERROR(platform->AddPci());
  CPR_RETURN_IF_ERROR(platform->AddDevices());
  CPR_RETURN_IF_ERROR(platform->AddVfioDevices());
  return platform;
}

Platform::~Platform() {
  if (serial_ != nullptr) parameters_.serial->SetCallbacks({});
}

absl::Status Platform::AddIoapic() {
  // What KVM answers cannot be told to a guest; a vector that nobody takes is its own fault.
  ioapic_ = std::make_unique<Ioapic>(Ioapic::Wiring{.send_msi =
                                                        [vm = parameters_.vm](const MsiMessage& msi) {
                                                          vm->SignalMsi(
                                                                {.address_lo = static_cast<uint32_t>(msi.address),
                                                                 .address_hi = static_cast<uint32_t>(msi.address >> 32),
                                                                 .data = msi.data})
                                                              .IgnoreError();
                                                        },
                                                    .routes_changed = [this] { CommitRoutes().IgnoreError(); },
                                                    .pin_eoi = [this](unsigned pin) { intx_lines_.Eoi(pin); }});
  return mmio_.Add(
      "ioapic", Ioapic::kGpa, Ioapic::kWindowBytes, 4,
      {.read = [this](uint64_t offset, unsigned size) -> uint64_t { return ioapic_->ReadMmio(offset, size); },
       .write = [this](uint64_t offset, unsigned size,
                       uint64_t value) { ioapic_->WriteMmio(offset, size, static_cast<uint32_t>(value)); }});
}

absl::Status Platform::AddSerial() {
  Chardev* chardev = parameters_.serial;
  serial_ = std::make_unique<Serial>(Serial::Wiring{.irq = [this](bool level) { SetIrq(kCom1Irq, level); },
                                                    .output = [chardev](absl::string_view b) { chardev->Write(b); },
                                                    .room = [chardev] { chardev->AcceptInput(); }});
  return ports_.Add("serial", kCom1Port, Serial::kPorts, 1,
                    ByteHandler([this](uint64_t offset) { return serial_->Read(offset); },
                                [this](uint64_t offset, uint8_t value) { serial_->Write(offset, value); }));
}

absl::Status Platform::AddOthers() {
  cmos_ = std::make_unique<Cmos>(Cmos::Parameters{.ram_below_4g_bytes = parameters_.ram_below_4g_bytes,
                                                  .ram_above_4g_bytes = parameters_.ram_above_4g_bytes,
                                                  .utc = [] { return absl::Now(); }});
  return ports_.Add("cmos", Cmos::kPort, Cmos::kPorts, 1,
                    ByteHandler([this](uint64_t offset) { return cmos_->Read(offset); },
                                [this](uint64_t offset, uint8_t value) { cmos_->Write(offset, value); }));
}

absl::Status Platform::AddResetControl() {
  reset_control_ = std::make_unique<ResetControl>(parameters_.reset);
  return ports_.Add("keyboard command", ResetControl::kKeyboardCommandPort, 1, 1,
                    ByteHandler([this](uint64_t) { return reset_control_->ReadKeyboard(); },
                                [this](uint64_t, uint8_t value) { reset_control_->WriteKeyboard(value); }));
}

absl::Status Platform::AddAcpi() {
  acpi_pm_ = std::make_unique<AcpiPm>(AcpiPm::Wiring{.sci = [this](bool level) { SetIrq(AcpiPm::kSciIrq, level); },
                                                     .suspend = parameters_.suspend,
                                                     .power_off = parameters_.power_off,
                                                     .monotonic_ns = MonotonicNs,
                                                     .utc = [] { return absl::Now(); }});
  return ports_.Add(
      "ACPI", AcpiPm::kPort, AcpiPm::kPorts, 4,
      {.read = [this](uint64_t offset, unsigned size) -> uint64_t { return acpi_pm_->Read(offset, size); },
       .write = [this](uint64_t offset, unsigned size,
                       uint64_t value) { acpi_pm_->Write(offset, size, static_cast<uint32_t>(value)); }});
}

absl::Status Platform::AddPci() {
  CPR_ASSIGN_OR_RETURN(pci_, PciHost::Create(parameters_.pci, &ports_, &mmio_));
  // The chipset's reset control lies among PCI's ports: a byte at 0xcf9 is for it.
  constexpr uint64_t kResetOffset = ResetControl::kResetControlPort - PciHost::kPort;
  return ports_.Add("PCI configuration ports", PciHost::kPort, PciHost::kPorts, 4,
                    {.read = [this](uint64_t offset, unsigned size) -> uint64_t {
                       if (offset == kResetOffset && size == 1) return reset_control_->ReadResetControl();
                       return pci_->ReadPort(offset, size);
                     },
                     .write =
                         [this](uint64_t offset, unsigned size, uint64_t value) {
                           if (offset == kResetOffset && size == 1) {
                             return reset_control_->WriteResetControl(static_cast<uint8_t>(value));
                           }
                           pci_->WritePort(offset, size, static_cast<uint32_t>(value));
                         }});
}

absl::Status Platform::AddDevices() {
  if (parameters_.devices.empty()) return absl::OkStatus();
  const auto doorbell = [vm = parameters_.vm](uint64_t gpa, int eventfd, bool add) {
    const kvm::IoEventFd event = {.address = gpa, .size_bytes = 2, .eventfd = eventfd};
    return add ? vm->AssignIoEventFd(event) : vm->DeassignIoEventFd(event);
  };
  CPR_ASSIGN_OR_RETURN(devices_, VirtioDeviceSet::Create({.memory = parameters_.memory,
                                                          .loop = parameters_.loop,
                                                          .host = pci_.get(),
                                                          .router = &interrupt_routes_,
                                                          .doorbell = doorbell,
                                                          .warn = Warn},
                                                         parameters_.devices, parameters_.fds));
  return absl::OkStatus();
}

absl::Status Platform::AddVfioDevices() {
  if (parameters_.vfio_devices.empty()) return absl::OkStatus();
  CPR_ASSIGN_OR_RETURN(vfio_devices_, VfioDeviceSet::Create(
                                          {.memory = parameters_.memory,
                                           .vm = parameters_.vm,
                                           .host = pci_.get(),
                                           .router = &interrupt_routes_,
                                           .intx_router = &intx_lines_,
                                           .loop = parameters_.loop,
                                           .failed = parameters_.device_failed,
                                           .warn = Warn},
                                          parameters_.vfio_devices,
                                          parameters_.vfio_arrived.has_value() ? &*parameters_.vfio_arrived : nullptr));
  return absl::OkStatus();
}

void Platform::ConnectInput() {
  if (serial_ == nullptr) return;
  parameters_.serial->SetCallbacks({.room = [this] { return serial_->Room(); },
                                    .receive = [this](absl::string_view data) { serial_->Receive(data); },
                                    .connection = nullptr});
}

void Platform::SetIrq(unsigned pin, bool level) {
  if (ioapic_ != nullptr) return ioapic_->SetLine(pin, level);
  parameters_.vm->IrqLine(pin, level).IgnoreError();  // fails for no pin that exists
}

absl::Status Platform::CommitRoutes() {
  return ioapic_ == nullptr ? absl::OkStatus() : interrupt_routes_.SetIoapic(ioapic_->Routes());
}

absl::Status Platform::Reset() {
  if (serial_ != nullptr) CPR_RETURN_IF_ERROR(serial_->Restore(SerialState()));
  CPR_RETURN_IF_ERROR(reset_control_->Restore(ResetControlState()));
  acpi_pm_->Reset();
  pci_->Reset();
  if (ioapic_ == nullptr) return absl::OkStatus();
  CPR_RETURN_IF_ERROR(ioapic_->Restore(IoapicState()));
  return CommitRoutes();
}

}  // namespace cpr
