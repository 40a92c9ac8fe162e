#include "libcpr/kvm/vcpu_state_proto.h"

#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "libcpr/kvm/field_reader.h"
#include "libcpr/kvm/msrs.h"
#include "libcpr/kvm/nested_proto.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm {
namespace {

using internal::FieldReader;

// Limits. All are far above what any kernel hands out, and small enough to be allocated for a stranger.
constexpr int kMaxCpuidEntries = 256;  // KVM_MAX_CPUID_ENTRIES
constexpr int kMaxMsrs = 4096;
constexpr size_t kMaxXsaveBytes = 64 << 10;  // AMX needs 11008
constexpr uint32_t kMaxVcpuId = 4095;        // KVM_MAX_VCPU_IDS - 1
constexpr uint32_t kMinTscKhz = 1'000, kMaxTscKhz = 100'000'000;
constexpr int kLapicRegisters = KVM_APIC_REG_SIZE / 16;
constexpr size_t kXcompBvOffset = 520;
constexpr uint64_t kAny = FieldReader::kAny;

// Each list names the fields of one structure once, with the largest value, for both directions. X(member, max), or
// X(proto field, member, max) where the names differ.
#define CPR_REGS(X)                                                                                                  \
  X(rax, kAny)                                                                                                       \
  X(rbx, kAny) X(rcx, kAny) X(rdx, kAny) X(rsi, kAny) X(rdi, kAny) X(rsp, kAny) X(rbp, kAny) X(r8, kAny) X(r9, kAny) \
      X(r10, kAny) X(r11, kAny) X(r12, kAny) X(r13, kAny) X(r14, kAny) X(r15, kAny) X(rip, kAny) X(rflags, kAny)
#define CPR_SEGMENT(X)                                                                                              \
  X(base, kAny)                                                                                                     \
  X(limit, kAny) X(selector, 0xffff) X(type, 15) X(present, 1) X(dpl, 3) X(db, 1) X(s, 1) X(l, 1) X(g, 1) X(avl, 1) \
      X(unusable, 1)
#define CPR_SREGS_SEGMENTS(X) X(cs) X(ds) X(es) X(fs) X(gs) X(ss) X(tr) X(ldt)
#define CPR_SREGS(X) X(cr0, kAny) X(cr2, kAny) X(cr3, kAny) X(cr4, kAny) X(cr8, 15) X(efer, kAny) X(apic_base, kAny)
#define CPR_CPUID(X) X(function, kAny) X(index, kAny) X(flags, 7) X(eax, kAny) X(ebx, kAny) X(ecx, kAny) X(edx, kAny)
#define CPR_EVENTS(X)                                      \
  X(exception_injected, exception.injected, 1)             \
  X(exception_nr, exception.nr, 31)                        \
  X(exception_has_error_code, exception.has_error_code, 1) \
  X(exception_pending, exception.pending, 1)               \
  X(exception_error_code, exception.error_code, kAny)      \
  X(exception_has_payload, exception_has_payload, 1)       \
  X(exception_payload, exception_payload, kAny)            \
  X(interrupt_injected, interrupt.injected, 1)             \
  X(interrupt_nr, interrupt.nr, 255)                       \
  X(interrupt_soft, interrupt.soft, 1)                     \
  X(interrupt_shadow, interrupt.shadow, 3)                 \
  X(nmi_injected, nmi.injected, 1)                         \
  X(nmi_pending, nmi.pending, 2)                           \
  X(nmi_masked, nmi.masked, 1)                             \
  X(sipi_vector, sipi_vector, 255)                         \
  X(flags, flags, 0x3f)                                    \
  X(smi_smm, smi.smm, 1)                                   \
  X(smi_pending, smi.pending, 1)                           \
  X(smi_smm_inside_nmi, smi.smm_inside_nmi, 1)             \
  X(smi_latched_init, smi.latched_init, 1)                 \
  X(triple_fault_pending, triple_fault.pending, 1)

#define CPR_SET(field, max) proto->set_##field(state.field);
#define CPR_SET3(field, member, max) proto->set_##field(state.member);
#define CPR_TAKE(field, max) reader.Take(#field, proto.field(), max, &state.field);
#define CPR_TAKE3(field, member, max) reader.Take(#field, proto.field(), max, &state.member);

void ToProto(const kvm_regs& state, v1::X86Regs* proto) { CPR_REGS(CPR_SET) }
void FromProto(const v1::X86Regs& proto, FieldReader&& reader, kvm_regs& state) { CPR_REGS(CPR_TAKE) }

void ToProto(const kvm_segment& state, v1::X86Segment* proto) { CPR_SEGMENT(CPR_SET) }
void FromProto(const v1::X86Segment& proto, FieldReader&& reader, kvm_segment& state) { CPR_SEGMENT(CPR_TAKE) }

void ToProto(const kvm_cpuid_entry2& state, v1::X86CpuidEntry* proto) { CPR_CPUID(CPR_SET) }
void FromProto(const v1::X86CpuidEntry& proto, FieldReader&& reader, kvm_cpuid_entry2& state) { CPR_CPUID(CPR_TAKE) }

void ToProto(const kvm_vcpu_events& state, v1::X86VcpuEvents* proto) { CPR_EVENTS(CPR_SET3) }
void FromProto(const v1::X86VcpuEvents& proto, FieldReader&& reader, kvm_vcpu_events& state) { CPR_EVENTS(CPR_TAKE3) }

void ToProto(const kvm_dtable& state, v1::X86DescriptorTable* proto) {
  proto->set_base(state.base);
  proto->set_limit(state.limit);
}

void FromProto(const v1::X86DescriptorTable& proto, FieldReader&& reader, kvm_dtable& state) {
  state.base = proto.base();
  reader.Take("limit", proto.limit(), 0xffff, &state.limit);
}

void ToProto(const kvm_sregs2& state, v1::X86Sregs* proto) {
  CPR_SREGS(CPR_SET)
#define CPR_SET_SEGMENT(name) ToProto(state.name, proto->mutable_##name());
  CPR_SREGS_SEGMENTS(CPR_SET_SEGMENT)
  ToProto(state.gdt, proto->mutable_gdt());
  ToProto(state.idt, proto->mutable_idt());
  if ((state.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0) {
    proto->mutable_pdptrs()->Add(std::begin(state.pdptrs), std::end(state.pdptrs));
  }
}

void FromProto(const v1::X86Sregs& proto, FieldReader&& reader, kvm_sregs2& state) {
  CPR_SREGS(CPR_TAKE)
#define CPR_TAKE_SEGMENT(name) \
  if (reader.Present(#name, proto.has_##name())) FromProto(proto.name(), FieldReader(reader, #name), state.name);
  CPR_SREGS_SEGMENTS(CPR_TAKE_SEGMENT)
  CPR_TAKE_SEGMENT(gdt)
  CPR_TAKE_SEGMENT(idt)
  if (proto.pdptrs().empty() || !reader.HasCount("pdptrs", proto.pdptrs_size(), 4)) return;
  state.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
  std::copy(proto.pdptrs().begin(), proto.pdptrs().end(), state.pdptrs);
}

void ToProto(const kvm_xcrs& state, v1::VcpuX86State* proto) {
  for (uint32_t i = 0; i < state.nr_xcrs; ++i) {
    v1::X86Xcr* xcr = proto->add_xcrs();
    xcr->set_xcr(state.xcrs[i].xcr);
    xcr->set_value(state.xcrs[i].value);
  }
}

void FromProto(const v1::VcpuX86State& proto, FieldReader& reader, kvm_xcrs& state) {
  if (!reader.HasAtMost("xcrs", proto.xcrs_size(), KVM_MAX_XCRS)) return;
  for (const v1::X86Xcr& xcr : proto.xcrs()) {
    state.xcrs[state.nr_xcrs++] = {.xcr = xcr.xcr(), .reserved = 0, .value = xcr.value()};
  }
}

void ToProto(const kvm_debugregs& state, v1::X86DebugRegs* proto) {
  proto->mutable_db()->Add(std::begin(state.db), std::end(state.db));
  proto->set_dr6(state.dr6);
  proto->set_dr7(state.dr7);
}

void FromProto(const v1::X86DebugRegs& proto, FieldReader&& reader, kvm_debugregs& state) {
  if (reader.HasCount("db", proto.db_size(), 4)) std::copy(proto.db().begin(), proto.db().end(), state.db);
  state.dr6 = proto.dr6();
  state.dr7 = proto.dr7();
}

// Each register is 4 bytes on a stride of 16; the rest is reserved.
void ToProto(const kvm_lapic_state& state, v1::VcpuX86State* proto) {
  proto->mutable_lapic_registers()->Reserve(kLapicRegisters);
  for (int i = 0; i < kLapicRegisters; ++i) {
    uint32_t value = 0;
    std::memcpy(&value, state.regs + 16 * i, sizeof(value));
    proto->add_lapic_registers(value);
  }
}

void FromProto(const v1::VcpuX86State& proto, FieldReader& reader, std::optional<kvm_lapic_state>& state) {
  if (proto.lapic_registers().empty()) return;
  if (!reader.HasCount("lapic_registers", proto.lapic_registers_size(), kLapicRegisters)) return;
  kvm_lapic_state& lapic = state.emplace();
  lapic = {};
  for (int i = 0; i < kLapicRegisters; ++i) {
    const uint32_t value = proto.lapic_registers(i);
    std::memcpy(lapic.regs + 16 * i, &value, sizeof(value));
  }
}

void MsrsFromProto(const v1::VcpuX86State& proto, FieldReader& reader, std::vector<kvm_msr_entry>& msrs) {
  if (!reader.HasAtMost("msrs", proto.msrs_size(), kMaxMsrs)) return;
  msrs.reserve(static_cast<size_t>(proto.msrs_size()));
  for (const v1::X86Msr& msr : proto.msrs()) {
    if (msr.index() == kMsrTsc) reader.Complain("msrs", "holds the TSC, which travels as tsc_offset");
    msrs.push_back({.index = msr.index(), .reserved = 0, .data = msr.value()});
  }
}

uint64_t ReadU64(const std::string& bytes, size_t offset_bytes) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + offset_bytes, sizeof(value));
  return value;
}

void XsaveFromProto(const v1::VcpuX86State& proto, FieldReader& reader, std::vector<uint8_t>& xsave) {
  const std::string& bytes = proto.xsave();
  if (bytes.size() < sizeof(kvm_xsave) || bytes.size() > kMaxXsaveBytes || bytes.size() != proto.xsave_size_bytes()) {
    reader.Complain("xsave", absl::StrCat("has ", bytes.size(), " bytes, xsave_size_bytes says ",
                                          proto.xsave_size_bytes(), ", and 4096 to ", kMaxXsaveBytes, " are possible"));
    return;
  }
  xsave.assign(bytes.begin(), bytes.end());
  if (XsaveFeatures(xsave) != proto.xsave_features()) {
    reader.Complain("xsave_features", absl::StrCat("0x", absl::Hex(proto.xsave_features()),
                                                   " is not the area's XSTATE_BV 0x", absl::Hex(XsaveFeatures(xsave))));
  }
  if (ReadU64(bytes, kXcompBvOffset) != 0) reader.Complain("xsave", "is in the compacted format");
}

struct MpStateName {
  v1::X86MpState wire;
  uint32_t kernel;
};
constexpr MpStateName kMpStates[] = {
    {v1::X86_MP_STATE_RUNNABLE, KVM_MP_STATE_RUNNABLE},
    {v1::X86_MP_STATE_UNINITIALIZED, KVM_MP_STATE_UNINITIALIZED},
    {v1::X86_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_INIT_RECEIVED},
    {v1::X86_MP_STATE_HALTED, KVM_MP_STATE_HALTED},
    {v1::X86_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_SIPI_RECEIVED},
    {v1::X86_MP_STATE_AP_RESET_HOLD, KVM_MP_STATE_AP_RESET_HOLD},
};

v1::X86MpState MpStateToProto(uint32_t kernel) {
  for (const MpStateName& name : kMpStates) {
    if (name.kernel == kernel) return name.wire;
  }
  return v1::X86_MP_STATE_UNSPECIFIED;  // a reader refuses it
}

void MpStateFromProto(const v1::VcpuX86State& proto, FieldReader& reader, kvm_mp_state& state) {
  for (const MpStateName& name : kMpStates) {
    if (name.wire != proto.mp_state()) continue;
    state.mp_state = name.kernel;
    return;
  }
  reader.Complain("mp_state", absl::StrCat(static_cast<int>(proto.mp_state()), " is no state"));
}

void MessagesFromProto(const v1::VcpuX86State& proto, FieldReader& reader, VcpuState& state) {
#define CPR_TAKE_MESSAGE(name) \
  if (reader.Present(#name, proto.has_##name())) FromProto(proto.name(), FieldReader(reader, #name), state.name);
  CPR_TAKE_MESSAGE(regs)
  CPR_TAKE_MESSAGE(sregs)
  CPR_TAKE_MESSAGE(debugregs)
  CPR_TAKE_MESSAGE(events)
}

}  // namespace

void ToProto(const VcpuConfig& config, v1::VcpuX86Config* proto) {
  proto->set_id(config.id);
  for (const kvm_cpuid_entry2& entry : config.cpuid) ToProto(entry, proto->add_cpuid());
  if (config.tsc_khz.has_value()) proto->set_tsc_khz(*config.tsc_khz);
}

absl::StatusOr<VcpuConfig> FromProto(const v1::VcpuX86Config& proto) {
  FieldReader reader("VcpuX86Config");
  VcpuConfig config;
  reader.Take("id", proto.id(), kMaxVcpuId, &config.id);
  if (reader.HasAtMost("cpuid", proto.cpuid_size(), kMaxCpuidEntries)) {
    config.cpuid.resize(static_cast<size_t>(proto.cpuid_size()));
    for (int i = 0; i < proto.cpuid_size(); ++i) {
      FromProto(proto.cpuid(i), FieldReader(reader, "cpuid", i), config.cpuid[static_cast<size_t>(i)]);
    }
  }
  if (proto.has_tsc_khz()) {
    if (proto.tsc_khz() < kMinTscKhz)
      reader.Complain("tsc_khz", absl::StrCat(proto.tsc_khz(), " is less than ", kMinTscKhz));
    reader.Take("tsc_khz", proto.tsc_khz(), kMaxTscKhz, &config.tsc_khz.emplace());
  }
  if (!reader.status().ok()) return reader.status();
  return config;
}

void ToProto(const VcpuState& state, v1::VcpuX86State* proto) {
  proto->set_id(state.id);
  proto->set_mp_state(MpStateToProto(state.mp_state.mp_state));
  ToProto(state.regs, proto->mutable_regs());
  ToProto(state.sregs, proto->mutable_sregs());
  proto->set_xsave(state.xsave.data(), state.xsave.size());
  proto->set_xsave_size_bytes(static_cast<uint32_t>(state.xsave.size()));
  proto->set_xsave_features(XsaveFeatures(state.xsave));
  ToProto(state.xcrs, proto);
  ToProto(state.debugregs, proto->mutable_debugregs());
  if (state.lapic.has_value()) ToProto(*state.lapic, proto);
  proto->mutable_msrs()->Reserve(static_cast<int>(state.msrs.size()));
  for (const kvm_msr_entry& entry : state.msrs) {
    v1::X86Msr* msr = proto->add_msrs();
    msr->set_index(entry.index);
    msr->set_value(entry.data);
  }
  ToProto(state.events, proto->mutable_events());
  if (!state.nested_state.empty()) internal::NestedToProto(state.nested_state, proto->mutable_nested_state());
  proto->set_tsc_offset(state.tsc_offset);
}

absl::StatusOr<VcpuState> FromProto(const v1::VcpuX86State& proto) {
  FieldReader reader("VcpuX86State");
  VcpuState state;
  reader.Take("id", proto.id(), kMaxVcpuId, &state.id);
  MpStateFromProto(proto, reader, state.mp_state);
  MessagesFromProto(proto, reader, state);
  XsaveFromProto(proto, reader, state.xsave);
  FromProto(proto, reader, state.xcrs);
  FromProto(proto, reader, state.lapic);
  MsrsFromProto(proto, reader, state.msrs);
  if (proto.has_nested_state()) {
    FieldReader nested(reader, "nested_state");
    state.nested_state = internal::NestedFromProto(proto.nested_state(), nested);
  }
  state.tsc_offset = proto.tsc_offset();
  if (!reader.status().ok()) return reader.status();
  return state;
}

}  // namespace cpr::kvm
