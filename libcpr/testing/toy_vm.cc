#include "libcpr/testing/toy_vm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/memory/backend.h"

namespace cpr::testing {
namespace {

constexpr char kExtraText[] = "payload of the fd";

absl::StatusOr<RamBlock> MakeBlock(const std::string& ram_path) {
  RamBlockLayout layout;
  layout.name = "toy.ram";
  layout.size_bytes = ToyVm::kRamBytes;
  if (ram_path == "private") {
    layout.backing = RamBacking::kAnonymous;
    return RamBlock::Create(std::move(layout), UniqueFd());
  }
  layout.shared = true;
  if (!ram_path.empty()) {
    layout.backing = RamBacking::kFile;
    layout.path = ram_path;
    CPR_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(ram_path, O_RDWR | O_CREAT));
    if (::ftruncate(fd.get(), ToyVm::kRamBytes) != 0) return ErrnoStatus(errno, "ftruncate");
    return RamBlock::Create(std::move(layout), std::move(fd));
  }
  layout.backing = RamBacking::kMemfd;
  CPR_ASSIGN_OR_RETURN(RamBackend backend, CreateMemfdBackend({.name = "toy", .size_bytes = ToyVm::kRamBytes}));
  return RamBlock::Create(std::move(layout), std::move(backend.fd));
}

}  // namespace

absl::Status ToyVm::Start(const std::string& new_config, uint64_t new_value, const std::string& ram_path) {
  CPR_ASSIGN_OR_RETURN(RamBlock block, MakeBlock(ram_path));
  CPR_RETURN_IF_ERROR(MapRam(block));
  blocks_.push_back(std::move(block));
  config = new_config;
  value = new_value;
  FillRam();
  extra.Reset(::memfd_create("toy-extra", MFD_CLOEXEC));
  CPR_RETURN_IF_ERROR(PwriteAll(extra.get(), kExtraText, 0));
  running = true;
  return absl::OkStatus();
}

absl::Status ToyVm::MapRam(const RamBlock& block) {
  if (block.fd() < 0) {
    CPR_ASSIGN_OR_RETURN(ram_, Mapping::CreateAnonymous(kRamBytes));
    return absl::OkStatus();
  }
  const auto sharing = block.shared() ? Mapping::Sharing::kShared : Mapping::Sharing::kPrivate;
  CPR_ASSIGN_OR_RETURN(
      ram_, Mapping::Create(block.fd(), block.offset_bytes(), kRamBytes, Mapping::Access::kReadWrite, sharing));
  return absl::OkStatus();
}

// Every other page is left zero, so that copies meet holes.
void ToyVm::FillRam() {
  for (uint64_t at = 0; at < kRamBytes; at += 8192) {
    const uint64_t word = value * 1000003 + at;
    std::memcpy(ram_.data() + at, &word, sizeof(word));
  }
}

bool ToyVm::RamIntact() const {
  for (uint64_t at = 0; at < kRamBytes; at += 8192) {
    uint64_t word;
    std::memcpy(&word, ram_.data() + at, sizeof(word));
    if (word != value * 1000003 + at) return false;
  }
  return true;
}

absl::Status ToyVm::Describe(Mode mode, Inventory& inventory) {
  CPR_RETURN_IF_ERROR(Check("describe"));
  for (const RamBlock& block : blocks_) {
    CPR_ASSIGN_OR_RETURN(RamBlock copy, block.Dup());
    inventory.blocks.push_back(std::move(copy));
    inventory.mapped.push_back(ram_.data());
  }
  // A memfd also outlives the kernel in a Live Update session.
  if (mode != Mode::kReboot) CPR_RETURN_IF_ERROR(inventory.fds.AddDup("extra", 0, FdKind::kMemfd, extra.get()));
  CPR_RETURN_IF_ERROR(RegisterEarly(inventory.sections));
  Section late;
  late.info.name = "toy/register";
  late.info.version = version;
  late.info.min_reader_version = min_reader_version;
  late.save = [this](std::string* payload) {
    CPR_RETURN_IF_ERROR(Check("save"));
    payload->append(reinterpret_cast<const char*>(&value), sizeof(value));
    return absl::OkStatus();
  };
  late.load = [](absl::string_view, uint32_t) { return absl::InternalError("not on this side"); };
  return inventory.sections.Add(std::move(late));
}

absl::Status ToyVm::Pause() {
  CPR_RETURN_IF_ERROR(Check("pause"));
  running = false;
  ++pauses;
  return absl::OkStatus();
}

void ToyVm::Resume() {
  running = true;
  ++resumes;
}

void ToyVm::Release() { ++releases; }

std::vector<SectionSupport> ToyVm::Supported() { return {{"toy/config", 1}, {"toy/register", version}}; }

absl::Status ToyVm::RegisterEarly(SectionRegistry& sections) {
  Section early;
  early.info.name = "toy/config";
  early.info.stage = Stage::kEarly;
  early.save = [this](std::string* payload) {
    payload->append(config);
    return absl::OkStatus();
  };
  early.load = [this](absl::string_view payload, uint32_t) {
    staged_config_ = std::string(payload);
    return absl::OkStatus();
  };
  early.apply = [this] {
    config = staged_config_;
    return absl::OkStatus();
  };
  return sections.Add(std::move(early));
}

absl::Status ToyVm::Build(Inventory& arrived) {
  CPR_RETURN_IF_ERROR(Check("build"));
  blocks_ = std::move(arrived.blocks);
  if (blocks_.size() != 1) return absl::InvalidArgumentError("a toy has one RAM block");
  CPR_RETURN_IF_ERROR(MapRam(blocks_[0]));
  if (arrived.fds.Has("extra", 0)) {
    CPR_ASSIGN_OR_RETURN(extra, arrived.fds.Take("extra", 0, FdKind::kMemfd));
  }
  Section late;
  late.info.name = "toy/register";
  late.info.version = version;
  late.save = [](std::string*) { return absl::InternalError("not on this side"); };
  late.load = [this](absl::string_view payload, uint32_t) {
    CPR_RETURN_IF_ERROR(Check("load"));
    if (payload.size() != sizeof(staged_value_)) return absl::DataLossError("the register is not 8 bytes");
    std::memcpy(&staged_value_, payload.data(), sizeof(staged_value_));
    return absl::OkStatus();
  };
  late.apply = [this] {
    CPR_RETURN_IF_ERROR(Check("apply"));
    value = staged_value_;
    return absl::OkStatus();
  };
  return arrived.sections.Add(std::move(late));
}

void ToyVm::Run() {
  running = true;
  ++runs;
}

}  // namespace cpr::testing
