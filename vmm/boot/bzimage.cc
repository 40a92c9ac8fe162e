#include "vmm/boot/bzimage.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

// Offsets in the image and in the zero page.
constexpr size_t kSetupSectors = 0x1f1, kSystemSize = 0x1f4, kBootFlag = 0x1fe, kJumpOffset = 0x201, kMagic = 0x202,
                 kVersion = 0x206, kLoaderType = 0x210, kInitrdAddress = 0x218, kInitrdSize = 0x21c,
                 kCmdlineAddress = 0x228, kInitrdAddressMax = 0x22c, kAlignment = 0x230, kRelocatable = 0x234,
                 kXloadFlags = 0x236, kCmdlineSize = 0x238, kPreferredAddress = 0x258, kInitSize = 0x260,
                 kHeaderEnd = 0x264;
constexpr size_t kRsdpAddress = 0x070, kE820Entries = 0x1e8, kE820Table = 0x2d0;
constexpr size_t kE820EntryBytes = 20, kMaxE820Entries = 128, kZeroPageBytes = 4096;

constexpr uint16_t kBootFlagValue = 0xaa55, kOldestProtocol = 0x020c, kKernel64 = 1;
constexpr uint8_t kUnknownLoader = 0xff;
constexpr uint64_t kEntry64Offset = 0x200, kSectorBytes = 512, kOneMiB = 1 << 20;

// Low memory: the zero page, the command line behind it, and page tables.
constexpr uint64_t kZeroPageGpa = 0x7000, kCmdlineGpa = 0x8000, kPageTablesGpa = 0xa000;
static_assert(kCmdlineGpa + kMaxCmdlineBytes + 1 <= kPageTablesGpa);

// The field at `offset` of an image known to be as long.
template <typename T>
T At(absl::string_view image, size_t offset) {
  T value;
  std::memcpy(&value, image.data() + offset, sizeof(value));
  return value;
}

template <typename T>
void Put(std::string* bytes, size_t offset, T value) {
  std::memcpy(bytes->data() + offset, &value, sizeof(value));
}

absl::Status Bad(absl::string_view reason) { return absl::InvalidArgumentError(reason); }

absl::Status CheckHeader(absl::string_view image) {
  if (image.size() < kHeaderEnd || image.substr(kMagic, 4) != "HdrS") {
    return Bad("a boot protocol older than 2.00, or a cut file: 2.12 is needed");
  }
  const uint16_t version = At<uint16_t>(image, kVersion);
  if (version < kOldestProtocol) {
    return Bad(absl::StrFormat("boot protocol %d.%02d: 2.12 is needed (Linux 3.8)", version >> 8, version & 0xff));
  }
  if ((At<uint16_t>(image, kXloadFlags) & kKernel64) == 0) return Bad("it has no 64-bit entry point");
  return absl::OkStatus();
}

// What runs in protected mode: all behind the real-mode setup code.
absl::StatusOr<absl::string_view> SystemOf(absl::string_view image) {
  const uint8_t sectors = At<uint8_t>(image, kSetupSectors);
  const uint64_t setup_bytes = ((sectors == 0 ? 4 : sectors) + 1) * kSectorBytes;
  const uint64_t claimed = uint64_t{At<uint32_t>(image, kSystemSize)} * 16;
  if (setup_bytes >= image.size() || image.size() - setup_bytes + 15 < claimed) {
    return Bad(absl::StrCat("the file is cut: ", image.size(), " bytes, its header tells of ", setup_bytes + claimed));
  }
  return image.substr(setup_bytes);
}

// Where the kernel wants to be, or the lowest place that it can be moved to.
absl::StatusOr<uint64_t> PlaceKernel(absl::string_view image, uint64_t size_bytes, uint64_t ram_end) {
  const uint64_t preferred = At<uint64_t>(image, kPreferredAddress);
  const uint64_t alignment = std::max<uint64_t>(At<uint32_t>(image, kAlignment), 1);
  uint64_t gpa = preferred;
  const auto fits = [&] { return gpa >= kOneMiB && gpa <= ram_end && size_bytes <= ram_end - gpa; };
  if (!fits() && At<uint8_t>(image, kRelocatable) != 0) gpa = (kOneMiB + alignment - 1) / alignment * alignment;
  if (fits()) return gpa;
  return absl::OutOfRangeError(
      absl::StrFormat("it needs %#x bytes from %#x on, low RAM ends at %#x", size_bytes, preferred, ram_end));
}

