#ifndef VMM_APP_MAIN_LOOP_H_
#define VMM_APP_MAIN_LOOP_H_

#include "libcpr/modes/outgoing.h"

namespace cpr {

// All of cpr-vmm's main, from the command line to the exit code. `phase_observer` may be null; programs for tests
// let handovers fail by it.
int RunVmm(int argc, char** argv, PhaseObserver phase_observer);

}  // namespace cpr

#endif  // VMM_APP_MAIN_LOOP_H_
