/* PCI bus 0 by configuration mechanism 1, as far as the edu device needs it. */
#include "tests/guest/guest.h"

#define ADDRESS_PORT 0xcf8
#define DATA_PORT 0xcfc
#define COMMAND 0x04 /* with the status in the upper half, whose bits are cleared by writing 1 */
#define COMMAND_MEMORY 2u
#define COMMAND_BUS_MASTER 4u
#define COMMAND_INTX_DISABLE 0x400u
#define STATUS_CAPABILITIES (0x10u << 16)
#define BAR0 0x10
#define FIRST_CAPABILITY 0x34
#define INTERRUPT_LINE 0x3c /* with the pin in the next byte, 0 without INTx */
#define CAPABILITY_MSI 5
#define MSI_ENABLE (1u << 16) /* of the word that its control register is the upper half of */
#define MSI_VECTORS (7u << 20)
#define MSI_64_BIT (1u << 23)
#define MSI_ADDRESS 0xfee00000u /* the local APIC with id 0 */

/* In the hole below 4 GiB of cpr-vmm as well as of QEMU's q35, for a function that nobody gave a place. */
#define FREE_GPA 0xd0000000u

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

uint64_t EnablePciBar0(unsigned function) {
  SetCommand(function, COMMAND_BUS_MASTER, 0);
  if ((Read(function, BAR0) & ~15u) == 0) Write(function, BAR0, FREE_GPA);
  SetCommand(function, 0, COMMAND_MEMORY);
  return Read(function, BAR0) & ~15u;
}

void EnablePciDma(unsigned function) { SetCommand(function, 0, COMMAND_BUS_MASTER); }

/* Where the MSI capability is, 0 without one. */
static unsigned FindMsi(unsigned function) {
  if ((Read(function, COMMAND) & STATUS_CAPABILITIES) == 0) return 0;
  unsigned offset = Read(function, FIRST_CAPABILITY) & 0xfc;
  for (unsigned left = 48; offset != 0 && left != 0; --left) {
    const uint32_t head = Read(function, offset);
    if ((head & 0xff) == CAPABILITY_MSI) return offset;
    offset = head >> 8 & 0xfc;
  }
  return 0;
}

bool UsePciMsi(unsigned function, unsigned vector) {
  const unsigned msi = FindMsi(function);
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
  const unsigned msi = FindMsi(function);
  if (msi != 0) Write(function, msi, Read(function, msi) & ~MSI_ENABLE);
  SetCommand(function, COMMAND_INTX_DISABLE, 0);
  return true;
}
