#include "vmm/boot/pvh.h"

#include <elf.h>

#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "libcpr/testing/matchers.h"

namespace cpr {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::testing::HasSubstr;

constexpr uint64_t kRamBytes = 4 << 20;
constexpr uint64_t kLoadGpa = 0x100000;

// RAM from 0 to kRamBytes, its bytes all 0xee.
class Ram {
 public:
  GuestRam Access() {
    return [this](uint64_t gpa, uint64_t size) -> absl::StatusOr<absl::Span<uint8_t>> {
      if (gpa > bytes_.size() || size > bytes_.size() - gpa) return absl::OutOfRangeError("not RAM");
      return absl::MakeSpan(bytes_).subspan(gpa, size);
    };
  }
  template <typename T>
  T At(uint64_t gpa) const {
    T value;
    std::memcpy(&value, &bytes_.at(gpa), sizeof(T));
    return value;
  }
  std::string Text(uint64_t gpa) const { return reinterpret_cast<const char*>(&bytes_.at(gpa)); }

 private:
  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(kRamBytes, 0xee);
};

template <typename T>
void Put(std::string* file, const T& value) {
  file->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

// The smallest PVH kernel: header, a PT_LOAD of 4 bytes (16 in memory) and a PT_NOTE.
template <typename Ehdr, typename Phdr>
struct Kernel {
  Ehdr ehdr = {};
  Phdr load = {}, notes = {};
  Elf64_Nhdr note = {4, 4, 18};
  uint32_t entry = kLoadGpa;

  Kernel() {
    std::memcpy(ehdr.e_ident, ELFMAG, SELFMAG);
    ehdr.e_ident[EI_CLASS] = sizeof(Ehdr) == sizeof(Elf64_Ehdr) ? ELFCLASS64 : ELFCLASS32;
    ehdr.e_ident[EI_DATA] = ELFDATA2LSB;
    ehdr.e_type = ET_EXEC;
    ehdr.e_machine = EM_X86_64;
    ehdr.e_phoff = sizeof(Ehdr);
    ehdr.e_phentsize = sizeof(Phdr);
    ehdr.e_phnum = 2;
    notes.p_type = PT_NOTE;
    notes.p_offset = sizeof(Ehdr) + 2 * sizeof(Phdr);
    notes.p_filesz = notes.p_memsz = sizeof(note) + 8;
    load.p_type = PT_LOAD;
    load.p_offset = notes.p_offset + notes.p_filesz;
    load.p_paddr = kLoadGpa;
    load.p_filesz = 4;
    load.p_memsz = 16;
  }

  std::string Bytes() const {
    std::string file;
    Put(&file, ehdr);
    Put(&file, load);
    Put(&file, notes);
    Put(&file, note);
    file.append("Xen\0", 4);
    Put(&file, entry);
    return file + "code";
  }
};
using Kernel64 = Kernel<Elf64_Ehdr, Elf64_Phdr>;
using Kernel32 = Kernel<Elf32_Ehdr, Elf32_Phdr>;

BootRequest BootOf(const std::string& kernel) {
  BootRequest boot;
  boot.kernel_name = "vmlinux";
  boot.kernel = kernel;
  boot.ram = {{0, kRamBytes}};
  return boot;
}

absl::Status LoadError(const std::string& kernel) {
  Ram ram;
  return LoadPvh(BootOf(kernel), ram.Access()).status();
}

TEST(Pvh, LoadsBothClassesAndZeroesTheRest) {
  for (const std::string& kernel : {Kernel64().Bytes(), Kernel32().Bytes()}) {
    Ram ram;
    CPR_ASSERT_OK_AND_ASSIGN(const PvhEntry entry, LoadPvh(BootOf(kernel), ram.Access()));
    EXPECT_EQ(entry.entry_gpa, kLoadGpa);
    EXPECT_EQ(ram.Text(kLoadGpa), "code");
    EXPECT_EQ(ram.At<uint64_t>(kLoadGpa + 8), 0u);
    EXPECT_EQ(ram.At<uint8_t>(kLoadGpa + 16), 0xee);
  }
}

TEST(Pvh, StartInfoCarriesMemoryMapCommandLineAndInitrd) {
  const std::string kernel = Kernel64().Bytes();
  const std::string initrd(5000, 'i');
  BootRequest boot = BootOf(kernel);
  boot.cmdline = "cpus=2 quiet";
  boot.initrd_name = "initrd";
  boot.initrd = initrd;
  boot.ram.push_back({uint64_t{4} << 30, uint64_t{1} << 30});
  Ram ram;
  CPR_ASSERT_OK_AND_ASSIGN(const PvhEntry entry, LoadPvh(boot, ram.Access()));
  const uint64_t info = entry.start_info_gpa;
  EXPECT_EQ(ram.At<uint32_t>(info), 0x336ec578u);
  EXPECT_EQ(ram.At<uint32_t>(info + 4), 1u);
  EXPECT_EQ(ram.At<uint32_t>(info + 12), 1u);
  const uint64_t modules = ram.At<uint64_t>(info + 16);
  EXPECT_EQ(ram.At<uint64_t>(modules) % 4096, 0u);
  EXPECT_EQ(ram.At<uint64_t>(modules + 8), initrd.size());
  EXPECT_EQ(ram.At<uint8_t>(ram.At<uint64_t>(modules) + 4999), 'i');
  EXPECT_EQ(ram.Text(ram.At<uint64_t>(info + 24)), "cpus=2 quiet");
  EXPECT_EQ(ram.At<uint64_t>(info + 32), 0u);
  const uint64_t memmap = ram.At<uint64_t>(info + 40);
  EXPECT_EQ(ram.At<uint32_t>(info + 48), 2u);
  EXPECT_EQ(ram.At<uint64_t>(memmap + 8), kRamBytes);
  EXPECT_EQ(ram.At<uint64_t>(memmap + 24), uint64_t{4} << 30);
  EXPECT_EQ(ram.At<uint32_t>(memmap + 40), 1u);
}

TEST(Pvh, KernelCutAtAnyByteIsRefusedByName) {
  for (const std::string& kernel : {Kernel64().Bytes(), Kernel32().Bytes()}) {
    for (size_t size = 0; size < kernel.size(); ++size) {
      EXPECT_THAT(LoadError(kernel.substr(0, size)),
                  StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kernel 'vmlinux': ")))
          << "cut to " << size;
    }
  }
}

TEST(Pvh, AnyByteMayBeAnyValueWithoutHarm) {
  const std::string good = Kernel64().Bytes();
  for (size_t at = 0; at < good.size(); ++at) {
    for (int value : {0, 1, 0x7f, 0x80, 0xff}) {
      std::string kernel = good;
      kernel[at] = static_cast<char>(value);
      const absl::Status status = LoadError(kernel);
      if (!status.ok()) {
        EXPECT_THAT(std::string(status.message()), HasSubstr("kernel 'vmlinux': "));
      }
    }
  }
}

TEST(Pvh, FieldsOutOfRangeAreNamed) {
  struct Case {
    std::function<void(Kernel64*)> alter;
    const char* reason;
  };
  const Case cases[] = {
      {[](Kernel64* k) { k->ehdr.e_ident[0] = 'M'; }, "not an ELF file"},
      {[](Kernel64* k) { k->ehdr.e_ident[EI_CLASS] = 3; }, "ELF class 3"},
      {[](Kernel64* k) { k->ehdr.e_ident[EI_DATA] = ELFDATA2MSB; }, "little-endian"},
      {[](Kernel64* k) { k->ehdr.e_type = ET_REL; }, "ELF type 1"},
      {[](Kernel64* k) { k->ehdr.e_machine = EM_AARCH64; }, "ELF machine 183"},
      {[](Kernel64* k) { k->ehdr.e_phentsize = 55; }, "2 program headers of 55 bytes"},
      {[](Kernel64* k) { k->ehdr.e_phnum = 0; }, "0 program headers"},
      {[](Kernel64* k) { k->ehdr.e_phoff = ~0ull; }, "past the end"},
      {[](Kernel64* k) { k->load.p_offset = ~0ull; }, "program header 0 claims bytes"},
      {[](Kernel64* k) { k->load.p_filesz = ~0ull; }, "program header 0 claims bytes"},
      {[](Kernel64* k) { k->load.p_memsz = 3; }, "program header 0 has 4 bytes for 3"},
      {[](Kernel64* k) { k->load.p_memsz = ~0ull; }, "impossible address"},
      {[](Kernel64* k) { k->load.p_paddr = ~0ull - 2; }, "impossible address"},
      {[](Kernel64* k) { k->load.p_type = PT_NULL; }, "in no segment"},
      {[](Kernel64* k) { k->notes.p_filesz = 1000; }, "program header 1 claims bytes"},
      {[](Kernel64* k) { k->notes.p_type = PT_NULL; }, "no PVH entry"},
      {[](Kernel64* k) { k->note.n_type = 17; }, "no PVH entry"},
      {[](Kernel64* k) { k->note.n_namesz = ~0u; }, "a note that is cut"},
      {[](Kernel64* k) { k->note.n_descsz = ~0u; }, "a note that is cut"},
      {[](Kernel64* k) { k->note.n_descsz = 3; }, "PVH entry note of 3 bytes"},
      {[](Kernel64* k) { k->entry = kLoadGpa + 16; }, "entry 0x100010 is in no segment"},
  };
  for (const Case& c : cases) {
    Kernel64 kernel;
    c.alter(&kernel);
    EXPECT_THAT(LoadError(kernel.Bytes()), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.reason)));
  }
}

TEST(Pvh, OverlappingSegmentsAreRefused) {
  Kernel64 kernel;
  kernel.ehdr.e_phnum = 3;
  std::string file = kernel.Bytes();
  kernel.ehdr.e_phoff = file.size();
  file = kernel.Bytes();
  for (const Elf64_Phdr& phdr : {kernel.notes, kernel.load, kernel.load}) Put(&file, phdr);
  EXPECT_THAT(LoadError(file), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 overlaps an earlier one")));
}

TEST(Pvh, WhatDoesNotFitIsRefused) {
  Kernel64 kernel;
  kernel.load.p_memsz = kRamBytes;
  EXPECT_THAT(LoadError(kernel.Bytes()), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("kernel 'vmlinux': ")));
  kernel.load.p_memsz = 16;
  kernel.load.p_paddr = kernel.entry = kStartInfoGpa;
  EXPECT_THAT(LoadError(kernel.Bytes()), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("covers the boot data")));

