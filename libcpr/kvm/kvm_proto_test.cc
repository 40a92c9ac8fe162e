// Conversion of KVM state to and from its messages; no KVM needed.
#include <cstring>
#include <functional>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "gtest/gtest.h"
#include "libcpr/kvm/msrs.h"
#include "libcpr/kvm/vcpu_state_proto.h"
#include "libcpr/kvm/vm_state_proto.h"
#include "libcpr/testing/matchers.h"

namespace cpr::kvm {
namespace {

using ::cpr::testing::IsOk;
using ::cpr::testing::StatusIs;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::testing::HasSubstr;

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

kvm_segment SomeSegment(uint8_t seed) {
  return {.base = 0xfffff00000000000 + seed,
          .limit = 0xffffffff,
          .selector = static_cast<uint16_t>(0xff00 + seed),
          .type = 11,
          .present = 1,
          .dpl = 3,
          .db = 0,
          .s = 1,
          .l = 1,
          .g = 1,
          .avl = 0,
          .unusable = 0};
}

std::vector<uint8_t> SomeXsave() {
  std::vector<uint8_t> xsave(4096, 0x5a);
  std::memset(xsave.data() + 512, 0, 64);
  xsave[512] = 7;  // XSTATE_BV: x87, SSE, AVX
  return xsave;
}

std::vector<uint8_t> SomeNestedState() {
  kvm_nested_state header = {};
  header.flags = KVM_STATE_NESTED_GUEST_MODE;
  header.format = KVM_STATE_NESTED_FORMAT_VMX;
  header.size = sizeof(header) + 4096;
  header.hdr.vmx.vmxon_pa = 0x1000;
  header.hdr.vmx.vmcs12_pa = 0x2000;
  header.hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM_VMXON;
  header.hdr.vmx.flags = KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE;
  header.hdr.vmx.preemption_timer_deadline = 77;
  std::vector<uint8_t> state(header.size, 0xc5);
  std::memcpy(state.data(), &header, sizeof(header));
  return state;
}

// Every field another value, so that two that were swapped show.
VcpuState SomeVcpu() {
  VcpuState state = {.id = 3, .mp_state = {.mp_state = KVM_MP_STATE_HALTED}};
  state.regs = {.rax = 1,
                .rbx = 2,
                .rcx = 3,
                .rdx = 4,
                .rsi = 5,
                .rdi = 6,
                .rsp = 7,
                .rbp = 8,
                .r8 = 9,
                .r9 = 10,
                .r10 = 11,
                .r11 = 12,
                .r12 = 13,
                .r13 = 14,
                .r14 = 15,
                .r15 = 16,
                .rip = 0xffffffff81000000,
                .rflags = 0x246};
  uint8_t seed = 0;
  for (kvm_segment* segment : {&state.sregs.cs, &state.sregs.ds, &state.sregs.es, &state.sregs.fs, &state.sregs.gs,
                               &state.sregs.ss, &state.sregs.tr, &state.sregs.ldt}) {
    *segment = SomeSegment(seed++);
  }
  state.sregs.gdt = {.base = 0x100, .limit = 0x7f};
  state.sregs.idt = {.base = 0x200, .limit = 0xfff};
  state.sregs.cr0 = 0x80050033, state.sregs.cr2 = 2, state.sregs.cr3 = 3, state.sregs.cr4 = 4, state.sregs.cr8 = 15;
  state.sregs.efer = 0xd01, state.sregs.apic_base = 0xfee00900, state.sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
  for (uint64_t i = 0; i < 4; ++i) state.sregs.pdptrs[i] = 0x1001 * i;
  state.xsave = SomeXsave();
  state.xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = 7}}};
  state.debugregs = {.db = {10, 11, 12, 13}, .dr6 = 0xffff0ff1, .dr7 = 0x401};
  state.lapic = kvm_lapic_state{};
  for (size_t i = 0; i < 64; ++i) state.lapic->regs[16 * i] = static_cast<char>(i + 1);
  state.msrs = {{.index = 0xc0000082, .data = 0xffffffff81a00000}, {.index = kMsrTscDeadline, .data = 99}};
  state.events = {.exception = {.injected = 1, .nr = 14, .has_error_code = 1, .pending = 0, .error_code = 0xdeadbeef},
                  .interrupt = {.injected = 1, .nr = 0xec, .soft = 1, .shadow = 2},
                  .nmi = {.injected = 1, .pending = 2, .masked = 1},
                  .sipi_vector = 0x9a,
                  .flags = 0x3f,
                  .smi = {.smm = 1, .pending = 0, .smm_inside_nmi = 1, .latched_init = 1},
                  .triple_fault = {.pending = 1}};
  state.events.exception_has_payload = 1;
  state.events.exception_payload = 0x7fff00001234;
  state.nested_state = SomeNestedState();
  state.tsc_offset = ~uint64_t{0} - 5;
  return state;
}

