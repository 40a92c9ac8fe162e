#ifndef VMM_APP_MAIN_LOOP_H_
#define VMM_APP_MAIN_LOOP_H_

#include <functional>
#include <vector>

#include "libcpr/modes/outgoing.h"
#include "libcpr/vmstate/section_info.h"

namespace cpr {

// What programs for tests alter, to let handovers fail. What is null alters nothing.
struct VmmAlterations {
  PhaseObserver phase_observer;                             // called when a phase begins
  std::function<void(std::vector<SectionSupport>&)> reads;  // the sections that this program claims to read
};

// All of cpr-vmm's main, from the command line to the exit code.
int RunVmm(int argc, char** argv, const VmmAlterations& alterations = {});

}  // namespace cpr

#endif  // VMM_APP_MAIN_LOOP_H_
