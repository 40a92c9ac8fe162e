#include "vmm/boot/pvh.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "vmm/boot/elf_image.h"

namespace cpr {
namespace {

// Xen: public/arch-x86/hvm/start_info.h, version 1.
struct StartInfo {
  uint32_t magic, version, flags, nr_modules;
  uint64_t modlist_gpa, cmdline_gpa, rsdp_gpa, memmap_gpa;
  uint32_t memmap_entries, reserved;
};
struct ModlistEntry {
  uint64_t gpa, size_bytes, cmdline_gpa, reserved;
};
struct MemmapEntry {
  uint64_t gpa, size_bytes;
  uint32_t type, reserved;
};
static_assert(sizeof(StartInfo) == 56 && sizeof(ModlistEntry) == 32 && sizeof(MemmapEntry) == 24);

constexpr uint32_t kStartInfoMagic = 0x336ec578;
constexpr uint64_t kLowMemoryEnd = 0x9fc00;  // what a PC's firmware keeps for itself begins here
// Linux wants its initrd below 2 GiB.
constexpr uint64_t kInitrdEnd = uint64_t{1} << 31;

uint64_t KernelEnd(const ElfImage& image) {
  uint64_t end = 0;
  for (const ElfSegment& segment : image.segments) end = std::max(end, segment.gpa + segment.memory_size_bytes);
  return end;
}

template <typename T>
uint64_t Append(std::string* block, const T* items, size_t count) {
  const uint64_t gpa = kStartInfoGpa + block->size();
  block->append(reinterpret_cast<const char*>(items), count * sizeof(T));
  return gpa;
}

// start_info and all it points to but the initrd, as it stands in RAM from kStartInfoGpa on.
std::string BuildStartInfo(const BootRequest& boot, uint64_t initrd_gpa) {
  StartInfo info = {};
  std::string block(sizeof(info), '\0');
  info.magic = kStartInfoMagic;
  info.version = 1;
  info.rsdp_gpa = boot.rsdp_gpa;
  if (!boot.initrd_name.empty()) {
    const ModlistEntry module = {initrd_gpa, boot.initrd.size(), 0, 0};
    info.nr_modules = 1;
    info.modlist_gpa = Append(&block, &module, 1);
  }
  std::vector<MemmapEntry> memmap;
  for (const MemoryMapEntry& entry : MemoryMap(boot)) memmap.push_back({entry.gpa, entry.size_bytes, entry.type, 0});
  info.memmap_gpa = Append(&block, memmap.data(), memmap.size());
  info.memmap_entries = memmap.size();
  info.cmdline_gpa = Append(&block, boot.cmdline.c_str(), boot.cmdline.size() + 1);
  std::memcpy(block.data(), &info, sizeof(info));
  return block;
}

absl::Status CheckKernelPlace(const ElfImage& image, uint64_t block_end) {
  for (const ElfSegment& segment : image.segments) {
    if (segment.gpa < block_end && segment.gpa + segment.memory_size_bytes > kStartInfoGpa)
      return absl::OutOfRangeError(absl::StrCat("segment at 0x", absl::Hex(segment.gpa), " covers the boot data at 0x",
                                                absl::Hex(kStartInfoGpa)));
  }
  return absl::OkStatus();
}

absl::StatusOr<PvhEntry> LoadKernel(const BootRequest& boot, const ElfImage& image, const GuestRam& guest_ram) {
  uint64_t initrd_gpa = 0;
  if (!boot.initrd_name.empty()) {
    CPR_ASSIGN_OR_RETURN(initrd_gpa, PlaceInitrd(boot, KernelEnd(image), kInitrdEnd));
  }
  const std::string block = BuildStartInfo(boot, initrd_gpa);
  if (kStartInfoGpa + block.size() > kLowMemoryEnd)
    return absl::OutOfRangeError(absl::StrCat("memory map of ", boot.ram.size(), " ranges does not fit low memory"));
  CPR_RETURN_IF_ERROR(CheckKernelPlace(image, kStartInfoGpa + block.size()));
  for (const ElfSegment& segment : image.segments) {
    CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, segment.gpa, segment.file_bytes, segment.memory_size_bytes));
  }
  if (!boot.initrd.empty()) CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, initrd_gpa, boot.initrd, boot.initrd.size()));
  CPR_RETURN_IF_ERROR(CopyToGuest(guest_ram, kStartInfoGpa, block, block.size()));
  return PvhEntry{image.pvh_entry_gpa, kStartInfoGpa};
}

kvm_segment FlatSegment(uint16_t selector, uint8_t type) {
  kvm_segment segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = segment.db = segment.s = segment.g = 1;
  return segment;
}

}  // namespace

absl::StatusOr<PvhEntry> LoadPvh(const BootRequest& boot, const GuestRam& guest_ram) {
  if (boot.cmdline.size() > kMaxCmdlineBytes)
    return absl::InvalidArgumentError(
        absl::StrCat("kernel command line of ", boot.cmdline.size(), " bytes, at most ", kMaxCmdlineBytes));
  const std::string context = absl::StrCat("kernel '", boot.kernel_name, "'");
  absl::StatusOr<ElfImage> image = ParsePvhElf(boot.kernel);
  if (!image.ok()) return Annotate(image.status(), context);
  absl::StatusOr<PvhEntry> entry = LoadKernel(boot, *image, guest_ram);
  if (!entry.ok()) return Annotate(entry.status(), context);
  return entry;
}

void FillPvhRegisters(const PvhEntry& entry, kvm_regs* regs, kvm_sregs* sregs) {
  *regs = {};
  regs->rip = entry.entry_gpa;
  regs->rbx = entry.start_info_gpa;
  regs->rflags = 2;  // the bit that always reads as one
  constexpr uint16_t kCode = 0x08, kData = 0x10, kTask = 0x18;
  sregs->cs = FlatSegment(kCode, 0xb);                                                  // execute, read, accessed
  sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = FlatSegment(kData, 0x3);  // read, write, accessed
  sregs->tr = {};
  sregs->tr.limit = 0x67;
  sregs->tr.selector = kTask;
  sregs->tr.type = 0xb;  // busy 32-bit TSS
  sregs->tr.present = 1;
  sregs->cr0 = 0x11;  // PE, and ET which is always set
  sregs->cr3 = sregs->cr4 = 0;
  sregs->efer = 0;
}

}  // namespace cpr
