#include "libcpr/modes/own_sections.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/backend.h"

namespace cpr {
namespace {

std::string RamFdName(absl::string_view block) { return absl::StrCat("ram:", block); }

FdKind RamFdKind(RamBacking backing) {
  switch (backing) {
    case RamBacking::kMemfd:
      return FdKind::kMemfd;
    case RamBacking::kDax:
      return FdKind::kCharDevice;
    default:
      return FdKind::kFile;
  }
}

absl::Status AddRamSection(const Inventory& inventory, const std::vector<bool>& copied, absl::string_view mark_id,
                           SectionRegistry& sections) {
  v1::RamState state;
  state.set_mark_id(std::string(mark_id));
  for (size_t i = 0; i < inventory.blocks.size(); ++i) {
    v1::RamState::Block* block = state.add_blocks();
    *block->mutable_layout() = inventory.blocks[i].ToProto();
    block->set_copied(!copied.empty() && copied[i]);
  }
  return sections.Add(
      SaveOnly(OwnSectionInfo(kRamSection, Stage::kEarly), [bytes = state.SerializeAsString()](std::string* payload) {
        payload->append(bytes);
        return absl::OkStatus();
      }));
}

// Two blocks may lie in one file: the first one met makes it long enough for itself, the second for both.
absl::Status GrowFile(int fd, const std::string& path, uint64_t size_bytes) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, absl::StrCat("fstat of ", path));
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) >= size_bytes) return absl::OkStatus();
  if (::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0)
    return ErrnoStatus(errno, absl::StrCat("ftruncate of ", path));
  return absl::OkStatus();
}

// A block whose pages lie in the state: shared RAM goes into the file of its name again, other RAM into a memfd, since
// nobody's file may change under share=off.
absl::StatusOr<RamBlock> BlockToFill(const v1::RamBlockDescriptor& descriptor) {
  CPR_ASSIGN_OR_RETURN(const RamBlockLayout layout, RamBlockLayoutFromProto(descriptor));
  if (layout.shared && !layout.path.empty()) {
    CPR_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(layout.path, O_RDWR | O_CREAT));
    CPR_RETURN_IF_ERROR(GrowFile(file.get(), layout.path, layout.offset_bytes + layout.size_bytes));
    return RamBlock::Create(layout, std::move(file));
  }
  CPR_ASSIGN_OR_RETURN(
      const RamBackend memory,
      CreateMemfdBackend({.name = layout.name, .size_bytes = layout.size_bytes, .shared = layout.shared}));
  return CreateRamBlock(memory, layout.name, layout.gpa, 0, layout.size_bytes);
}

absl::StatusOr<RamBlock> RebootBlock(const v1::RamState::Block& block) {
  if (block.copied()) return BlockToFill(block.layout());
  absl::StatusOr<RamBlock> found = ReopenRamBlock(block.layout());
  if (!found.ok()) return Annotate(found.status(), absl::StrCat("RAM block '", block.layout().name(), "'"));
  return found;
}

}  // namespace

SectionInfo OwnSectionInfo(absl::string_view name, Stage stage, uint32_t instance) {
  SectionInfo info;
  info.name = std::string(name);
  info.instance = instance;
  info.version = kOwnVersion;
  info.min_reader_version = kOwnVersion;
  info.stage = stage;
  return info;
}

std::vector<SectionSupport> OwnSupport() {
  std::vector<SectionSupport> support;
  for (const absl::string_view name : {kRamSection, kRamCopySection, kHandoverSection, kExecSection, kLuoSection}) {
    support.push_back({std::string(name), kOwnVersion});
  }
  return support;
}

v1::HandoverMode ModeToProto(Mode mode) { return static_cast<v1::HandoverMode>(mode); }
Mode ModeFromProto(v1::HandoverMode mode) {
  return v1::HandoverMode_IsValid(mode) ? static_cast<Mode>(mode) : Mode::kUnspecified;
}
static_assert(static_cast<int>(Mode::kReboot) == v1::HANDOVER_MODE_REBOOT);
static_assert(static_cast<int>(Mode::kTransfer) == v1::HANDOVER_MODE_TRANSFER);
static_assert(static_cast<int>(Mode::kExec) == v1::HANDOVER_MODE_EXEC);
static_assert(static_cast<int>(Mode::kLuo) == v1::HANDOVER_MODE_LUO);

Section SaveOnly(SectionInfo info, std::function<absl::Status(std::string*)> save) {
  return {std::move(info), std::move(save),
          [](absl::string_view, uint32_t) { return absl::InternalError("an outgoing section is not loaded"); },
          nullptr};
}

Section LoadOnly(SectionInfo info, std::function<absl::Status(absl::string_view, uint32_t)> load) {
  return {std::move(info), [](std::string*) { return absl::InternalError("an incoming section is not saved"); },
          std::move(load), nullptr};
}

absl::Status AddSharedRam(Inventory& inventory) {
  for (const RamBlock& block : inventory.blocks) {
    if (!block.SurvivesProcess()) {
      return absl::FailedPreconditionError(
          absl::StrCat("Memory region ", block.name(),
                       " is not compatible with CPR. share=on is required for memory-backend objects, and "
                       "aux-ram-share=on is required."));
    }
    CPR_RETURN_IF_ERROR(inventory.fds.AddDup(RamFdName(block.name()), 0, RamFdKind(block.backing()), block.fd()));
  }
  return AddRamSection(inventory, {}, "", inventory.sections);
}

absl::Status AddRebootRam(Inventory& inventory, bool ignore_shared, std::vector<bool>* copied,
                          absl::string_view mark_id) {
  copied->clear();
  for (const RamBlock& block : inventory.blocks) copied->push_back(!block.InPlace(ignore_shared));
  return AddRamSection(inventory, *copied, mark_id, inventory.sections);
}

absl::StatusOr<std::vector<RamBlock>> BlocksFromState(Mode mode, const v1::RamState& state, FdTable& fds) {
  std::vector<RamBlock> blocks;
  for (const v1::RamState::Block& block : state.blocks()) {
    if (mode == Mode::kReboot) {
      CPR_ASSIGN_OR_RETURN(RamBlock opened, RebootBlock(block));
      blocks.push_back(std::move(opened));
      continue;
    }
    CPR_ASSIGN_OR_RETURN(const RamBlockLayout layout, RamBlockLayoutFromProto(block.layout()));
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, fds.Take(RamFdName(layout.name), 0, RamFdKind(layout.backing)));
    // The next kernel's memfds have other inodes: there the token tells which file it is.
    CPR_ASSIGN_OR_RETURN(RamBlock arrived, mode == Mode::kLuo ? RamBlock::Create(layout, std::move(fd))
                                                              : RamBlock::FromProto(block.layout(), std::move(fd)));
    blocks.push_back(std::move(arrived));
  }
  return blocks;
}

}  // namespace cpr