  const std::string file = Kernel64().Bytes();
  Ram ram;
  BootRequest boot = BootOf(file);
  boot.cmdline.assign(kMaxCmdlineBytes + 1, 'x');
  EXPECT_THAT(LoadPvh(boot, ram.Access()), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4097 bytes")));
  boot.cmdline.clear();
  const std::string initrd(kRamBytes - kLoadGpa, 'i');
  boot.initrd_name = "rd.img";
  boot.initrd = initrd;
  EXPECT_THAT(LoadPvh(boot, ram.Access()), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("initrd 'rd.img'")));
  boot.initrd_name.clear();
  boot.initrd = {};
  boot.ram.assign(30000, {0, 4096});
  EXPECT_THAT(LoadPvh(boot, ram.Access()), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("30000 ranges")));
}

TEST(Pvh, RegistersAreTheEntryState) {
  kvm_regs regs;
  std::memset(&regs, 0xff, sizeof(regs));
  kvm_sregs sregs;
  std::memset(&sregs, 0xff, sizeof(sregs));
  sregs.apic_base = 0xfee00900;
  FillPvhRegisters({0x100200, 0x6000}, &regs, &sregs);
  EXPECT_EQ(regs.rip, 0x100200u);
  EXPECT_EQ(regs.rbx, 0x6000u);
  EXPECT_EQ(regs.rflags, 2u);
  EXPECT_EQ(sregs.cr0, 0x11u);
  EXPECT_EQ(sregs.cr4, 0u);
  EXPECT_EQ(sregs.efer, 0u);
  EXPECT_EQ(sregs.cs.limit, 0xffffffffu);
  EXPECT_EQ(sregs.cs.db, 1);
  EXPECT_EQ(sregs.cs.l, 0);
  EXPECT_EQ(sregs.apic_base, 0xfee00900u);
}

