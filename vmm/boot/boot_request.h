#ifndef VMM_BOOT_BOOT_REQUEST_H_
#define VMM_BOOT_BOOT_REQUEST_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace cpr {

// The `size_bytes` of guest RAM at `gpa` as host memory, or an error when they are not RAM, or not contiguous there.
// The span is lent and stays valid as long as the guest's RAM does.
using GuestRam = std::function<absl::StatusOr<absl::Span<uint8_t>>(uint64_t gpa, uint64_t size_bytes)>;

struct RamRange {
  uint64_t gpa = 0;
  uint64_t size_bytes = 0;
};

// What to boot. File contents are lent for the call; the names are what errors say.
struct BootRequest {
  std::string kernel_name;
  absl::string_view kernel;
  std::string cmdline;      // at most kMaxCmdlineBytes, without NUL
  std::string initrd_name;  // empty: no initrd
  absl::string_view initrd;
  std::vector<RamRange> ram;       // the guest's RAM, lowest first; becomes the guest's memory map, ...
  std::vector<RamRange> reserved;  // ... less what is not for its kernel to use, lowest first; need not be RAM
  uint64_t rsdp_gpa = 0;           // of the ACPI tables; 0: none
};

constexpr uint64_t kMaxCmdlineBytes = 4096;

// One entry of the guest's memory map. The types are those of both e820 and Xen.
struct MemoryMapEntry {
  static constexpr uint32_t kRam = 1, kReserved = 2;

  uint64_t gpa = 0;
  uint64_t size_bytes = 0;
  uint32_t type = kRam;

  friend bool operator==(const MemoryMapEntry&, const MemoryMapEntry&) = default;
};
// The request's memory map, lowest first, without overlaps.
std::vector<MemoryMapEntry> MemoryMap(const BootRequest& request);

// Copies `bytes` to `gpa`, zeros behind them up to `size_bytes`. kOutOfRange: it is not all RAM.
absl::Status CopyToGuest(const GuestRam& guest_ram, uint64_t gpa, absl::string_view bytes, uint64_t size_bytes);

// The highest page-aligned place for the initrd in the first RAM range, from `begin_gpa` on and below `end_gpa`.
// kOutOfRange: there is none.
absl::StatusOr<uint64_t> PlaceInitrd(const BootRequest& request, uint64_t begin_gpa, uint64_t end_gpa);

// Reads a kernel or initrd of at most `limit_bytes`. The error names `path`.
absl::StatusOr<std::string> ReadBootFile(const std::string& path, uint64_t limit_bytes = uint64_t{1} << 30);

}  // namespace cpr

#endif  // VMM_BOOT_BOOT_REQUEST_H_
