// Every device's state, through the suite that all of them must pass.

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/section_conformance.h"
#include "vmm/devices/acpi_pm_state.h"
#include "vmm/devices/cmos_state.h"
#include "vmm/devices/ioapic_state.h"
#include "vmm/devices/reset_control_state.h"
#include "vmm/devices/serial_state.h"

namespace cpr::testing {
namespace {

struct SerialTraits {
  using Object = Serial;
  using Proto = v1::SerialState;

  static std::unique_ptr<Serial> Create() {
    return std::make_unique<Serial>(Serial::Wiring{[](bool) {}, [](absl::string_view) {}, {}});
  }
  static void Modify(Serial& serial) {
    serial.Write(3, 0x9b);  // divisor latch
    serial.Write(0, 0x01);
    serial.Write(1, 0x02);
    serial.Write(3, 0x1b);
    serial.Write(1, 0x0f);
    serial.Write(2, 0xc1);
    serial.Write(0, 'x');
    serial.Write(4, 0x0b);
    serial.Write(7, 0x5a);
    serial.SetModemLines(0x40);
    serial.Receive("typed \xff\x01");
    serial.ReceiveBreak();
  }
  static Proto Save(const Serial& serial) { return SerialStateToProto(serial.Save()); }
  static absl::Status Restore(Serial& serial, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const SerialState state, SerialStateFromProto(proto));
    return serial.Restore(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"divisor latch", [](Proto& p) { p.set_divisor_latch(0x10000); }},
            {"interrupt enable", [](Proto& p) { p.set_interrupt_enable(0x10); }},
            {"fifo control with clear bits", [](Proto& p) { p.set_fifo_control(0x07); }},
            {"trigger level without fifo", [](Proto& p) { p.set_fifo_control(0x40); }},
            {"line control", [](Proto& p) { p.set_line_control(0x100); }},
            {"modem control", [](Proto& p) { p.set_modem_control(0x20); }},
            {"line errors", [](Proto& p) { p.set_line_errors(0x01); }},
            {"modem lines", [](Proto& p) { p.set_modem_lines(0x01); }},
            {"modem deltas", [](Proto& p) { p.set_modem_deltas(0x10); }},
            {"scratch", [](Proto& p) { p.set_scratch(0x100); }},
            {"17 bytes received", [](Proto& p) { p.set_receive_fifo("0123456789abcdefg"); }},
            {"2 bytes received without fifo", [](Proto& p) {
               p.set_fifo_control(0);
               p.set_receive_fifo("01");
             }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Serial, SectionConformance, SerialTraits);

struct IoapicTraits {
  using Object = Ioapic;
  using Proto = v1::IoapicState;

