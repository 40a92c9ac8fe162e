#include "libcpr/kvm/msrs.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm {
namespace {

constexpr uint32_t kMsrMcgCap = 0x179;
constexpr uint32_t kMsrMtrrDefType = 0x2ff;

// KVM_GET_MSR_INDEX_LIST has most of these on a new kernel, and a few or none on an old one.
constexpr std::array kPvMsrs = {
    MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_ASYNC_PF_EN,  MSR_KVM_ASYNC_PF_INT,
    MSR_KVM_PV_EOI_EN,       MSR_KVM_STEAL_TIME,     MSR_KVM_POLL_CONTROL,
};
constexpr std::array kFixedMtrrs = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f};
constexpr uint32_t kFirstVariableMtrr = 0x200, kLastVariableMtrr = 0x20f;
constexpr uint32_t kFirstMcBank = 0x400, kMsrsPerMcBank = 4, kMaxMcBanks = 32;

bool IsState(uint32_t index) {
  switch (index) {
    case kMsrTsc:               // the offset travels
    case kMsrTscDeadline:       // comes last
    case MSR_KVM_WALL_CLOCK:    // old names of MSR_KVM_WALL_CLOCK_NEW and MSR_KVM_SYSTEM_TIME_NEW: writing either twice
    case MSR_KVM_SYSTEM_TIME:   // would write the guest's clock page twice
    case MSR_KVM_ASYNC_PF_ACK:  // an action
    case 0x49:                  // IA32_PRED_CMD, an action
    case 0x40000020:            // HV_X64_MSR_TIME_REF_COUNT, a clock that cannot be set: kvm-clock in other units
      return false;
  }
  return true;
}

uint32_t McBanks(const Vcpu& probe) {
  const auto cap = probe.Msrs({kMsrMcgCap});
  if (!cap.ok() || cap->empty()) return 0;
  return std::min<uint32_t>(cap->front().data & 0xff, kMaxMcBanks);
}

std::vector<uint32_t> Candidates(const std::vector<uint32_t>& listed, const Vcpu& probe) {
  std::vector<uint32_t> all = {kMsrMtrrDefType};
  for (uint32_t index : listed) all.push_back(index);
  for (uint32_t index : kPvMsrs) all.push_back(index);
  for (uint32_t index : kFixedMtrrs) all.push_back(index);
  for (uint32_t index = kFirstVariableMtrr; index <= kLastVariableMtrr; ++index) all.push_back(index);
  const uint32_t mc_msrs = McBanks(probe) * kMsrsPerMcBank;
  for (uint32_t i = 0; i < mc_msrs; ++i) all.push_back(kFirstMcBank + i);
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  all.erase(std::remove_if(all.begin(), all.end(), [](uint32_t index) { return !IsState(index); }), all.end());
  all.push_back(kMsrTscDeadline);
  return all;
}

// `msrs` as they are to be written: the deadline last and never 0.
absl::StatusOr<std::vector<kvm_msr_entry>> InOrder(absl::Span<const kvm_msr_entry> msrs) {
  std::vector<kvm_msr_entry> ordered, last;
  ordered.reserve(msrs.size());
  for (const kvm_msr_entry& msr : msrs) {
    if (msr.index == kMsrTsc) return absl::InvalidArgumentError("MSR 0x10 (TSC) is never written: the TSC offset is");
    if (msr.index != kMsrTscDeadline) {
      ordered.push_back(msr);
    } else if (msr.data != 0) {
      last.push_back(msr);
    }
  }
  ordered.insert(ordered.end(), last.begin(), last.end());
  return ordered;
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> StateMsrs(const System& system, const Vcpu& probe) {
  CPR_ASSIGN_OR_RETURN(const std::vector<uint32_t> listed, system.MsrIndexList());
  CPR_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> readable, SaveMsrs(probe, Candidates(listed, probe)));
  std::vector<uint32_t> indices;
  indices.reserve(readable.size());
  for (const kvm_msr_entry& msr : readable) indices.push_back(msr.index);
  return indices;
}

absl::StatusOr<std::vector<kvm_msr_entry>> SaveMsrs(const Vcpu& vcpu, absl::Span<const uint32_t> indices) {
  std::vector<kvm_msr_entry> saved;
  while (!indices.empty()) {
    CPR_ASSIGN_OR_RETURN(std::vector<kvm_msr_entry> some, vcpu.Msrs(indices));
    indices.remove_prefix(std::min(some.size() + 1, indices.size()));
    if (saved.empty()) {
      saved = std::move(some);
    } else {
      saved.insert(saved.end(), some.begin(), some.end());
    }
  }
  return saved;
}

absl::Status RestoreMsrs(Vcpu& vcpu, absl::Span<const kvm_msr_entry> msrs) {
  CPR_ASSIGN_OR_RETURN(const std::vector<kvm_msr_entry> ordered, InOrder(msrs));
  absl::Span<const kvm_msr_entry> rest = ordered;
  while (!rest.empty()) {
    CPR_ASSIGN_OR_RETURN(const size_t written, vcpu.SetMsrs(rest));
    if (written == rest.size()) break;
    const kvm_msr_entry& refused = rest[written];
    if (refused.data != 0) {
      return absl::FailedPreconditionError(absl::StrCat("KVM_SET_MSRS vcpu ", vcpu.id(), ": this host refuses MSR 0x",
                                                        absl::Hex(refused.index), " = 0x", absl::Hex(refused.data)));
    }
    rest.remove_prefix(written + 1);
  }
  return absl::OkStatus();
}

}  // namespace cpr::kvm