v1::VcpuX86State SomeVcpuProto() {
  v1::VcpuX86State proto;
  ToProto(SomeVcpu(), &proto);
  return proto;
}

VmState SomeVm() {
  VmState state;
  state.clock = {.kvmclock_ns = 1,
                 .host_tsc = ~uint64_t{0},
                 .realtime_ns = 3,
                 .host_base_ns = 4,
                 .master_clock = true,
                 .tsc_khz = 2'500'000};
  IrqchipState& chips = state.irqchip.emplace();
  for (size_t i = 0; i < sizeof(kvm_pic_state); ++i) {
    reinterpret_cast<uint8_t*>(&chips.pic_master)[i] = static_cast<uint8_t>(i + 1);
    reinterpret_cast<uint8_t*>(&chips.pic_slave)[i] = static_cast<uint8_t>(255 - i);
  }
  chips.ioapic = {.base_address = 0xfec00000, .ioregsel = 0x10, .id = 2, .irr = 0x800001};
  for (uint64_t i = 0; i < KVM_IOAPIC_NUM_PINS; ++i) chips.ioapic.redirtbl[i].bits = i << 56 | 0x10000 | i;
  kvm_pit_state2& pit = state.pit.emplace();
  pit = {};
  pit.flags = KVM_PIT_FLAGS_HPET_LEGACY;
  for (kvm_pit_channel_state& channel : pit.channels) {
    channel = {.count = 65536,
               .latched_count = 0xfffe,
               .count_latched = 1,
               .status_latched = 1,
               .status = 0xff,
               .read_state = 3,
               .write_state = 4,
               .write_latch = 5,
               .rw_mode = 6,
               .mode = 7,
               .bcd = 1,
               .gate = 1,
               .count_load_time = -9};
  }
  GsiRoutes routes = GsiRoutes::OfFullIrqchip();
  routes.SetMsi(24, 0x1fee00000, 0x4031);
  state.routes = routes.entries();
  state.routes.push_back({.gsi = 30, .type = KVM_IRQ_ROUTING_HV_SINT, .u = {.hv_sint = {.vcpu = 1, .sint = 15}}});
  return state;
}

v1::VmX86State SomeVmProto() {
  v1::VmX86State proto;
  EXPECT_THAT(ToProto(SomeVm(), &proto), IsOk());
  return proto;
}

v1::VcpuX86Config SomeVcpuConfigProto() {
  v1::VcpuX86Config proto;
  ToProto({.id = 4095,
           .cpuid = {{.function = 0xd, .index = 1, .flags = 1, .eax = 2, .ebx = 3, .ecx = 4, .edx = 5}},
           .tsc_khz = 2'499'998},
          &proto);
  return proto;
}

v1::VmX86Config SomeVmConfigProto() {
  v1::VmX86Config proto;
  ToProto(
      {.irqchip = IrqchipKind::kFull, .pit = true, .pit_flags = 1, .x2apic_api_flags = 3, .exception_payload = true},
      &proto);
  return proto;
}

TEST(VcpuProtoTest, EveryItemComesBack) {
  const VcpuState before = SomeVcpu();
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState after, FromProto(SomeVcpuProto()));
  EXPECT_EQ(after.id, before.id);
  EXPECT_EQ(after.mp_state.mp_state, before.mp_state.mp_state);
  EXPECT_EQ(Bytes(after.regs), Bytes(before.regs));
  EXPECT_EQ(Bytes(after.sregs), Bytes(before.sregs));
  EXPECT_EQ(after.xsave, before.xsave);
  EXPECT_EQ(Bytes(after.xcrs), Bytes(before.xcrs));
  EXPECT_EQ(Bytes(after.debugregs), Bytes(before.debugregs));
  EXPECT_EQ(Bytes(*after.lapic), Bytes(*before.lapic));
  ASSERT_EQ(after.msrs.size(), before.msrs.size());
  for (size_t i = 0; i < before.msrs.size(); ++i) EXPECT_EQ(Bytes(after.msrs[i]), Bytes(before.msrs[i]));
  EXPECT_EQ(Bytes(after.events), Bytes(before.events));
  EXPECT_EQ(after.nested_state, before.nested_state);
  EXPECT_EQ(after.tsc_offset, before.tsc_offset);
}