  static std::unique_ptr<Ioapic> Create() {
    return std::make_unique<Ioapic>(Ioapic::Wiring{[](const MsiMessage&) {}, [] {}, {}});
  }
  static void Modify(Ioapic& ioapic) {
    const auto write = [&](uint8_t index, uint32_t value) {
      ioapic.WriteMmio(0x00, 4, index);
      ioapic.WriteMmio(0x10, 4, value);
    };
    write(0, 0x05000000);
    for (uint8_t pin = 0; pin < kIoapicPins; ++pin) {
      write(static_cast<uint8_t>(0x11 + 2 * pin), uint32_t{pin} << 24);
      write(static_cast<uint8_t>(0x10 + 2 * pin), 0x8030u + pin);
      ioapic.SetLine(pin, pin % 3 != 0);
    }
  }
  static Proto Save(const Ioapic& ioapic) { return IoapicStateToProto(ioapic.Save()); }
  static absl::Status Restore(Ioapic& ioapic, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const IoapicState state, IoapicStateFromProto(proto));
    return ioapic.Restore(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"id", [](Proto& p) { p.set_id(16); }},
            {"selected register", [](Proto& p) { p.set_selected_register(0x100); }},
            {"a pin too few", [](Proto& p) { p.mutable_redirection_entries()->RemoveLast(); }},
            {"a pin too many", [](Proto& p) { p.add_redirection_entries(0); }},
            {"delivery status", [](Proto& p) { p.set_redirection_entries(0, 1 << 12); }},
            {"reserved bits", [](Proto& p) { p.set_redirection_entries(23, uint64_t{1} << 32); }},
            {"remote IRR of an edge", [](Proto& p) { p.set_redirection_entries(5, 1 << 14); }},
            {"line of pin 24", [](Proto& p) { p.set_lines(1 << 24); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Ioapic, SectionConformance, IoapicTraits);

struct CmosTraits {
  using Object = Cmos;
  using Proto = v1::CmosState;

  static std::unique_ptr<Cmos> Create() {
    return std::make_unique<Cmos>(Cmos::Parameters{uint64_t{1} << 30, 0, [] { return absl::FromUnixSeconds(1e9); }});
  }
  static void Modify(Cmos& cmos) {
    for (const uint8_t index : {0x08, 0x10, 0x7f}) {
      cmos.Write(0, index);
      cmos.Write(1, 0x05);
    }
  }
  static Proto Save(const Cmos& cmos) { return CmosStateToProto(cmos.Save()); }
  static absl::Status Restore(Cmos& cmos, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const CmosState state, CmosStateFromProto(proto));
    return cmos.Restore(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"selected register", [](Proto& p) { p.set_selected_register(0x80); }},
            {"a byte too few", [](Proto& p) { p.mutable_contents()->pop_back(); }},
            {"a byte too many", [](Proto& p) { p.mutable_contents()->push_back(0); }},
            {"an update in progress", [](Proto& p) { (*p.mutable_contents())[0x0a] = '\xa6'; }},
            {"an interrupt", [](Proto& p) { (*p.mutable_contents())[0x0c] = '\x80'; }},
            {"an empty battery", [](Proto& p) { (*p.mutable_contents())[0x0d] = 0; }},
            {"a far future", [](Proto& p) { p.set_clock_offset_seconds(INT64_MAX); }},
            {"a far past", [](Proto& p) { p.set_clock_offset_seconds(INT64_MIN); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Cmos, SectionConformance, CmosTraits);

struct AcpiPmTraits {
  using Object = AcpiPm;
  using Proto = v1::AcpiPmState;

  static std::unique_ptr<AcpiPm> Create() {
    return std::make_unique<AcpiPm>(AcpiPm::Wiring{[](bool) {}, [] {}, [] {}, [] { return int64_t{0}; },
                                                   [] { return absl::FromUnixSeconds(1e9); }});
  }
  static void Modify(AcpiPm& pm) {
    pm.Write(2, 2, 0x120);
    pm.Write(4, 2, 0x1402);
    pm.PressPowerButton();
    pm.SetWakeStatus();
    AcpiPmState later = pm.Save();
    later.timer_ns = 123456789;
    later.saved_at_utc_ns += 1'000'000'000;  // the host's clock was set back since
    pm.Restore(later).IgnoreError();
  }
  static Proto Save(const AcpiPm& pm) { return AcpiPmStateToProto(pm.Save()); }
  static absl::Status Restore(AcpiPm& pm, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const AcpiPmState state, AcpiPmStateFromProto(proto));
    return pm.Restore(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"status", [](Proto& p) { p.set_status(0x4000); }},
            {"enable", [](Proto& p) { p.set_enable(0x8000); }},
            {"sleep enable", [](Proto& p) { p.set_control(0x2000); }},
            {"more than 16 bits", [](Proto& p) { p.set_control(0x10002); }},
            {"a time before 1970", [](Proto& p) { p.set_saved_at_utc_ns(-1); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(AcpiPm, SectionConformance, AcpiPmTraits);

struct ResetControlTraits {
  using Object = ResetControl;
  using Proto = v1::ResetControlState;

  static std::unique_ptr<ResetControl> Create() {
    return std::make_unique<ResetControl>([] {});
  }
  static void Modify(ResetControl& device) { device.WriteResetControl(0x02); }
  static Proto Save(const ResetControl& device) { return ResetControlStateToProto(device.Save()); }
  static absl::Status Restore(ResetControl& device, const Proto& proto) {
    CPR_ASSIGN_OR_RETURN(const ResetControlState state, ResetControlStateFromProto(proto));
    return device.Restore(state);
  }
  static std::vector<Corruption<Proto>> Corruptions() {
    return {{"a reset under way", [](Proto& p) { p.set_reset_control(0x06); }},
            {"more than a byte", [](Proto& p) { p.set_reset_control(0x102); }}};
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(ResetControl, SectionConformance, ResetControlTraits);

}  // namespace
}  // namespace cpr::testing
