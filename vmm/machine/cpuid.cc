#include "vmm/machine/cpuid.h"

#include <algorithm>
#include <bit>

namespace cpr {
namespace {

// Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
constexpr uint32_t kFeatures = 1, kCaches = 4, kTopology = 0xb, kTopologyV2 = 0x1f;
constexpr uint32_t kAmdFeatures = 0x80000001, kAmdSizes = 0x80000008, kAmdCaches = 0x8000001d,
                   kAmdTopology = 0x8000001e;

constexpr uint32_t kTscDeadline = 1u << 24, kHypervisor = 1u << 31;  // leaf 1, ECX
constexpr uint32_t kX2apic = 1u << 21;                               // leaf 1, ECX
constexpr uint32_t kHyperThreading = 1u << 28;                       // leaf 1, EDX
constexpr uint32_t kAmdLegacyCores = 1u << 1;                        // leaf 0x80000001, ECX

struct Topology {
  uint32_t id;
  uint32_t count;
  // Bits of an APIC id that tell the vCPUs of the one socket apart.
  uint32_t id_bits() const { return static_cast<uint32_t>(std::bit_width(count - 1)); }
};

void SetFeatures(const Topology& topology, kvm_cpuid_entry2* entry) {
  entry->ebx = (entry->ebx & 0x0000ffff) | std::min(topology.count, 255u) << 16 | topology.id << 24;
  entry->ecx |= kX2apic | kTscDeadline | kHypervisor;
  entry->edx = topology.count > 1 ? entry->edx | kHyperThreading : entry->edx & ~kHyperThreading;
}

// Deterministic cache parameters: levels 1 and 2 belong to a core, level 3 to the socket. `core_ids`: EAX[31:26].
void SetCache(const Topology& topology, bool core_ids, kvm_cpuid_entry2* entry) {
  const uint32_t type = entry->eax & 0x1f, level = entry->eax >> 5 & 7;
  if (type == 0) return;
  const uint32_t ids = (1u << topology.id_bits()) - 1;
  entry->eax &= 0x00003fff;
  if (level >= 3) entry->eax |= ids << 14;
  if (core_ids) entry->eax |= std::min(ids, 63u) << 26;
}

void SetTopologyLevel(const Topology& topology, kvm_cpuid_entry2* entry) {
  constexpr uint32_t kThreads = 1u << 8, kCores = 2u << 8;
  const uint32_t level = entry->index;
  entry->eax = level == 1 ? topology.id_bits() : 0;
  entry->ebx = level == 0 ? 1 : level == 1 ? topology.count : 0;
  entry->ecx = level | (level == 0 ? kThreads : level == 1 ? kCores : 0);
  entry->edx = topology.id;
}

void SetAmdTopology(const Topology& topology, kvm_cpuid_entry2* entry) {
  entry->eax = topology.id;
  entry->ebx = topology.id & 0xff;  // core id, one thread each
  entry->ecx = 0;                   // node 0 of one
}

void SetEntry(const Topology& topology, kvm_cpuid_entry2* entry) {
  switch (entry->function) {
    case kFeatures:
      return SetFeatures(topology, entry);
    case kCaches:
      return SetCache(topology, /*core_ids=*/true, entry);
    case kAmdCaches:
      return SetCache(topology, /*core_ids=*/false, entry);
    case kTopology:
    case kTopologyV2:
      return SetTopologyLevel(topology, entry);
    case kAmdFeatures:
      entry->ecx = topology.count > 1 ? entry->ecx | kAmdLegacyCores : entry->ecx & ~kAmdLegacyCores;
      return;
    case kAmdSizes:
      entry->ecx = (topology.count - 1) | topology.id_bits() << 12;
      return;
    case kAmdTopology:
      return SetAmdTopology(topology, entry);
    default:
      return;
  }
}

// KVM reports the topology leaves of the host; a vCPU has exactly two levels, and a third that ends the list.
void ReplaceTopologyLeaf(uint32_t function, std::vector<kvm_cpuid_entry2>* cpuid) {
  const auto is_leaf = [&](const kvm_cpuid_entry2& entry) { return entry.function == function; };
  if (std::none_of(cpuid->begin(), cpuid->end(), is_leaf)) return;
  cpuid->erase(std::remove_if(cpuid->begin(), cpuid->end(), is_leaf), cpuid->end());
  for (uint32_t level = 0; level < 3; ++level) {
    cpuid->push_back({.function = function, .index = level, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX});
  }
}

}  // namespace

std::vector<kvm_cpuid_entry2> GuestCpuid(absl::Span<const kvm_cpuid_entry2> supported, uint32_t vcpu_id,
                                         uint32_t vcpu_count) {
  std::vector<kvm_cpuid_entry2> cpuid(supported.begin(), supported.end());
  ReplaceTopologyLeaf(kTopology, &cpuid);
  ReplaceTopologyLeaf(kTopologyV2, &cpuid);
  for (kvm_cpuid_entry2& entry : cpuid) SetEntry({vcpu_id, vcpu_count}, &entry);
  return cpuid;
}

}  // namespace cpr
