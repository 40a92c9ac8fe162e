#include "tests/kvm/kill_cases.h"

namespace cpr {

std::string OutcomeText(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOldRuns:
      return "the old VMM runs the guest";
    case Outcome::kNewRuns:
      return "the new VMM runs the guest";
    case Outcome::kOldReturned:
      return "the old program was started again and runs the guest";
    case Outcome::kFileResumes:
      return "the guest was resumed from its state file";
    case Outcome::kEnded:
      return "the guest ended with its only holder; nobody runs it";
    case Outcome::kNobody:
      break;
  }
  return "there is no such process";
}

}  // namespace cpr
