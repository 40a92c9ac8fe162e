#ifndef TESTS_KVM_KILL_CASES_H_
#define TESTS_KVM_KILL_CASES_H_

#include <string>

#include "libcpr/modes/phase.h"

// What must come of a SIGKILL to either side of a handover, by mode, victim and phase.

namespace cpr {

enum class Victim { kOld, kNew };
enum class Outcome {
  kOldRuns,      // as if nothing had been asked
  kNewRuns,      // the handover came off
  kOldReturned,  // cpr-exec: the old program was started again, with the state
  kFileResumes,  // cpr-reboot: the next VMM takes the guest from its file
  kEnded,        // the guest ended with the only process that held it
  kNobody,       // there is no such process at that phase
};

struct KillCase {
  Mode mode;
  Victim victim;
  Phase phase;
  Outcome outcome;
  const char* why;
};

std::string OutcomeText(Outcome outcome);

namespace kill_cases {

inline constexpr Outcome kEnded = Outcome::kEnded, kOldRuns = Outcome::kOldRuns, kNewRuns = Outcome::kNewRuns,
                         kOldReturned = Outcome::kOldReturned, kFileResumes = Outcome::kFileResumes,
                         kNobody = Outcome::kNobody;
inline constexpr Victim kOld = Victim::kOld, kNew = Victim::kNew;

// Until the state is whole, vCPUs and devices are in the killed process only, and RAM without them is no guest.
inline constexpr char kNotWhole[] = "the state is not whole yet: nobody else has the vCPUs";
inline constexpr char kNotOffered[] = "the word says that the guest is the old side's";
inline constexpr char kNotTaken[] = "the guest is offered and not taken: the old side swaps the word back";
inline constexpr char kStateSent[] = "the state is whole, and with the new side";
inline constexpr char kKeeper[] = "the state is whole: the keeper swaps the word and starts the old program";
inline constexpr char kNamed[] = "the state is whole, and its file has its name";
inline constexpr char kFileUntouched[] = "the word in the file still says offered";

// The victim kills itself as it enters the phase: the new side enters resume immediately before it takes the guest.
// (A new VMM has no phase "stop": that of a transfer is killed while the old one is in it.)
inline constexpr KillCase kKillCases[] = {
    {Mode::kTransfer, kOld, Phase::kCheck, kEnded, kNotWhole},
    {Mode::kTransfer, kOld, Phase::kPrepare, kEnded, kNotWhole},
    {Mode::kTransfer, kOld, Phase::kStop, kEnded, kNotWhole},
    {Mode::kTransfer, kOld, Phase::kSave, kEnded, kNotWhole},
    {Mode::kTransfer, kOld, Phase::kCommit, kNewRuns, kStateSent},
    {Mode::kTransfer, kOld, Phase::kResume, kNewRuns, kStateSent},
    {Mode::kTransfer, kNew, Phase::kCheck, kOldRuns, kNotOffered},
    {Mode::kTransfer, kNew, Phase::kPrepare, kOldRuns, kNotOffered},
    {Mode::kTransfer, kNew, Phase::kStop, kOldRuns, kNotOffered},
    {Mode::kTransfer, kNew, Phase::kSave, kOldRuns, kNotTaken},
    {Mode::kTransfer, kNew, Phase::kCommit, kOldRuns, kNotTaken},
    {Mode::kTransfer, kNew, Phase::kResume, kOldRuns, kNotTaken},
    {Mode::kExec, kOld, Phase::kCheck, kEnded, kNotWhole},
    {Mode::kExec, kOld, Phase::kPrepare, kEnded, kNotWhole},
    {Mode::kExec, kOld, Phase::kStop, kEnded, kNotWhole},
    {Mode::kExec, kOld, Phase::kSave, kEnded, kNotWhole},
    {Mode::kExec, kOld, Phase::kCommit, kOldReturned, kKeeper},
    {Mode::kExec, kOld, Phase::kResume, kNobody, "the process is the new program"},
    {Mode::kExec, kNew, Phase::kCheck, kOldReturned, kKeeper},
    {Mode::kExec, kNew, Phase::kPrepare, kOldReturned, kKeeper},
    {Mode::kExec, kNew, Phase::kStop, kNobody, "the new program is not started yet"},
    {Mode::kExec, kNew, Phase::kSave, kOldReturned, kKeeper},
    {Mode::kExec, kNew, Phase::kCommit, kOldReturned, kKeeper},
    {Mode::kExec, kNew, Phase::kResume, kOldReturned, kKeeper},
    {Mode::kReboot, kOld, Phase::kCheck, kEnded, kNotWhole},
    {Mode::kReboot, kOld, Phase::kPrepare, kEnded, kNotWhole},
    {Mode::kReboot, kOld, Phase::kStop, kEnded, kNotWhole},
    {Mode::kReboot, kOld, Phase::kSave, kEnded, kNotWhole},
    {Mode::kReboot, kOld, Phase::kCommit, kFileResumes, kNamed},
    {Mode::kReboot, kOld, Phase::kResume, kFileResumes, kNamed},
    {Mode::kReboot, kNew, Phase::kCheck, kFileResumes, kFileUntouched},
    {Mode::kReboot, kNew, Phase::kPrepare, kFileResumes, kFileUntouched},
    {Mode::kReboot, kNew, Phase::kStop, kNobody, "the new VMM is not started yet"},
    {Mode::kReboot, kNew, Phase::kSave, kFileResumes, kFileUntouched},
    {Mode::kReboot, kNew, Phase::kCommit, kFileResumes, kFileUntouched},
    {Mode::kReboot, kNew, Phase::kResume, kFileResumes, kFileUntouched},
};

}  // namespace kill_cases

using kill_cases::kKillCases;

}  // namespace cpr

#endif  // TESTS_KVM_KILL_CASES_H_
