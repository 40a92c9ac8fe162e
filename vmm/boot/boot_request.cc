#include "vmm/boot/boot_request.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr uint64_t kPageBytes = 4096;

// The pieces of `ram` between the reserved ranges.
void AddRam(const RamRange& ram, const std::vector<RamRange>& reserved, std::vector<MemoryMapEntry>* map) {
  uint64_t at = ram.gpa;
  const uint64_t end = ram.gpa + ram.size_bytes;
  for (const RamRange& hole : reserved) {
    if (hole.gpa + hole.size_bytes <= at || hole.gpa >= end) continue;
    if (hole.gpa > at) map->push_back({at, hole.gpa - at, MemoryMapEntry::kRam});
    at = hole.gpa + hole.size_bytes;
  }
  if (at < end) map->push_back({at, end - at, MemoryMapEntry::kRam});
}

}  // namespace

std::vector<MemoryMapEntry> MemoryMap(const BootRequest& request) {
  std::vector<MemoryMapEntry> map;
  for (const RamRange& ram : request.ram) AddRam(ram, request.reserved, &map);
  for (const RamRange& range : request.reserved) {
    map.push_back({range.gpa, range.size_bytes, MemoryMapEntry::kReserved});
  }
  std::sort(map.begin(), map.end(), [](const auto& a, const auto& b) { return a.gpa < b.gpa; });
  return map;
}

absl::Status CopyToGuest(const GuestRam& guest_ram, uint64_t gpa, absl::string_view bytes, uint64_t size_bytes) {
  CPR_ASSIGN_OR_RETURN(const absl::Span<uint8_t> to, guest_ram(gpa, size_bytes));
  if (to.size() < size_bytes) return absl::OutOfRangeError(absl::StrCat("0x", absl::Hex(gpa), " is not all RAM"));
  std::memcpy(to.data(), bytes.data(), bytes.size());
  std::memset(to.data() + bytes.size(), 0, size_bytes - bytes.size());
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> PlaceInitrd(const BootRequest& request, uint64_t begin_gpa, uint64_t end_gpa) {
  const uint64_t size = request.initrd.size();
  const uint64_t ram_end = request.ram.empty() ? 0 : request.ram.front().gpa + request.ram.front().size_bytes;
  const uint64_t end = std::min(ram_end, end_gpa);
  const uint64_t gpa = size > end ? 0 : (end - size) / kPageBytes * kPageBytes;
  if (gpa < begin_gpa)
    return absl::OutOfRangeError(absl::StrCat("initrd '", request.initrd_name, "' of ", size,
                                              " bytes does not fit between the kernel and 0x", absl::Hex(end)));
  return gpa;
}

absl::StatusOr<std::string> ReadBootFile(const std::string& path, uint64_t limit_bytes) {
  CPR_ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_RDONLY));
  absl::StatusOr<std::string> bytes = ReadToEnd(fd.get(), limit_bytes);
  if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("'", path, "'"));
  return bytes;
}

}  // namespace cpr