TEST(VcpuProtoTest, ItemsThatTheHostDidNotOfferStayAbsent) {
  VcpuState state = SomeVcpu();
  state.lapic.reset();
  state.nested_state.clear();
  state.sregs.flags = 0;
  v1::VcpuX86State proto;
  ToProto(state, &proto);
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState after, FromProto(proto));
  EXPECT_FALSE(after.lapic.has_value());
  EXPECT_TRUE(after.nested_state.empty());
  EXPECT_EQ(after.sregs.flags, 0u);
}

TEST(VcpuProtoTest, SvmNestedStateComesBack) {
  kvm_nested_state header = {
      .flags = KVM_STATE_NESTED_GIF_SET, .format = KVM_STATE_NESTED_FORMAT_SVM, .size = sizeof(header)};
  header.hdr.svm.vmcb_pa = 0x5000;
  VcpuState state = SomeVcpu();
  state.nested_state.assign(sizeof(header), 0);
  std::memcpy(state.nested_state.data(), &header, sizeof(header));
  v1::VcpuX86State proto;
  ToProto(state, &proto);
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuState after, FromProto(proto));
  EXPECT_EQ(after.nested_state, state.nested_state);
}

TEST(VcpuProtoTest, ConfigComesBack) {
  CPR_ASSERT_OK_AND_ASSIGN(const VcpuConfig config, FromProto(SomeVcpuConfigProto()));
  EXPECT_EQ(config.id, 4095u);
  ASSERT_EQ(config.cpuid.size(), 1u);
  const kvm_cpuid_entry2 entry = {.function = 0xd, .index = 1, .flags = 1, .eax = 2, .ebx = 3, .ecx = 4, .edx = 5};
  EXPECT_EQ(Bytes(config.cpuid[0]), Bytes(entry));
  EXPECT_EQ(config.tsc_khz, 2'499'998u);
}

TEST(VmProtoTest, EveryItemComesBack) {
  const VmState before = SomeVm();
  CPR_ASSERT_OK_AND_ASSIGN(const VmState after, FromProto(SomeVmProto()));
  EXPECT_EQ(after.clock.kvmclock_ns, 1u);
  EXPECT_EQ(after.clock.host_tsc, ~uint64_t{0});
  EXPECT_EQ(after.clock.realtime_ns, 3u);
  EXPECT_EQ(after.clock.host_base_ns, 4u);
  EXPECT_TRUE(after.clock.master_clock);
  EXPECT_EQ(after.clock.tsc_khz, 2'500'000u);
  EXPECT_EQ(Bytes(*after.irqchip), Bytes(*before.irqchip));
  EXPECT_EQ(Bytes(*after.pit), Bytes(*before.pit));
  ASSERT_EQ(after.routes.size(), before.routes.size());
  for (size_t i = 0; i < before.routes.size(); ++i) EXPECT_EQ(Bytes(after.routes[i]), Bytes(before.routes[i])) << i;
}

TEST(VmProtoTest, ConfigComesBack) {
  CPR_ASSERT_OK_AND_ASSIGN(const VmConfig config, FromProto(SomeVmConfigProto()));
  EXPECT_EQ(config.irqchip, IrqchipKind::kFull);
  EXPECT_TRUE(config.pit);
  EXPECT_EQ(config.pit_flags, 1u);
  EXPECT_EQ(config.tss_gpa, VmConfig().tss_gpa);
  EXPECT_EQ(config.identity_map_gpa, VmConfig().identity_map_gpa);
  EXPECT_EQ(config.x2apic_api_flags, 3u);
  EXPECT_TRUE(config.exception_payload);
  EXPECT_FALSE(config.triple_fault_event);
}

TEST(VmProtoTest, RouteWithoutWireFormIsNotDropped) {
  VmState state;
  state.routes.push_back({.gsi = 7, .type = KVM_IRQ_ROUTING_XEN_EVTCHN});
  v1::VmX86State proto;
  EXPECT_THAT(ToProto(state, &proto), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("GSI 7")));
}

