#ifndef VMM_MACHINE_CPUID_H_
#define VMM_MACHINE_CPUID_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "libcpr/kvm/uapi.h"

namespace cpr {

// What CPUID tells vCPU `vcpu_id` of `vcpu_count`: all that the host's KVM offers (`supported`, from
// KVM_GET_SUPPORTED_CPUID), its paravirtual leaves included, with this vCPU's APIC id and a topology of one socket
// whose cores have one thread each. The vCPU's id is its APIC id.
std::vector<kvm_cpuid_entry2> GuestCpuid(absl::Span<const kvm_cpuid_entry2> supported, uint32_t vcpu_id,
                                         uint32_t vcpu_count);

}  // namespace cpr

#endif  // VMM_MACHINE_CPUID_H_
