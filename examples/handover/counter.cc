#include "examples/handover/counter.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/memory/backend.h"

absl::Status Counter::Start(uint64_t step) {
  CPR_ASSIGN_OR_RETURN(cpr::RamBackend memory, cpr::CreateMemfdBackend({.name = "counter", .size_bytes = kRamBytes}));
  CPR_ASSIGN_OR_RETURN(cpr::RamBlock block,
                       cpr::CreateRamBlock(memory, "ram0", /*gpa=*/0, /*offset_bytes=*/0, kRamBytes));
  CPR_ASSIGN_OR_RETURN(ram_, cpr::Mapping::Create(block.fd(), 0, kRamBytes));
  blocks_.push_back(std::move(block));
  step_ = step;
  running_ = true;
  return absl::OkStatus();
}

void Counter::Tick() {
  if (running_) *reinterpret_cast<uint64_t*>(ram_.data()) += step_;
}

// Late state: what changes while the guest runs. RAM is not part of it, its pages stay where they are.
cpr::Section Counter::CounterSection() {
  cpr::Section section;
  section.info.name = "counter";
  section.save = [this](std::string* payload) {
    absl::StrAppend(payload, step_);
    return absl::OkStatus();
  };
  section.load = [this](absl::string_view payload, uint32_t) {
    return absl::SimpleAtoi(payload, &step_) ? absl::OkStatus() : absl::DataLossError("the step is not a number");
  };
  return section;
}

absl::Status Counter::Describe(cpr::Mode, cpr::Inventory& inventory) {
  CPR_ASSIGN_OR_RETURN(cpr::RamBlock block, blocks_[0].Dup());
  inventory.blocks.push_back(std::move(block));
  inventory.mapped.push_back(ram_.data());
  return inventory.sections.Add(CounterSection());
}

absl::Status Counter::Pause() {
  running_ = false;
  return absl::OkStatus();
}

absl::Status Counter::Build(cpr::Inventory& arrived) {
  blocks_ = std::move(arrived.blocks);
  if (blocks_.size() != 1) return absl::InvalidArgumentError("a counter has one RAM block");
  CPR_ASSIGN_OR_RETURN(ram_, cpr::Mapping::Create(blocks_[0].fd(), 0, kRamBytes));
  return arrived.sections.Add(CounterSection());
}
