#include "vmm/boot/elf_image.h"

#include <elf.h>

#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"

namespace cpr {
namespace {

constexpr uint32_t kXenElfnotePhys32Entry = 18;  // Xen: public/elfnote.h
constexpr uint64_t kMaxGpa = uint64_t{1} << 52;

absl::Status Bad(absl::string_view reason) { return absl::InvalidArgumentError(reason); }

// A copy of the T at `offset`, since nothing in the file need be aligned.
template <typename T>
std::optional<T> ReadAt(absl::string_view file, uint64_t offset) {
  if (offset > file.size() || file.size() - offset < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

// The part of `file` that a program header claims, by its fields of either class.
template <typename Phdr>
absl::StatusOr<absl::string_view> FileRange(absl::string_view file, const Phdr& phdr) {
  const uint64_t offset = phdr.p_offset, size = phdr.p_filesz;
  if (offset > file.size() || size > file.size() - offset)
    return Bad(absl::StrCat("claims bytes ", offset, "+", size, " of a file of ", file.size(), " bytes"));
  return file.substr(offset, size);
}

template <typename Phdr>
absl::Status AddSegment(absl::string_view file, const Phdr& phdr, ElfImage* image) {
  const uint64_t gpa = phdr.p_paddr, size = phdr.p_memsz;
  CPR_ASSIGN_OR_RETURN(const absl::string_view bytes, FileRange(file, phdr));
  if (size < bytes.size()) return Bad(absl::StrCat("has ", bytes.size(), " bytes for ", size, " bytes of memory"));
  if (gpa > kMaxGpa || size > kMaxGpa - gpa)
    return Bad(absl::StrCat("has the impossible address 0x", absl::Hex(gpa), "+0x", absl::Hex(size)));
  for (const ElfSegment& other : image->segments) {
    if (gpa < other.gpa + other.memory_size_bytes && other.gpa < gpa + size) return Bad("overlaps an earlier one");
  }
  if (size > 0) image->segments.push_back({gpa, bytes, size});
  return absl::OkStatus();
}

uint64_t AlignUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) / alignment * alignment; }

// Looks for the PVH entry in one PT_NOTE. A note is {name size, description size, type}, name, description, each
// padded to `alignment`.
absl::Status ScanNotes(absl::string_view notes, uint64_t alignment, std::optional<uint64_t>* entry) {
  uint64_t at = 0;
  while (notes.size() - at >= sizeof(Elf64_Nhdr)) {
    const Elf64_Nhdr note = *ReadAt<Elf64_Nhdr>(notes, at);
    const uint64_t name_at = at + sizeof(note);
    const uint64_t desc_at = name_at + AlignUp(note.n_namesz, alignment);
    if (desc_at > notes.size() || note.n_descsz > notes.size() - desc_at) return Bad("has a note that is cut");
    if (note.n_type == kXenElfnotePhys32Entry &&
        notes.substr(name_at, note.n_namesz) == absl::string_view("Xen\0", 4)) {
      if (note.n_descsz != 4 && note.n_descsz != 8)
        return Bad(absl::StrCat("has a PVH entry note of ", note.n_descsz, " bytes, not 4 or 8"));
      *entry = note.n_descsz == 4 ? *ReadAt<uint32_t>(notes, desc_at) : *ReadAt<uint64_t>(notes, desc_at);
    }
    at = std::min<uint64_t>(notes.size(), desc_at + AlignUp(note.n_descsz, alignment));
  }
  return absl::OkStatus();
}

template <typename Phdr>
absl::Status TakeHeader(absl::string_view file, const Phdr& phdr, ElfImage* image, std::optional<uint64_t>* entry) {
  if (phdr.p_type == PT_LOAD) return AddSegment(file, phdr, image);
  if (phdr.p_type != PT_NOTE) return absl::OkStatus();
  CPR_ASSIGN_OR_RETURN(const absl::string_view notes, FileRange(file, phdr));
  return ScanNotes(notes, phdr.p_align == 8 ? 8 : 4, entry);
}

absl::Status CheckEntry(const ElfImage& image, std::optional<uint64_t> entry) {
  if (!entry.has_value()) return Bad("has no PVH entry (ELF note XEN_ELFNOTE_PHYS32_ENTRY)");
  for (const ElfSegment& segment : image.segments) {
    if (*entry >= segment.gpa && *entry - segment.gpa < segment.memory_size_bytes && *entry < (uint64_t{1} << 32))
      return absl::OkStatus();
  }
  return Bad(absl::StrCat("PVH entry 0x", absl::Hex(*entry), " is in no segment below 4 GiB"));
}

template <typename Ehdr, typename Phdr>
absl::StatusOr<ElfImage> Parse(absl::string_view file) {
  const std::optional<Ehdr> ehdr = ReadAt<Ehdr>(file, 0);
  if (!ehdr.has_value()) return Bad("ELF header is cut");
  if (ehdr->e_type != ET_EXEC && ehdr->e_type != ET_DYN)
    return Bad(absl::StrCat("ELF type ", ehdr->e_type, " is not executable"));
  if (ehdr->e_machine != EM_386 && ehdr->e_machine != EM_X86_64)
    return Bad(absl::StrCat("ELF machine ", ehdr->e_machine, " is not x86"));
  if (ehdr->e_phentsize != sizeof(Phdr) || ehdr->e_phnum == 0 || ehdr->e_phnum == PN_XNUM)
    return Bad(absl::StrCat(ehdr->e_phnum, " program headers of ", ehdr->e_phentsize, " bytes each"));
  if (ehdr->e_phoff > file.size()) return Bad("program headers lie past the end of the file");
  ElfImage image;
  std::optional<uint64_t> entry;
  for (unsigned i = 0; i < ehdr->e_phnum; ++i) {
    const std::optional<Phdr> phdr = ReadAt<Phdr>(file, ehdr->e_phoff + uint64_t{i} * sizeof(Phdr));
    if (!phdr.has_value()) return Bad(absl::StrCat("program header ", i, " is cut"));
    if (const absl::Status status = TakeHeader(file, *phdr, &image, &entry); !status.ok())
      return Bad(absl::StrCat("program header ", i, " ", status.message()));
  }
  CPR_RETURN_IF_ERROR(CheckEntry(image, entry));
  image.pvh_entry_gpa = *entry;
  return image;
}

}  // namespace

absl::StatusOr<ElfImage> ParsePvhElf(absl::string_view file) {
  if (file.empty()) return Bad("the file is empty");
  if (file.size() < EI_NIDENT || file.substr(0, SELFMAG) != absl::string_view(ELFMAG, SELFMAG))
    return Bad("not an ELF file, nor a bzImage");
  if (file[EI_DATA] != ELFDATA2LSB) return Bad("ELF is not little-endian");
  if (file[EI_CLASS] == ELFCLASS32) return Parse<Elf32_Ehdr, Elf32_Phdr>(file);
  if (file[EI_CLASS] == ELFCLASS64) return Parse<Elf64_Ehdr, Elf64_Phdr>(file);
  return Bad(absl::StrCat("ELF class ", static_cast<int>(file[EI_CLASS]), " is neither 32 nor 64 bits"));
}

}  // namespace cpr
