/* PCI bus 0 by configuration mechanism 1, as far as edu and e1000e need it. */
#include "tests/guest/guest.h"

#define ADDRESS_PORT 0xcf8
#define DATA_PORT 0xcfc
#define COMMAND 0x04 /* with the status in the upper half, whose bits are cleared by writing 1 */
#define COMMAND_MEMORY 2u
#define COMMAND_BUS_MASTER 4u
#define COMMAND_INTX_DISABLE 0x400u
#define STATUS_CAPABILITIES (0x10u << 16)
#define BAR0 0x10
#define BARS 6
#define BAR_IO 1u
#define BAR_64_BIT 4u
#define FIRST_CAPABILITY 0x34
#define INTERRUPT_LINE 0x3c /* with the pin in the next byte, 0 without INTx */
#define CAPABILITY_MSI 5
#define MSI_ENABLE (1u << 16) /* of the word that its control register is the upper half of */
#define MSI_VECTORS (7u << 20)
#define MSI_64_BIT (1u << 23)
#define MSI_ADDRESS 0xfee00000u /* the local APIC with id 0 */
#define CAPABILITY_MSIX 17
#define MSIX_ENABLE (1u << 31) /* of the word that its control register is the upper half of */
#define MSIX_FUNCTION_MASK (1u << 30)
#define MSIX_VECTORS(head) (((head) >> 16 & 0x7ff) + 1)
#define MSIX_ENTRY_BYTES 16
#define MSIX_VECTOR_CONTROL 12 /* of an entry: bit 0 masks */

/* In the hole below 4 GiB of cpr-vmm as well as of QEMU's q35, for a function that nobody gave a place: 1 MiB a BAR. */
#define FREE_GPA 0xd0000000u
#define FREE_BYTES 0x100000u

static uint32_t Read(unsigned function, unsigned offset) {
  TrapCall(TRAP_OUTL, ADDRESS_PORT, 1u << 31 | function << 8 | offset);
  return TrapCall(TRAP_INL, DATA_PORT, 0);
}

static void Write(unsigned function, unsigned offset, uint32_t value) {
  TrapCall(TRAP_OUTL, ADDRESS_PORT, 1u << 31 | function << 8 | offset);
  TrapCall(TRAP_OUTL, DATA_PORT, value);
}

unsigned FindPci(struct percpu* p, uint32_t ids) {
  for (unsigned function = 0; function < 256; ++function) {
    Beat(p);
    if (Read(function, 0) == ids) return function;
  }
  return PCI_NONE;
}

static void SetCommand(unsigned function, uint32_t clear, uint32_t set) {
  Write(function, COMMAND, (Read(function, COMMAND) & 0xffff & ~clear) | set);
}

void EnablePciMemory(unsigned function) {
  SetCommand(function, COMMAND_BUS_MASTER, 0);
  for (unsigned bar = 0; bar < BARS; ++bar) {
    const uint32_t value = Read(function, BAR0 + 4 * bar);
    if ((value & BAR_IO) != 0) continue;
    if ((value & ~15u) == 0) Write(function, BAR0 + 4 * bar, FREE_GPA + FREE_BYTES * bar);
    if ((value & BAR_64_BIT) != 0) ++bar;
  }
  SetCommand(function, 0, COMMAND_MEMORY);
}

uint64_t PciBar(unsigned function, unsigned bar) {
  const uint32_t value = Read(function, BAR0 + 4 * bar);
  const uint64_t high = (value & BAR_64_BIT) != 0 ? Read(function, BAR0 + 4 * bar + 4) : 0;
  return high << 32 | (value & ~15u);
}

void EnablePciDma(unsigned function) { SetCommand(function, 0, COMMAND_BUS_MASTER); }

/* Where the capability is, 0 without it. */
static unsigned FindCapability(unsigned function, unsigned id) {
  if ((Read(function, COMMAND) & STATUS_CAPABILITIES) == 0) return 0;
  unsigned offset = Read(function, FIRST_CAPABILITY) & 0xfc;
  for (unsigned left = 48; offset != 0 && left != 0; --left) {
    const uint32_t head = Read(function, offset);
    if ((head & 0xff) == id) return offset;
    offset = head >> 8 & 0xfc;
  }
  return 0;
}

bool UsePciMsi(unsigned function, unsigned vector) {
  const unsigned msi = FindCapability(function, CAPABILITY_MSI);
  if (msi == 0) return false;
  const uint32_t head = Read(function, msi);
  Write(function, msi + 4, MSI_ADDRESS);
  if ((head & MSI_64_BIT) != 0) Write(function, msi + 8, 0);
  Write(function, msi + ((head & MSI_64_BIT) != 0 ? 12 : 8), vector);
  Write(function, msi, (head & ~MSI_VECTORS) | MSI_ENABLE);
  SetCommand(function, 0, COMMAND_INTX_DISABLE);
  return true;
}

bool UsePciIntx(unsigned function) {
  if ((Read(function, INTERRUPT_LINE) & 0xff00) == 0) return false;
  const unsigned msi = FindCapability(function, CAPABILITY_MSI);
  if (msi != 0) Write(function, msi, Read(function, msi) & ~MSI_ENABLE);
  SetCommand(function, COMMAND_INTX_DISABLE, 0);
  return true;
}

/* Where a register of the MSI-X capability says: a BAR in its low bits, an offset above. */
static uint64_t MsixPlace(unsigned function, unsigned offset) {
  const uint32_t place = Read(function, offset);
  return PciBar(function, place & 7) + (place & ~7u);
}

bool UsePciMsix(unsigned function, struct msix* msix) {
  const unsigned capability = FindCapability(function, CAPABILITY_MSIX);
  if (capability == 0) return false;
  *msix = (struct msix){function, capability, MsixPlace(function, capability + 4), MsixPlace(function, capability + 8)};
  const uint32_t head = Read(function, capability);
  for (unsigned entry = 0; entry < MSIX_VECTORS(head); ++entry) MaskMsix(msix, entry, true);
  Write(function, capability, (head & ~MSIX_FUNCTION_MASK) | MSIX_ENABLE);
  SetCommand(function, 0, COMMAND_INTX_DISABLE);
  return true;
}

void RouteMsix(const struct msix* msix, unsigned entry, unsigned vector) {
  const uint64_t gpa = msix->table_gpa + MSIX_ENTRY_BYTES * entry;
  TrapCall(TRAP_STORE32, gpa, MSI_ADDRESS);
  TrapCall(TRAP_STORE32, gpa + 4, 0);
  TrapCall(TRAP_STORE32, gpa + 8, vector);
}

void MaskMsix(const struct msix* msix, unsigned entry, bool masked) {
  TrapCall(TRAP_STORE32, msix->table_gpa + MSIX_ENTRY_BYTES * entry + MSIX_VECTOR_CONTROL, masked);
}

void MaskMsixFunction(const struct msix* msix, bool masked) {
  const uint32_t head = Read(msix->function, msix->capability) & ~MSIX_FUNCTION_MASK;
  Write(msix->function, msix->capability, masked ? head | MSIX_FUNCTION_MASK : head);
}

bool MsixPending(const struct msix* msix, unsigned entry) {
  return (TrapCall(TRAP_LOAD32, msix->pba_gpa + entry / 32 * 4, 0) >> entry % 32 & 1) != 0;
}
