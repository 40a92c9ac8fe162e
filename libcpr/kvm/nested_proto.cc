#include "libcpr/kvm/nested_proto.h"

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm::internal {
namespace {

constexpr size_t kHeaderBytes = sizeof(kvm_nested_state);
constexpr size_t kPageBytes = 4096;
static_assert(kHeaderBytes == 128);

void VmxToProto(const kvm_vmx_nested_state_hdr& vmx, v1::X86NestedState* proto) {
  proto->set_format(v1::X86_NESTED_FORMAT_VMX);
  proto->set_vmx_vmxon_gpa(vmx.vmxon_pa);
  proto->set_vmx_vmcs12_gpa(vmx.vmcs12_pa);
  proto->set_vmx_smm_flags(vmx.smm.flags);
  proto->set_vmx_flags(vmx.flags);
  proto->set_vmx_preemption_timer_deadline(vmx.preemption_timer_deadline);
}

void VmxFromProto(const v1::X86NestedState& proto, FieldReader& reader, kvm_nested_state& header) {
  header.format = KVM_STATE_NESTED_FORMAT_VMX;
  kvm_vmx_nested_state_hdr& vmx = header.hdr.vmx;
  vmx.vmxon_pa = proto.vmx_vmxon_gpa();
  vmx.vmcs12_pa = proto.vmx_vmcs12_gpa();
  vmx.preemption_timer_deadline = proto.vmx_preemption_timer_deadline();
  reader.Take("vmx_smm_flags", proto.vmx_smm_flags(), 0xffff, &vmx.smm.flags);
  vmx.flags = proto.vmx_flags();
}

// The data is whole pages, as many as the format knows.
void CheckData(const v1::X86NestedState& proto, FieldReader& reader) {
  const size_t max_bytes = proto.format() == v1::X86_NESTED_FORMAT_VMX ? 2 * kPageBytes : kPageBytes;
  const size_t bytes = proto.data().size();
  if (bytes > max_bytes || bytes % kPageBytes != 0) {
    reader.Complain("data", absl::StrCat("has ", bytes, " bytes, not whole pages up to ", max_bytes));
  }
}

}  // namespace

void NestedToProto(const std::vector<uint8_t>& state, v1::X86NestedState* proto) {
  kvm_nested_state header = {};
  std::memcpy(static_cast<void*>(&header), state.data(), kHeaderBytes);
  proto->set_flags(header.flags);
  if (header.format == KVM_STATE_NESTED_FORMAT_VMX) {
    VmxToProto(header.hdr.vmx, proto);
  } else {
    proto->set_format(v1::X86_NESTED_FORMAT_SVM);
    proto->set_svm_vmcb_gpa(header.hdr.svm.vmcb_pa);
  }
  proto->set_data(state.data() + kHeaderBytes, state.size() - kHeaderBytes);
}

std::vector<uint8_t> NestedFromProto(const v1::X86NestedState& proto, FieldReader& reader) {
  kvm_nested_state header = {};
  reader.Take("flags", proto.flags(), 0xffff, &header.flags);
  CheckData(proto, reader);
  if (proto.format() == v1::X86_NESTED_FORMAT_VMX) {
    VmxFromProto(proto, reader, header);
  } else if (proto.format() == v1::X86_NESTED_FORMAT_SVM) {
    header.format = KVM_STATE_NESTED_FORMAT_SVM;
    header.hdr.svm.vmcb_pa = proto.svm_vmcb_gpa();
  } else {
    reader.Complain("format", "is neither VMX nor SVM");
  }
  if (!reader.status().ok()) return {};
  header.size = static_cast<uint32_t>(kHeaderBytes + proto.data().size());
  std::vector<uint8_t> state(header.size);
  std::memcpy(state.data(), &header, kHeaderBytes);
  std::memcpy(state.data() + kHeaderBytes, proto.data().data(), proto.data().size());
  return state;
}

}  // namespace cpr::kvm::internal
