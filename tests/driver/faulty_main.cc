// cpr-vmm that fails on demand: see fault.h.
#include "tests/driver/fault.h"
#include "vmm/app/main_loop.h"

int main(int argc, char** argv) {
  return cpr::RunVmm(argc, argv, {.phase_observer = cpr::FaultFromEnvironment(), .reads = cpr::ReadsFromEnvironment()});
}
