/*
 * A vector of QEMU's e1000e, whose MSI-X software can raise, as an interrupt that can be withheld.
 * Source: Intel 82574 datasheet, 7.4 (interrupts) and 10.2.4 (their registers).
 */
#include "tests/guest/guest.h"

#define E1000E_IDS 0x10d38086u
#define CTRL 0x00000
#define CTRL_RESET (1u << 26)
#define CTRL_EXT 0x00018
#define CTRL_EXT_IAME (1u << 27) /* what EIAC clears stays enabled */
#define ICR 0x000c0
#define ICS 0x000c8
#define IMS 0x000d0
#define IMC 0x000d8
#define EIAC 0x000dc
#define IVAR 0x000e4
#define CAUSE_RXQ0 (1u << 20)
#define RESET_LIMIT_US 2000000

#define ENTRY 1u /* with others around it that stay masked */
#define IVAR_RXQ0 (8u | ENTRY)

static struct msix msix;
static uint64_t gpa;

static uint32_t Load(unsigned offset) { return TrapCall(TRAP_LOAD32, gpa + offset, 0); }
static void Store(unsigned offset, uint32_t value) { TrapCall(TRAP_STORE32, gpa + offset, value); }

static bool ResetCard(struct percpu* p) {
  const uint64_t begun = p->run_tsc;
  Store(CTRL, Load(CTRL) | CTRL_RESET);
  while ((Load(CTRL) & CTRL_RESET) != 0) {
    Beat(p);
    if (p->run_tsc - begun > TscOfUs(RESET_LIMIT_US)) return false;
  }
  return true;
}

static bool Refuse(const char* why) {
  Fail(CPR_GUEST_FAIL_DEVICE, "withhold=msix: %s", why);
  return false;
}

/* One message for each time that software sets the cause, and nothing to acknowledge at the device. */
static bool Init(struct percpu* p) {
  const unsigned function = FindPci(p, E1000E_IDS);
  if (function == PCI_NONE) return Refuse("no device 8086:10d3 on PCI bus 0");
  EnablePciMemory(function);
  gpa = PciBar(function, 0);
  if (!ResetCard(p)) return Refuse("the device does not come out of its reset");
  if (!UsePciMsix(function, &msix)) return Refuse("the device has no MSI-X");
  Store(IMC, ~0u);
  Store(ICR, ~0u);
  Store(CTRL_EXT, Load(CTRL_EXT) | CTRL_EXT_IAME);
  Store(EIAC, CAUSE_RXQ0);
  Store(IVAR, IVAR_RXQ0);
  Store(IMS, CAUSE_RXQ0);
  EnablePciDma(function);
  RouteMsix(&msix, ENTRY, VECTOR_WITHHELD);
  MaskMsix(&msix, ENTRY, false);
  return true;
}

static void Mask(bool function, bool masked) {
  if (function) {
    MaskMsixFunction(&msix, masked);
  } else {
    MaskMsix(&msix, ENTRY, masked);
  }
}

static void Raise(void) { Store(ICS, CAUSE_RXQ0); }
static void Acknowledge(void) {}
static bool Pending(void) { return MsixPending(&msix, ENTRY); }

/* QEMU's e1000e (11.1) sends each message a second time when the 128 us are over in which EITR lets no other pass. */
const struct withholder withholder_msix = {
    .echoes = true,
    .can = 1 << CPR_GUEST_WITHHOLD_MASKED | 1 << CPR_GUEST_WITHHOLD_FUNCTION | 1 << CPR_GUEST_WITHHOLD_NOT_ENDED,
    .init = Init,
    .mask = Mask,
    .raise = Raise,
    .acknowledge = Acknowledge,
    .pending = Pending,
};
