#ifndef VMM_VFIO_VFIO_MEMORY_H_
#define VMM_VFIO_VFIO_MEMORY_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/preserve/fd_table.h"
#include "libcpr/vfio/device.h"
#include "libcpr/vfio/iommufd.h"
#include "libcpr/vfio/type1_container.h"
#include "vmm/machine/guest_memory.h"
#include "vmm/vfio/host_device.h"
#include "vmm/vfio/vfio_state.h"

namespace cpr {

// By which devices reach a guest's RAM, all of it at its gpa, and the hand-over of that. Thread-compatible.
//
//   old VMM                              new VMM
//   Release, AddFds       fds, state ->  Adopt, with devices taken from the fds
//   Reclaim               if the new VMM does not get the guest after all, whatever it has done
class VfioMemory {
 public:
  virtual ~VfioMemory() = default;

  // Opens a device that reaches the RAM from then on. Errors name what the host refused.
  virtual absl::StatusOr<vfio::Device> Open(const VfioHostDevice& where) = 0;
  // The files that KVM's VFIO device is to know of (lent), of `devices` that were opened or have come.
  virtual std::vector<int> FilesForKvm(const std::vector<int>& devices) const = 0;

  // Why another process cannot have it, in QEMU's words.
  virtual absl::Status CheckHandover() const = 0;
  // The guest runs on, and its devices.
  virtual absl::Status Release() = 0;
  virtual absl::Status Reclaim() = 0;
  // Duplicates of what has to outlive this VMM, but the devices.
  virtual absl::Status AddFds(FdTable& fds) const = 0;
};

// RAM as VFIO maps it, by addresses of this process.
std::vector<vfio::DmaMapping> VfioDmaMappings(const GuestMemory& memory);

// A VFIO container with the groups of its devices. `memory` must outlive it.
class VfioContainerMemory final : public VfioMemory {
 public:
  static absl::StatusOr<std::unique_ptr<VfioMemory>> Create(const GuestMemory* memory);
  // What has come in `fds`, and was released. `same_process`: it is this process that released it, by execve.
  static absl::StatusOr<std::unique_ptr<VfioMemory>> Adopt(const GuestMemory* memory, bool same_process, FdTable& fds);

  absl::StatusOr<vfio::Device> Open(const VfioHostDevice& where) override;
  std::vector<int> FilesForKvm(const std::vector<int>& devices) const override;
  absl::Status CheckHandover() const override { return container_.CheckHandover(); }
  absl::Status Release() override { return container_.ReleaseMappings(); }
  absl::Status Reclaim() override { return container_.ReclaimMappings(); }
  absl::Status AddFds(FdTable& fds) const override;

 private:
  VfioContainerMemory(const GuestMemory* memory, vfio::Type1Container container)
      : memory_(memory), container_(std::move(container)) {}
  absl::Status MapAll();
  absl::StatusOr<int> GroupFd(uint32_t group);

  const GuestMemory* const memory_;
  vfio::Type1Container container_;
  std::map<uint32_t, UniqueFd> groups_;
};

// An iommufd, the `instance`th of the machine. `memory` must outlive it.
class VfioIommufdMemory final : public VfioMemory {
 public:
  static absl::StatusOr<std::unique_ptr<VfioIommufdMemory>> Create(const GuestMemory* memory, uint32_t instance);
  // What has come in `fds`. `same_process`: by execve; then it may stay counted as it was.
  static absl::StatusOr<std::unique_ptr<VfioIommufdMemory>> Adopt(const GuestMemory* memory, bool same_process,
                                                                  uint32_t instance, uint32_t ioas_id, FdTable& fds);

  uint32_t ioas_id() const { return iommufd_.ioas_id(); }

  absl::StatusOr<vfio::Device> Open(const VfioHostDevice& where) override;
  std::vector<int> FilesForKvm(const std::vector<int>& devices) const override { return devices; }
  absl::Status CheckHandover() const override { return iommufd_.CheckHandover(); }
  absl::Status Release() override { return absl::OkStatus(); }
  absl::Status Reclaim() override { return iommufd_.TakeOver(); }
  absl::Status AddFds(FdTable& fds) const override;

 private:
  VfioIommufdMemory(uint32_t instance, vfio::Iommufd iommufd) : instance_(instance), iommufd_(std::move(iommufd)) {}

  const uint32_t instance_;
  vfio::Iommufd iommufd_;
};

}  // namespace cpr

#endif  // VMM_VFIO_VFIO_MEMORY_H_