// Fields whose every 32-bit value is one that a kernel may have handed out.
bool TakesAnyValue(const FieldDescriptor& field) {
  static const auto* const names = new std::set<std::string>{"cpr.v1.X86NestedState.vmx_flags", "cpr.v1.X86Xcr.xcr"};
  return names->count(field.full_name()) != 0;
}

// Calls `check` once for each uint32 and enum field of `message` and its submessages, the field's value being the
// largest there is, and all else as it was.
void ForEachNarrowField(Message& message, const std::function<void(const FieldDescriptor&)>& check) {
  const auto* reflection = message.GetReflection();

  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (field->is_repeated() && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      for (int k = 0; k < reflection->FieldSize(message, field); ++k) {
        ForEachNarrowField(*reflection->MutableRepeatedMessage(&message, field, k), check);
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (reflection->HasField(message, field)) ForEachNarrowField(*reflection->MutableMessage(&message, field), check);
    } else if (field->type() == FieldDescriptor::TYPE_UINT32 && !field->is_repeated()) {
      const uint32_t before = reflection->GetUInt32(message, field);
      reflection->SetUInt32(&message, field, 0xffffffff);
      check(*field);
      reflection->SetUInt32(&message, field, before);
    } else if (field->type() == FieldDescriptor::TYPE_ENUM) {
      const int before = reflection->GetEnumValue(message, field);
      for (int bad : {0, 99}) {
        reflection->SetEnumValue(&message, field, bad);
        check(*field);
      }
      reflection->SetEnumValue(&message, field, before);
    }
  }
}

template <typename Proto>
void ExpectEveryNarrowFieldChecked(Proto proto) {
  ASSERT_THAT(FromProto(proto), IsOk());
  int checked = 0;
  ForEachNarrowField(proto, [&](const FieldDescriptor& field) {
    if (TakesAnyValue(field)) return;
    ++checked;
    // xsave's size is told of as xsave.
    const std::string name = field.name() == "xsave_size_bytes" ? "xsave" : field.name();
    EXPECT_THAT(FromProto(proto), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name))) << field.full_name();
  });
  EXPECT_GT(checked, 0);
  EXPECT_THAT(FromProto(proto), IsOk()) << "the test did not put a field back";
}

TEST(HostileProtoTest, EveryNarrowFieldIsChecked) {
  ExpectEveryNarrowFieldChecked(SomeVcpuProto());
  ExpectEveryNarrowFieldChecked(SomeVcpuConfigProto());
  ExpectEveryNarrowFieldChecked(SomeVmProto());
  ExpectEveryNarrowFieldChecked(SomeVmConfigProto());
}

template <typename Proto>
struct BadCase {
  const char* message;
  std::function<void(Proto&)> spoil;
};

template <typename Proto>
void ExpectRefused(const Proto& good, const std::vector<BadCase<Proto>>& cases) {
  for (const auto& bad : cases) {
    Proto proto = good;
    bad.spoil(proto);
    EXPECT_THAT(FromProto(proto), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(bad.message)));
  }
}

TEST(HostileProtoTest, VcpuStateSaysWhatIsWrong) {
  using P = v1::VcpuX86State;
  ExpectRefused<P>(
      SomeVcpuProto(),
      {
          {"VcpuX86State.regs: is missing", [](P& p) { p.clear_regs(); }},
          {"VcpuX86State.sregs: is missing", [](P& p) { p.clear_sregs(); }},
          {"VcpuX86State.sregs.tr: is missing", [](P& p) { p.mutable_sregs()->clear_tr(); }},
          {"VcpuX86State.sregs.cs.type: 16 is more than 15",
           [](P& p) { p.mutable_sregs()->mutable_cs()->set_type(16); }},
          {"VcpuX86State.sregs.cr8: 16 is more than 15", [](P& p) { p.mutable_sregs()->set_cr8(16); }},
          {"sregs.pdptrs: has 5 elements, not 4", [](P& p) { p.mutable_sregs()->add_pdptrs(0); }},
          {"debugregs: is missing", [](P& p) { p.clear_debugregs(); }},
          {"debugregs.db: has 5 elements, not 4", [](P& p) { p.mutable_debugregs()->add_db(0); }},
          {"events: is missing", [](P& p) { p.clear_events(); }},
          {"lapic_registers: has 65 elements, not 64", [](P& p) { p.add_lapic_registers(0); }},
          {"xcrs: has 17 elements, more than 16",
           [](P& p) {
             while (p.xcrs_size() < 17) p.add_xcrs();
           }},
          {"msrs: has 4097 elements",
           [](P& p) {
             while (p.msrs_size() < 4097) p.add_msrs();
           }},
          {"msrs: holds the TSC", [](P& p) { p.add_msrs()->set_index(kMsrTsc); }},
          {"xsave: has 4095 bytes", [](P& p) { p.mutable_xsave()->pop_back(); }},
          {"xsave: has 0 bytes", [](P& p) { p.clear_xsave(), p.clear_xsave_size_bytes(); }},
          {"xsave: has 65537 bytes", [](P& p) { p.mutable_xsave()->resize(65537), p.set_xsave_size_bytes(65537); }},
          {"xsave_features: 0x3 is not the area's XSTATE_BV 0x7", [](P& p) { p.set_xsave_features(3); }},
          {"xsave: is in the compacted format", [](P& p) { (*p.mutable_xsave())[527] = '\x80'; }},
          {"nested_state.data: has 4097 bytes", [](P& p) { p.mutable_nested_state()->mutable_data()->push_back(0); }},
          {"nested_state.data: has 12288 bytes", [](P& p) { p.mutable_nested_state()->mutable_data()->resize(12288); }},
      });
}

