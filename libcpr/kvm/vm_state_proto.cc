#include "libcpr/kvm/vm_state_proto.h"

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/kvm/field_reader.h"
#include "libcpr/kvm/uapi.h"

namespace cpr::kvm {
namespace {

using internal::FieldReader;

constexpr uint64_t kAny = FieldReader::kAny;
constexpr int kMaxRoutes = 4096;  // KVM_MAX_IRQ_ROUTES
constexpr uint32_t kMaxGsi = kMaxRoutes - 1;
constexpr uint32_t kMaxVcpuId = 4095;
constexpr uint32_t kMaxTscKhz = 100'000'000;
constexpr uint64_t kMaxGpaBelow4G = 0xffffffff;
constexpr uint64_t kPageMask = 0xfff;
constexpr int kPitChannels = 3;
// Nanoseconds of some 146 years: the kernel computes with signed 64 bits and adds to what it gets.
constexpr uint64_t kMaxTimeNs = uint64_t{1} << 62;

// Each list names the fields of one structure once, with the largest value, for both directions.
#define CPR_PIC(X)                                                                                               \
  X(last_irr, 255)                                                                                               \
  X(irr, 255) X(imr, 255) X(isr, 255) X(priority_add, 255) X(irq_base, 255) X(read_reg_select, 255) X(poll, 255) \
      X(special_mask, 255) X(init_state, 255) X(auto_eoi, 255) X(rotate_on_auto_eoi, 255)                        \
          X(special_fully_nested_mode, 255) X(init4, 255) X(elcr, 255) X(elcr_mask, 255)
#define CPR_IOAPIC(X) X(base_address, kMaxGpaBelow4G) X(ioregsel, 255) X(id, 0xf) X(irr, 0xffffff)
#define CPR_PIT_CHANNEL(X)                                                                                \
  X(count, 65536)                                                                                         \
  X(latched_count, 0xffff) X(count_latched, 255) X(status_latched, 255) X(status, 255) X(read_state, 255) \
      X(write_state, 255) X(write_latch, 255) X(rw_mode, 255) X(mode, 255) X(bcd, 255) X(gate, 255)
#define CPR_CLOCK(X)         \
  X(kvmclock_ns, kMaxTimeNs) \
  X(host_tsc, kAny) X(realtime_ns, kMaxTimeNs) X(host_base_ns, kMaxTimeNs) X(master_clock, 1) X(tsc_khz, kMaxTscKhz)
#define CPR_CONFIG(X)                                                                           \
  X(split_irqchip_routes, kMaxRoutes)                                                           \
  X(pit, 1) X(pit_flags, KVM_PIT_SPEAKER_DUMMY) X(tss_gpa, kMaxGpaBelow4G - 3 * 4096)           \
      X(identity_map_gpa, kMaxGpaBelow4G) X(x2apic_api_flags, kAny) X(boot_vcpu_id, kMaxVcpuId) \
          X(exception_payload, 1) X(triple_fault_event, 1)

#define CPR_SET(field, max) proto->set_##field(state.field);
#define CPR_TAKE(field, max) reader.Take(#field, proto.field(), max, &state.field);

void ToProto(const kvm_pic_state& state, v1::X86Pic* proto) { CPR_PIC(CPR_SET) }
void FromProto(const v1::X86Pic& proto, FieldReader&& reader, kvm_pic_state& state) { CPR_PIC(CPR_TAKE) }

void ToProto(const kvm_ioapic_state& state, v1::X86Ioapic* proto) {
  CPR_IOAPIC(CPR_SET)
  for (const auto& entry : state.redirtbl) proto->add_redirtbl(entry.bits);
}

void FromProto(const v1::X86Ioapic& proto, FieldReader&& reader, kvm_ioapic_state& state) {
  CPR_IOAPIC(CPR_TAKE)
  if (!reader.HasCount("redirtbl", proto.redirtbl_size(), KVM_IOAPIC_NUM_PINS)) return;
  for (int i = 0; i < KVM_IOAPIC_NUM_PINS; ++i) state.redirtbl[i].bits = proto.redirtbl(i);
}

void ToProto(const IrqchipState& state, v1::X86Irqchip* proto) {
  ToProto(state.pic_master, proto->mutable_pic_master());
  ToProto(state.pic_slave, proto->mutable_pic_slave());
  ToProto(state.ioapic, proto->mutable_ioapic());
}

void FromProto(const v1::X86Irqchip& proto, FieldReader&& reader, IrqchipState& state) {
#define CPR_TAKE_CHIP(name) \
  if (reader.Present(#name, proto.has_##name())) FromProto(proto.name(), FieldReader(reader, #name), state.name);
  CPR_TAKE_CHIP(pic_master)
  CPR_TAKE_CHIP(pic_slave)
  CPR_TAKE_CHIP(ioapic)
}

void ToProto(const kvm_pit_channel_state& state, v1::X86PitChannel* proto) {
  CPR_PIT_CHANNEL(CPR_SET)
  proto->set_count_load_time_ns(state.count_load_time);
}

void FromProto(const v1::X86PitChannel& proto, FieldReader&& reader, kvm_pit_channel_state& state) {
  CPR_PIT_CHANNEL(CPR_TAKE)
  state.count_load_time = proto.count_load_time_ns();
}

void ToProto(const kvm_pit_state2& state, v1::X86Pit* proto) {
  for (const kvm_pit_channel_state& channel : state.channels) ToProto(channel, proto->add_channels());
  proto->set_flags(state.flags);
}

void FromProto(const v1::X86Pit& proto, FieldReader&& reader, kvm_pit_state2& state) {
  reader.Take("flags", proto.flags(), KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON, &state.flags);
  if (!reader.HasCount("channels", proto.channels_size(), kPitChannels)) return;
  for (int i = 0; i < kPitChannels; ++i) {
    FromProto(proto.channels(i), FieldReader(reader, "channels", i), state.channels[i]);
  }
}

void ToProto(const ClockState& state, v1::KvmClock* proto) { CPR_CLOCK(CPR_SET) }
void FromProto(const v1::KvmClock& proto, FieldReader&& reader, ClockState& state){CPR_CLOCK(CPR_TAKE)}

absl::Status ToProto(const kvm_irq_routing_entry& entry, v1::GsiRoute* proto) {
  proto->set_gsi(entry.gsi);
  switch (entry.type) {
    case KVM_IRQ_ROUTING_IRQCHIP:
      proto->mutable_irqchip()->set_irqchip(entry.u.irqchip.irqchip);
      proto->mutable_irqchip()->set_pin(entry.u.irqchip.pin);
      return absl::OkStatus();
    case KVM_IRQ_ROUTING_MSI:
      proto->mutable_msi()->set_address(uint64_t{entry.u.msi.address_hi} << 32 | entry.u.msi.address_lo);
      proto->mutable_msi()->set_data(entry.u.msi.data);
      return absl::OkStatus();
    case KVM_IRQ_ROUTING_HV_SINT:
      proto->mutable_hv_sint()->set_vcpu(entry.u.hv_sint.vcpu);
      proto->mutable_hv_sint()->set_sint(entry.u.hv_sint.sint);
      return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("GSI ", entry.gsi, " is routed to kind ", entry.type));
}

void IrqchipRouteFromProto(const v1::GsiRoute::Irqchip& proto, FieldReader&& reader, kvm_irq_routing_irqchip& state) {
  reader.Take("irqchip", proto.irqchip(), KVM_IRQCHIP_IOAPIC, &state.irqchip);
  reader.Take("pin", proto.pin(), proto.irqchip() == KVM_IRQCHIP_IOAPIC ? KVM_IOAPIC_NUM_PINS - 1 : 7, &state.pin);
}

void FromProto(const v1::GsiRoute& proto, FieldReader&& reader, kvm_irq_routing_entry& entry) {
  reader.Take("gsi", proto.gsi(), kMaxGsi, &entry.gsi);
  switch (proto.target_case()) {
    case v1::GsiRoute::kIrqchip:
      entry.type = KVM_IRQ_ROUTING_IRQCHIP;
      return IrqchipRouteFromProto(proto.irqchip(), FieldReader(reader, "irqchip"), entry.u.irqchip);
    case v1::GsiRoute::kMsi:
      entry.type = KVM_IRQ_ROUTING_MSI;
      entry.u.msi.address_lo = static_cast<uint32_t>(proto.msi().address());
      entry.u.msi.address_hi = static_cast<uint32_t>(proto.msi().address() >> 32);
      entry.u.msi.data = proto.msi().data();
      return;
    case v1::GsiRoute::kHvSint:
      entry.type = KVM_IRQ_ROUTING_HV_SINT;
      reader.Take("hv_sint.vcpu", proto.hv_sint().vcpu(), kMaxVcpuId, &entry.u.hv_sint.vcpu);
      reader.Take("hv_sint.sint", proto.hv_sint().sint(), 15, &entry.u.hv_sint.sint);
      return;
    case v1::GsiRoute::TARGET_NOT_SET:
      return reader.Complain("target", "is missing");
  }
}

void RoutesFromProto(const v1::VmX86State& proto, FieldReader& reader, std::vector<kvm_irq_routing_entry>& routes) {
  if (!reader.HasAtMost("routes", proto.routes_size(), kMaxRoutes)) return;
  routes.resize(static_cast<size_t>(proto.routes_size()));
  for (int i = 0; i < proto.routes_size(); ++i) {
    FromProto(proto.routes(i), FieldReader(reader, "routes", i), routes[static_cast<size_t>(i)]);
  }
}

v1::IrqchipKind KindToProto(IrqchipKind kind) {
  switch (kind) {
    case IrqchipKind::kNone:
      return v1::IRQCHIP_KIND_NONE;
    case IrqchipKind::kSplit:
      return v1::IRQCHIP_KIND_SPLIT;
    case IrqchipKind::kFull:
      return v1::IRQCHIP_KIND_FULL;
  }
  return v1::IRQCHIP_KIND_UNSPECIFIED;
}

void KindFromProto(v1::IrqchipKind proto, FieldReader& reader, IrqchipKind& kind) {
  for (IrqchipKind candidate : {IrqchipKind::kNone, IrqchipKind::kSplit, IrqchipKind::kFull}) {
    if (KindToProto(candidate) != proto) continue;
    kind = candidate;
    return;
  }
  reader.Complain("irqchip", absl::StrCat(static_cast<int>(proto), " is no kind"));
}

}  // namespace

void ToProto(const VmConfig& state, v1::VmX86Config* proto) {
  proto->set_irqchip(KindToProto(state.irqchip));
  CPR_CONFIG(CPR_SET)
}

absl::StatusOr<VmConfig> FromProto(const v1::VmX86Config& proto) {
  FieldReader reader("VmX86Config");
  VmConfig state;
  KindFromProto(proto.irqchip(), reader, state.irqchip);
  CPR_CONFIG(CPR_TAKE)
  if (state.pit && state.irqchip != IrqchipKind::kFull) reader.Complain("pit", "needs IRQCHIP_KIND_FULL");
  if ((state.tss_gpa & kPageMask) != 0) reader.Complain("tss_gpa", "is not page-aligned");
  if ((state.identity_map_gpa & kPageMask) != 0) reader.Complain("identity_map_gpa", "is not page-aligned");
  if (!reader.status().ok()) return reader.status();
  return state;
}

absl::Status ToProto(const VmState& state, v1::VmX86State* proto) {
  ToProto(state.clock, proto->mutable_clock());
  if (state.irqchip.has_value()) ToProto(*state.irqchip, proto->mutable_irqchip());
  if (state.pit.has_value()) ToProto(*state.pit, proto->mutable_pit());
  for (const kvm_irq_routing_entry& entry : state.routes) CPR_RETURN_IF_ERROR(ToProto(entry, proto->add_routes()));
  return absl::OkStatus();
}

absl::StatusOr<VmState> FromProto(const v1::VmX86State& proto) {
  FieldReader reader("VmX86State");
  VmState state;
  if (reader.Present("clock", proto.has_clock())) FromProto(proto.clock(), FieldReader(reader, "clock"), state.clock);
  if (proto.has_irqchip()) FromProto(proto.irqchip(), FieldReader(reader, "irqchip"), state.irqchip.emplace());
  if (proto.has_pit()) FromProto(proto.pit(), FieldReader(reader, "pit"), state.pit.emplace());
  RoutesFromProto(proto, reader, state.routes);
  if (!reader.status().ok()) return reader.status();
  return state;
}

}  // namespace cpr::kvm