absl::Status PutMemoryMap(const BootRequest& request, std::string* zero_page) {
  const std::vector<MemoryMapEntry> map = MemoryMap(request);
  if (map.size() > kMaxE820Entries) {
    return absl::OutOfRangeError(absl::StrCat("memory map of ", map.size(), " ranges, at most ", kMaxE820Entries));
  }
  Put<uint8_t>(zero_page, kE820Entries, static_cast<uint8_t>(map.size()));
  for (size_t i = 0; i < map.size(); ++i) {
    const size_t at = kE820Table + i * kE820EntryBytes;
    Put(zero_page, at, map[i].gpa);
    Put(zero_page, at + 8, map[i].size_bytes);
    Put(zero_page, at + 16, map[i].type);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> BuildZeroPage(const BootRequest& request, uint64_t initrd_gpa) {
  std::string zero_page(kZeroPageBytes, '\0');
  const size_t header_end = std::min<size_t>(kMagic + At<uint8_t>(request.kernel, kJumpOffset), request.kernel.size());
  if (header_end < kHeaderEnd || header_end > kE820Table) return Bad("its setup header has an impossible size");
  std::memcpy(&zero_page[kSetupSectors], request.kernel.data() + kSetupSectors, header_end - kSetupSectors);
  Put(&zero_page, kLoaderType, kUnknownLoader);
  Put(&zero_page, kCmdlineAddress, static_cast<uint32_t>(kCmdlineGpa));
  if (!request.initrd_name.empty()) {
    Put(&zero_page, kInitrdAddress, static_cast<uint32_t>(initrd_gpa));
    Put(&zero_page, kInitrdSize, static_cast<uint32_t>(request.initrd.size()));
  }
  Put(&zero_page, kRsdpAddress, request.rsdp_gpa);
  CPR_RETURN_IF_ERROR(PutMemoryMap(request, &zero_page));
  return zero_page;
}

// 4 GiB in pages of 2 MiB, each at its own address.
std::string BuildPageTables() {
  constexpr uint64_t kTable = 3, kLargePage = 0x83, kTableBytes = 4096, kDirectories = 4, kEntries = 512;
  std::string tables((2 + kDirectories) * kTableBytes, '\0');
  Put(&tables, 0, kPageTablesGpa + kTableBytes + kTable);
  for (uint64_t i = 0; i < kDirectories; ++i) {
    Put(&tables, kTableBytes + 8 * i, kPageTablesGpa + (2 + i) * kTableBytes + kTable);
  }
  for (uint64_t i = 0; i < kDirectories * kEntries; ++i) Put(&tables, 2 * kTableBytes + 8 * i, (i << 21) + kLargePage);
  return tables;
}

absl::Status CheckCmdline(const BootRequest& request) {
  const uint64_t limit = std::min<uint64_t>(At<uint32_t>(request.kernel, kCmdlineSize), kMaxCmdlineBytes);
  if (request.cmdline.size() <= limit) return absl::OkStatus();
  return Bad(absl::StrCat("a command line of ", request.cmdline.size(), " bytes, it takes at most ", limit));
}

absl::StatusOr<BzImageEntry> Load(const BootRequest& request, const GuestRam& guest_ram) {
  CPR_RETURN_IF_ERROR(CheckHeader(request.kernel));
  CPR_RETURN_IF_ERROR(CheckCmdline(request));
  CPR_ASSIGN_OR_RETURN(const absl::string_view system, SystemOf(request.kernel));
  const uint64_t size = std::max<uint64_t>(At<uint32_t>(request.kernel, kInitSize), system.size());
  const uint64_t ram_end = request.ram.empty() ? 0 : request.ram.front().gpa + request.ram.front().size_bytes;
  CPR_ASSIGN_OR_RETURN(const uint64_t kernel_gpa, PlaceKernel(request.kernel, size, ram_end));
  uint64_t initrd_gpa = 0;
  if (!request.initrd_name.empty()) {
    const uint64_t last = At<uint32_t>(request.kernel, kInitrdAddressMax);
    CPR_ASSIGN_OR_RETURN(initrd_gpa, PlaceInitrd(request, kernel_gpa + size, last + 1));
    CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, initrd_gpa, request.initrd, request.initrd.size()));
  }
  CPR_ASSIGN_OR_RETURN(const std::string zero_page, BuildZeroPage(request, initrd_gpa));
  CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, kernel_gpa, system, system.size()));
  CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, kZeroPageGpa, zero_page, zero_page.size()));
  CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, kCmdlineGpa, request.cmdline, request.cmdline.size() + 1));
  const std::string tables = BuildPageTables();
  CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, kPageTablesGpa, tables, tables.size()));
  return BzImageEntry{kernel_gpa + kEntry64Offset, kZeroPageGpa, kPageTablesGpa};
}

kvm_segment FlatSegment(uint16_t selector, uint8_t type) {
  kvm_segment segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = segment.s = segment.g = 1;
  return segment;
}

}  // namespace

bool IsLinuxImage(absl::string_view kernel) {
  return kernel.size() >= kBootFlag + 2 && At<uint16_t>(kernel, kBootFlag) == kBootFlagValue;
}

absl::StatusOr<BzImageEntry> LoadBzImage(const BootRequest& request, const GuestRam& guest_ram) {
  absl::StatusOr<BzImageEntry> entry = Load(request, guest_ram);
  if (!entry.ok()) return Annotate(entry.status(), absl::StrCat("kernel '", request.kernel_name, "'"));
  return entry;
}

void FillBzImageRegisters(const BzImageEntry& entry, kvm_regs* regs, kvm_sregs* sregs) {
  *regs = {};
  regs->rip = entry.entry_gpa;
  regs->rsi = entry.zero_page_gpa;
  regs->rflags = 2;                                             // the bit that always reads as one
  constexpr uint16_t kCode = 0x10, kData = 0x18, kTask = 0x20;  // __BOOT_CS, __BOOT_DS
  sregs->cs = FlatSegment(kCode, 0xb);
  sregs->cs.l = 1;
  sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = FlatSegment(kData, 0x3);
  for (kvm_segment* data : {&sregs->ds, &sregs->es, &sregs->fs, &sregs->gs, &sregs->ss}) data->db = 1;
  sregs->tr = {};
  sregs->tr.limit = 0x67;
  sregs->tr.selector = kTask;
  sregs->tr.type = 0xb;  // busy TSS
  sregs->tr.present = 1;
  sregs->cr0 = 0x80000011;  // PG, PE, and ET which is always set
  sregs->cr3 = entry.page_tables_gpa;
  sregs->cr4 = 0x20;    // PAE
  sregs->efer = 0x500;  // LMA, LME
}

}  // namespace cpr
