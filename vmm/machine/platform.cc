#include "vmm/machine/platform.h"

#include <utility>

#include "absl/time/clock.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr uint64_t kCom1Port = 0x3f8;
constexpr unsigned kCom1Irq = 4;
constexpr uint32_t kMsiLevelTriggered = 1u << 15;  // of an MSI's data

BusHandler ByteHandler(std::function<uint8_t(uint64_t)> read, std::function<void(uint64_t, uint8_t)> write) {
  return {.read = [read = std::move(read)](uint64_t offset, unsigned) -> uint64_t { return read(offset); },
          .write = [write = std::move(write)](uint64_t offset, unsigned,
                                              uint64_t value) { write(offset, static_cast<uint8_t>(value)); }};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Platform>> Platform::Create(Parameters parameters) {
  std::unique_ptr<Platform> platform(new Platform(std::move(parameters)));
  if (platform->parameters_.kernel_irqchip) {
    platform->routes_ = kvm::GsiRoutes::OfFullIrqchip();
  } else {
    CPR_RETURN_IF_ERROR(platform->AddIoapic());
  }
  if (platform->parameters_.serial != nullptr) CPR_RETURN_IF_ERROR(platform->AddSerial());
  CPR_RETURN_IF_ERROR(platform->AddOthers());
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
                                                    .pin_eoi = nullptr});
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
  CPR_RETURN_IF_ERROR(ports_.Add("cmos", Cmos::kPort, Cmos::kPorts, 1,
                                 ByteHandler([this](uint64_t offset) { return cmos_->Read(offset); },
                                             [this](uint64_t offset, uint8_t value) { cmos_->Write(offset, value); })));
  reset_control_ = std::make_unique<ResetControl>(parameters_.reset);
  CPR_RETURN_IF_ERROR(
      ports_.Add("keyboard command", ResetControl::kKeyboardCommandPort, 1, 1,
                 ByteHandler([this](uint64_t) { return reset_control_->ReadKeyboard(); },
                             [this](uint64_t, uint8_t value) { reset_control_->WriteKeyboard(value); })));
  return ports_.Add("reset control", ResetControl::kResetControlPort, 1, 1,
                    ByteHandler([this](uint64_t) { return reset_control_->ReadResetControl(); },
                                [this](uint64_t, uint8_t value) { reset_control_->WriteResetControl(value); }));
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
  if (ioapic_ == nullptr) return absl::OkStatus();
  MutexLock lock(&routes_mutex_);
  // KVM needs the level-triggered pins alone, to tell of their EOI; edges go by KVM_SIGNAL_MSI. A guest that only uses
  // edges costs no update.
  std::vector<IoapicRoute> routes = ioapic_->Routes();
  for (unsigned pin = 0; pin < kIoapicPins; ++pin) routes_.Clear(pin);
  for (const IoapicRoute& route : routes) {
    if ((route.msi.data & kMsiLevelTriggered) != 0) routes_.SetMsi(route.pin, route.msi.address, route.msi.data);
  }
  return routes_.Commit(*parameters_.vm);
}

absl::Status Platform::Reset() {
  if (serial_ != nullptr) CPR_RETURN_IF_ERROR(serial_->Restore(SerialState()));
  CPR_RETURN_IF_ERROR(reset_control_->Restore(ResetControlState()));
  if (ioapic_ == nullptr) return absl::OkStatus();
  CPR_RETURN_IF_ERROR(ioapic_->Restore(IoapicState()));
  return CommitRoutes();
}

}  // namespace cpr