TEST(HostileProtoTest, ConfigsSayWhatIsWrong) {
  using P = v1::VcpuX86Config;
  ExpectRefused<P>(SomeVcpuConfigProto(),
                   {{"VcpuX86Config.cpuid: has 257 elements",
                     [](P& p) {
                       while (p.cpuid_size() < 257) p.add_cpuid();
                     }},
                    {"VcpuX86Config.cpuid[0].flags", [](P& p) { p.mutable_cpuid(0)->set_flags(8); }},
                    {"VcpuX86Config.tsc_khz: 0 is less than 1000", [](P& p) { p.set_tsc_khz(0); }}});
  using V = v1::VmX86Config;
  ExpectRefused<V>(SomeVmConfigProto(),
                   {{"pit: needs IRQCHIP_KIND_FULL", [](V& p) { p.set_irqchip(v1::IRQCHIP_KIND_SPLIT); }},
                    {"tss_gpa: is not page-aligned", [](V& p) { p.set_tss_gpa(1); }},
                    {"tss_gpa: 4294967296 is more", [](V& p) { p.set_tss_gpa(uint64_t{1} << 32); }},
                    {"identity_map_gpa: is not page-aligned", [](V& p) { p.set_identity_map_gpa(0xfff); }}});
}

TEST(HostileProtoTest, VmStateSaysWhatIsWrong) {
  using P = v1::VmX86State;
  ExpectRefused<P>(SomeVmProto(),
                   {
                       {"VmX86State.clock: is missing", [](P& p) { p.clear_clock(); }},
                       {"clock.kvmclock_ns", [](P& p) { p.mutable_clock()->set_kvmclock_ns(~uint64_t{0}); }},
                       {"irqchip.pic_slave: is missing", [](P& p) { p.mutable_irqchip()->clear_pic_slave(); }},
                       {"irqchip.ioapic.redirtbl: has 25 elements",
                        [](P& p) { p.mutable_irqchip()->mutable_ioapic()->add_redirtbl(0); }},
                       {"pit.channels: has 4 elements, not 3", [](P& p) { p.mutable_pit()->add_channels(); }},
                       {"VmX86State.pit.channels[1].count: 65537 is more than 65536",
                        [](P& p) { p.mutable_pit()->mutable_channels(1)->set_count(65537); }},
                       {"routes: has 4097 elements",
                        [](P& p) {
                          while (p.routes_size() < 4097) p.add_routes();
                        }},
                       {"routes[0].target: is missing", [](P& p) { p.mutable_routes(0)->clear_target(); }},
                       {"routes[0].irqchip.pin: 24 is more than 23",
                        [](P& p) { p.mutable_routes(0)->mutable_irqchip()->set_pin(24); }},
                   });
}

// No byte may bring down the reader, whatever it does to the meaning.
TEST(HostileProtoTest, AlteredBytesNeverCrash) {
  const std::string good = SomeVcpuProto().SerializeAsString();
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0xff);
    v1::VcpuX86State proto;
    if (proto.ParseFromString(bad)) FromProto(proto).status().IgnoreError();
  }
}

}  // namespace
}  // namespace cpr::kvm
