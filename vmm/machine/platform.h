#ifndef VMM_MACHINE_PLATFORM_H_
#define VMM_MACHINE_PLATFORM_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/kvm/gsi_routes.h"
#include "libcpr/kvm/vm.h"
#include "libcpr/preserve/fd_table.h"
#include "vmm/chardev/chardev.h"
#include "vmm/devices/acpi_pm.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/cmos.h"
#include "vmm/devices/ioapic.h"
#include "vmm/devices/reset_control.h"
#include "vmm/devices/serial.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/machine/interrupt_routes.h"
#include "vmm/machine/intx_lines.h"
#include "vmm/pci/pci_host.h"
#include "vmm/vfio/config.h"
#include "vmm/vfio/device_set.h"
#include "vmm/virtio/config.h"
#include "vmm/virtio/device_set.h"

namespace cpr {

// The devices that every machine has, wired to each other, to KVM and to the buses: IOAPIC (with a split irqchip),
// the serial port COM1 with its chardev, CMOS, reset ports, ACPI and the PCI bus with the virtio devices asked for. Its
// state is its devices' states. Thread-safe: the devices lock for themselves.
class Platform {
 public:
  struct Parameters {
    kvm::Vm* vm = nullptr;  // must outlive the platform
    bool kernel_irqchip = false;
    Chardev* serial = nullptr;  // must outlive the platform; nullptr: no serial port
    uint64_t ram_below_4g_bytes = 0;
    uint64_t ram_above_4g_bytes = 0;
    PciWindows pci;
    // Devices on the PCI bus, with what they need; no more is needed without any.
    std::vector<VirtioDeviceConfig> devices;
    const GuestMemory* memory = nullptr;  // must outlive the platform
    EventLoop* loop = nullptr;            // must outlive the platform
    FdTable* fds = nullptr;               // what came with the guest; null: it starts here. For Create alone
    std::vector<VfioDeviceConfig> vfio_devices;
    std::optional<VfioDeviceSet::Arrived> vfio_arrived;  // the same for them
    // The guest asks for it; called on a vCPU thread.
    std::function<void()> reset;
    std::function<void()> suspend;    // ACPI S3
    std::function<void()> power_off;  // ACPI S5
    // A device of the host has failed, and the guest runs: it cannot go on. On the event loop's thread.
    std::function<void(const std::string& text)> device_failed;
  };
  static absl::StatusOr<std::unique_ptr<Platform>> Create(Parameters parameters);
  // Takes the chardev's callbacks away. On the event loop's thread.
  ~Platform();
  Platform(const Platform&) = delete;
  Platform& operator=(const Platform&) = delete;

  Bus& ports() { return ports_; }
  Bus& mmio() { return mmio_; }

  // Null where the machine has none.
  Ioapic* ioapic() { return ioapic_.get(); }
  Serial* serial() { return serial_.get(); }
  Cmos& cmos() { return *cmos_; }
  ResetControl& reset_control() { return *reset_control_; }
  AcpiPm& acpi_pm() { return *acpi_pm_; }
  PciHost& pci() { return *pci_; }
  // Null: the machine has none.
  VirtioDeviceSet* devices() { return devices_.get(); }
  VfioDeviceSet* vfio_devices() { return vfio_devices_.get(); }
  // For the interrupts of PCI functions.
  MsiRouter& msi_router() { return interrupt_routes_; }

  // Lets input reach the serial port; Create leaves it waiting in the chardev. On the event loop's thread.
  void ConnectInput();
  // KVM's interrupt routes. Of the vCPUs only the IOAPIC's registers change them: for use while all are parked.
  kvm::GsiRoutes& routes() { return interrupt_routes_.gsi_routes(); }
  // Gives KVM the IOAPIC's routes, if they have changed: one slow call for all.
  absl::Status CommitRoutes();
  // Puts every device into the state in which it was made.
  absl::Status Reset();

 private:
  explicit Platform(Parameters parameters);
  absl::Status AddIoapic();
  absl::Status AddSerial();
  absl::Status AddOthers();
  absl::Status AddResetControl();
  absl::Status AddAcpi();
  absl::Status AddPci();
  absl::Status AddDevices();
  absl::Status AddVfioDevices();
  void SetIrq(unsigned pin, bool level);

  const Parameters parameters_;
  InterruptRoutes interrupt_routes_;
  IntxLines intx_lines_;
  Bus ports_;
  Bus mmio_;
  std::unique_ptr<Ioapic> ioapic_;
  std::unique_ptr<Serial> serial_;
  std::unique_ptr<Cmos> cmos_;
  std::unique_ptr<ResetControl> reset_control_;
  std::unique_ptr<AcpiPm> acpi_pm_;
  std::unique_ptr<VirtioDeviceSet> devices_;     // needs the interrupt routes, outlives the bus
  std::unique_ptr<VfioDeviceSet> vfio_devices_;  // likewise
  std::unique_ptr<PciHost> pci_;
};

}  // namespace cpr

#endif  // VMM_MACHINE_PLATFORM_H_
