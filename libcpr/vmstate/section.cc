#include "libcpr/vmstate/section.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

// Which registered section takes which part of a container, by position in the registry; nullptr: absent, optional.
using Plan = std::vector<const ContainerReader::View*>;

SectionInfo InfoNow(const Section& section) {
  SectionInfo info = section.info;
  if (section.oldest_reader) info.min_reader_version = section.oldest_reader();
  return info;
}

// Why nobody here can take `info`; empty if somebody can, or it may be left out.
std::string WhyNotTaken(const SectionInfo& info, const Section* section) {
  if (section == nullptr) {
    return info.optional ? "" : absl::StrCat(DescribeSection(info), ": this machine has no such section");
  }
  if (section->info.stage != info.stage) {
    return absl::StrCat(DescribeSection(info), ": was saved ", StageName(info.stage), ", this reader takes it ",
                        StageName(section->info.stage));
  }
  if (section->info.version >= info.min_reader_version) return "";
  return absl::StrCat(DescribeSection(info), ": needs reader >= ", info.min_reader_version, ", this reader knows ",
                      section->info.version);
}

absl::Status CheckAllTaken(const SectionRegistry& registry, Stage stage, const ContainerReader& reader) {
  std::vector<std::string> reasons;
  for (const ContainerReader::View& view : reader.sections()) {
    const Section* section = registry.Find(view.info.name, view.info.instance);
    if (view.info.stage != stage && (section == nullptr || section->info.stage != stage)) continue;
    std::string why = WhyNotTaken(view.info, section);
    if (!why.empty()) reasons.push_back(std::move(why));
  }
  return reasons.empty() ? absl::OkStatus() : absl::OutOfRangeError(absl::StrJoin(reasons, "; "));
}

absl::StatusOr<Plan> MakePlan(const SectionRegistry& registry, Stage stage, const ContainerReader& reader) {
  CPR_RETURN_IF_ERROR(CheckAllTaken(registry, stage, reader));
  Plan plan;
  std::vector<std::string> missing;
  for (const Section& section : registry.sections()) {
    const bool ours = section.info.stage == stage;
    plan.push_back(ours ? reader.Find(section.info.name, section.info.instance) : nullptr);
    if (ours && plan.back() == nullptr && !section.info.optional) missing.push_back(DescribeSection(section.info));
  }
  if (missing.empty()) return plan;
  return absl::NotFoundError(absl::StrCat("the state lacks ", absl::StrJoin(missing, ", ")));
}

}  // namespace

absl::Status SectionRegistry::Add(Section section) {
  CPR_RETURN_IF_ERROR(ValidateSectionInfo(section.info));
  const auto error = [&section](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(DescribeSection(section.info), ": ", what));
  };
  if (!section.save) return error("has no save");
  if (!section.load) return error("has no load");
  if (!index_.try_emplace({section.info.name, section.info.instance}, sections_.size()).second) {
    return error("is registered already");
  }
  sections_.push_back(std::move(section));
  staged_.push_back(false);
  return absl::OkStatus();
}

const Section* SectionRegistry::Find(absl::string_view name, uint32_t instance) const {
  const auto found = index_.find(std::pair<std::string, uint32_t>(name, instance));
  return found == index_.end() ? nullptr : &sections_[found->second];
}

std::vector<SectionInfo> SectionRegistry::Infos() const {
  std::vector<SectionInfo> infos;
  for (const Section& section : sections_) infos.push_back(InfoNow(section));
  return infos;
}

std::vector<SectionSupport> SectionRegistry::Supported() const {
  std::vector<SectionSupport> supported;
  absl::flat_hash_map<absl::string_view, size_t> at;
  for (const Section& section : sections_) {
    const auto [entry, is_new] = at.try_emplace(section.info.name, supported.size());
    if (is_new) supported.push_back({section.info.name, section.info.version});
    // One name, two versions: only what each instance can read is what the name can.
    uint32_t& version = supported[entry->second].version;
    version = std::min(version, section.info.version);
  }
  return supported;
}

void SectionRegistry::Clear() {
  sections_.clear();
  index_.clear();
  staged_.clear();
}

absl::Status SaveSections(const SectionRegistry& registry, Stage stage, ContainerWriter& writer) {
  for (const Section& section : registry.sections()) {
    if (section.info.stage == stage) CPR_RETURN_IF_ERROR(writer.Add(InfoNow(section), section.save));
  }
  return absl::OkStatus();
}

absl::Status LoadSections(SectionRegistry& registry, Stage stage, const ContainerReader& reader) {
  // What an earlier attempt staged is void, also when this one fails.
  for (size_t i = 0; i < registry.sections_.size(); ++i) {
    if (registry.sections_[i].info.stage == stage) registry.staged_[i] = false;
  }
  CPR_ASSIGN_OR_RETURN(const Plan plan, MakePlan(registry, stage, reader));
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i] == nullptr) continue;
    CPR_RETURN_IF_ERROR(
        Annotate(registry.sections_[i].load(plan[i]->payload, plan[i]->info.version), DescribeSection(plan[i]->info)));
  }
  for (size_t i = 0; i < plan.size(); ++i) {
    if (plan[i] != nullptr) registry.staged_[i] = true;
  }
  return absl::OkStatus();
}

absl::Status ApplySections(SectionRegistry& registry, Stage stage) {
  for (size_t i = 0; i < registry.sections_.size(); ++i) {
    const Section& section = registry.sections_[i];
    if (section.info.stage != stage || !registry.staged_[i]) continue;
    registry.staged_[i] = false;
    if (section.apply) CPR_RETURN_IF_ERROR(Annotate(section.apply(), DescribeSection(section.info)));
  }
  return absl::OkStatus();
}

}  // namespace cpr
