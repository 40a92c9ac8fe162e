#ifndef VMM_VIRTIO_DISK_IMAGE_H_
#define VMM_VIRTIO_DISK_IMAGE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// A raw disk image: a regular file or a block device, with a lock that keeps other VMMs off, QEMU included. The lock is
// the open file description's (F_OFD_SETLK): it lasts as long as any process has a duplicate of the fd, so an fd that
// goes over to a new VMM takes it along. Thread-safe.
class DiskImage {
 public:
  static constexpr uint64_t kSectorBytes = 512;

  struct Config {
    std::string path;
    bool read_only = false;
    bool probe = false;  // it may be no raw image: look

    friend bool operator==(const Config&, const Config&) = default;
  };
  // Opens and locks. kFailedPrecondition: somebody else writes it, or reads it and `config` says write.
  // kInvalidArgument: it is no image, or not a whole number of sectors, or, with `probe`, of another format. Errors
  // name the path.
  static absl::StatusOr<DiskImage> Create(const Config& config);
  // Takes over an fd that Create made in another process, with its lock. kFailedPrecondition: it is no image, or not
  // open for what `config` says.
  static absl::StatusOr<DiskImage> Adopt(const Config& config, UniqueFd fd);

  const Config& config() const { return config_; }
  uint64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_.get(); }  // lent

  // All of `buffers`, which are the guest's RAM, from or to `offset_bytes` on; what lies behind the image is refused.
  // Errors carry errno, after which part may have been done.
  absl::Status Read(uint64_t offset_bytes, absl::Span<const absl::Span<uint8_t>> buffers) const;
  absl::Status Write(uint64_t offset_bytes, absl::Span<const absl::Span<uint8_t>> buffers) const;
  // Lets others open it, who must not before whoever uses it has stopped. It stays readable and writable here.
  void Unlock() const;
  // After Unlock. kFailedPrecondition as with Create: somebody else has it now; it stays unlocked then.
  absl::Status Relock() const;
  // What has been written outlives a power failure.
  absl::Status Flush() const;

 private:
  DiskImage(Config config, UniqueFd fd, uint64_t size_bytes)
      : config_(std::move(config)), fd_(std::move(fd)), size_bytes_(size_bytes) {}

  Config config_;
  UniqueFd fd_;
  uint64_t size_bytes_;
};

}  // namespace cpr

#endif  // VMM_VIRTIO_DISK_IMAGE_H_