TEST(Pvh, MissingFileIsNamed) {
  EXPECT_THAT(ReadBootFile("/no/such/kernel"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/kernel")));
  CPR_ASSERT_OK_AND_ASSIGN(const std::string self, ReadBootFile("/proc/self/exe"));
  EXPECT_EQ(self.substr(0, SELFMAG), ELFMAG);
  EXPECT_THAT(ReadBootFile("/proc/self/exe", 100),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("/proc/self/exe")));
}

TEST(Pvh, StartInfoTellsOfAcpiAndReservedMemory) {
  const std::string kernel = Kernel64().Bytes();
  BootRequest boot = BootOf(kernel);
  boot.rsdp_gpa = 0xe0000;
  boot.reserved = {{0x9fc00, 0x60400}};
  Ram ram;
  CPR_ASSERT_OK_AND_ASSIGN(const PvhEntry entry, LoadPvh(boot, ram.Access()));
  EXPECT_EQ(ram.At<uint64_t>(entry.start_info_gpa + 32), 0xe0000u);
  EXPECT_EQ(ram.At<uint32_t>(entry.start_info_gpa + 48), 3u);
  const uint64_t map = ram.At<uint64_t>(entry.start_info_gpa + 40);
  EXPECT_EQ(ram.At<uint64_t>(map + 24), 0x9fc00u);
  EXPECT_EQ(ram.At<uint32_t>(map + 24 + 16), 2u);
}

}  // namespace
}  // namespace cpr
