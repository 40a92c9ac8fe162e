#ifndef VMM_VFIO_DEVICE_SET_H_
#define VMM_VFIO_DEVICE_SET_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/kvm/vfio_files.h"
#include "libcpr/kvm/vm.h"
#include "libcpr/preserve/fd_table.h"
#include "vmm/event_loop/event_loop.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/pci/pci_host.h"
#include "vmm/vfio/config.h"
#include "vmm/vfio/vfio_memory.h"
#include "vmm/vfio/vfio_pci.h"
#include "vmm/vfio/vfio_state.h"

namespace cpr {

// A machine's VFIO devices, each on the PCI bus, and their way to its RAM. They know nothing of a handover: they work
// on while it lasts, their interrupts gather in the eventfds, and the new VMM finds them as they are.
//
// In a handover, old side: Release, AddFds, then nothing, or Reclaim if it was called off. New side: Create with the
// state and the fds that came. To be used on the event loop's thread.
class VfioDeviceSet {
 public:
  // All but the host must outlive the set; the host must be gone before the set is: what is on a bus outlives it.
  struct Surroundings {
    const GuestMemory* memory = nullptr;
    kvm::Vm* vm = nullptr;
    PciHost* host = nullptr;
    MsiRouter* router = nullptr;
    IntxRouter* intx_router = nullptr;
    EventLoop* loop = nullptr;
    // A device has failed, and the guest runs: it cannot go on. On the event loop's thread.
    std::function<void(const std::string& text)> failed;
    std::function<void(const std::string& text)> warn;  // on any thread
  };
  // What has come with the guest.
  struct Arrived {
    VfioState state;
    FdTable* fds = nullptr;     // of state.devices_come
    bool same_process = false;  // by execve
  };
  // Opens the devices, or takes them out of what has come (null: nothing has). Errors name the device; the host is of
  // no use after one. kFailedPrecondition: what has come is not of these devices, or of other RAM; a device that is
  // opened anew for a guest that has come is not the one that it had.
  static absl::StatusOr<std::unique_ptr<VfioDeviceSet>> Create(const Surroundings& surroundings,
                                                               absl::Span<const VfioDeviceConfig> configs,
                                                               const Arrived* arrived);

  size_t size() const { return devices_.size(); }
  const VfioState& state() const { return state_; }

  // Why the devices cannot go to another process, in QEMU's words; empty if they can.
  std::vector<std::string> HandoverBlockers() const;
  // From here to Reclaim another process can have what the devices reach. After an error nothing has changed.
  absl::Status Release();
  // After an error some devices may not be handed over any more; the guest is not concerned.
  absl::Status Reclaim();
  // Duplicates of what has to outlive this VMM.
  absl::Status AddFds(FdTable& fds) const;

 private:
  struct Device {
    VfioDeviceConfig config;
    std::unique_ptr<VfioPci> function;
  };
  VfioDeviceSet() = default;
  absl::Status CheckArrived(const Surroundings& surroundings, size_t devices, const Arrived* arrived) const;
  absl::StatusOr<VfioMemory*> MemoryOf(const Surroundings& surroundings, const std::string& iommufd,
                                       const Arrived* arrived);
  absl::Status Add(const Surroundings& surroundings, const VfioDeviceConfig& config, const Arrived* arrived);
  absl::StatusOr<vfio::Device> OpenDevice(const Surroundings& surroundings, const VfioDeviceConfig& config,
                                          const Arrived* arrived);
  absl::Status TellKvm(const Surroundings& surroundings);

  VfioState state_;
  std::map<std::string, std::unique_ptr<VfioMemory>> memories_;  // by the iommufd's id; of the container: ""
  std::vector<std::unique_ptr<Device>> devices_;
  std::optional<kvm::VfioFiles> kvm_files_;
  bool released_ = false;
};

}  // namespace cpr

#endif  // VMM_VFIO_DEVICE_SET_H_
