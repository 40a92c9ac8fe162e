// Whole handovers of the self-checking guest between cpr-vmm processes, as a user's script would make them. The time of
// an iteration is the guest's pause, seen from outside in its RAM. Ends with a table of percentiles beside the targets.
//
//   handover_bench [--handovers=N] [--each] [Google Benchmark's flags]
//
// --each: a line for each handover, `each transfer 1.234 check 0.05 ...`: its pause and its phases in ms.

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "benchmark/benchmark.h"
#include "libcpr/base/io.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/testing/kvm_gate.h"
#include "libcpr/testing/temp_folder.h"
#include "tests/driver/guest_rig.h"

namespace cpr {
namespace {

using Samples = std::vector<int64_t>;  // nanoseconds

double Percentile(Samples samples, double part) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const size_t index = static_cast<size_t>(part * static_cast<double>(samples.size() - 1) + 0.5);
  return static_cast<double>(samples[index]) / 1e6;
}

// What one benchmark has found, for the table at the end.
struct Series {
  Samples pause_ns;
  Samples total_ns;
  std::array<Samples, kPhaseCount> phases_ns;

  void Add(const Handover& handover) {
    pause_ns.push_back(handover.guest_pause_ns);
    total_ns.push_back(handover.total_ns);
    for (int i = 0; i < kPhaseCount; ++i) phases_ns[i].push_back(handover.phases_ns[i]);
  }
};

std::map<std::string, Series>& AllSeries() {
  static auto* const all = new std::map<std::string, Series>;
  return *all;
}

// An error fails the program, which a benchmark by itself does not.
bool any_failed = false;

void Fail(benchmark::State& state, const absl::Status& why) {
  any_failed = true;
  state.SkipWithError(why.ToString().c_str());
}

bool print_each = false;

void PrintEach(const std::string& name, const Handover& handover) {
  std::printf("each %s %.3f", name.c_str(), static_cast<double>(handover.guest_pause_ns) / 1e6);
  for (int i = 0; i < kPhaseCount; ++i) {
    std::printf(" %s %.3f", std::string(PhaseName(static_cast<Phase>(i))).c_str(),
                static_cast<double>(handover.phases_ns[i]) / 1e6);
  }
  std::printf("\n");
}

void SetCounters(benchmark::State& state, const Samples& samples) {
  state.counters["p50_ms"] = Percentile(samples, 0.5);
  state.counters["p99_ms"] = Percentile(samples, 0.99);
  state.counters["max_ms"] = Percentile(samples, 1);
}

// `name` is of the series, `name``round` of another with this round's alone; `touched_mib` of `ram_mib` hold data
// before the first handover.
void RunHandovers(benchmark::State& state, const std::string& name, const std::string& round, Mode mode, int ram_mib,
                  int touched_mib) {
  const absl::StatusOr<std::unique_ptr<GuestRig>> rig =
      GuestRig::Start({.ram_mib = ram_mib, .guest_words = absl::StrCat("quiet touch=", touched_mib)});
  if (!rig.ok()) return Fail(state, rig.status());
  Series& series = AllSeries()[name];
  for (auto _ : state) {
    const absl::StatusOr<Handover> handover = (*rig)->HandOver(mode);
    if (!handover.ok()) return Fail(state, handover.status());
    if (!handover->verdict.ok()) return Fail(state, handover->verdict);
    state.SetIterationTime(static_cast<double>(handover->guest_pause_ns) / 1e9);
    series.Add(*handover);
    if (print_each) PrintEach(name, *handover);
    if (!round.empty()) AllSeries()[name + round].Add(*handover);
  }
  SetCounters(state, series.pause_ns);
  state.counters["touched_MiB"] = touched_mib;
}

absl::Status WriteAndSync(const std::string& path, const std::string& bytes) {
  CPR_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_RDWR | O_CREAT | O_TRUNC));
  CPR_RETURN_IF_ERROR(WriteAll(file.get(), bytes));
  const int64_t began_ns = MonotonicNs();
  if (::fsync(file.get()) != 0) return absl::InternalError("fsync");
  AllSeries()["fsync"].pause_ns.push_back(MonotonicNs() - began_ns);
  return absl::OkStatus();
}

// What a reboot's state file costs by itself: fsync of 100 KB in the folder where the state files are.
void BM_Fsync(benchmark::State& state) {
  const testing::TempFolder folder;
  const std::string bytes(100 << 10, 'x');
  Samples& samples = AllSeries()["fsync"].pause_ns;
  for (auto _ : state) {
    const absl::Status synced = WriteAndSync(folder.File("state"), bytes);
    if (!synced.ok()) return Fail(state, synced);
    state.SetIterationTime(static_cast<double>(samples.back()) / 1e9);
  }
  SetCounters(state, samples);
}

// `round`: added to the benchmark's name, not to that of its series.
void Register(const std::string& name, Mode mode, int ram_mib, int touched_mib, int handovers,
              const std::string& round = "") {
  benchmark::RegisterBenchmark(
      absl::StrCat("BM_Handover/", name, round).c_str(),
      [=](benchmark::State& state) { RunHandovers(state, name, round, mode, ram_mib, touched_mib); })
      ->Iterations(handovers)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

constexpr int kGrowthRamMib = 3584;
constexpr int kGrowthTouchedMib[] = {0, 1024, 2048, 3072};
constexpr int kSmokeHandovers = 5;  // at most this many: no guest of GiBs

std::string GrowthName(int touched_mib) { return absl::StrCat("exec_touched_", touched_mib / 1024, "GiB"); }

// A machine is slower in some minutes than in others, which would look like growth: so up and down the sizes, many
// times in few handovers each, and the middle of what the times say.
constexpr int kGrowthRounds = 8;
std::string RoundName(int round) { return absl::StrCat(round % 2 == 0 ? "/up" : "/down", round / 2 + 1); }

void RegisterGrowth(int handovers) {
  std::vector<int> sizes_mib(std::begin(kGrowthTouchedMib), std::end(kGrowthTouchedMib));
  for (int round = 0; round < kGrowthRounds; ++round) {
    for (const int touched_mib : sizes_mib) {
      Register(GrowthName(touched_mib), Mode::kExec, kGrowthRamMib, touched_mib, handovers, RoundName(round));
    }
    std::reverse(sizes_mib.begin(), sizes_mib.end());
  }
}

// `handovers` 0: as many as give a p99 worth the name.
void RegisterAll(int handovers) {
  const auto count = [handovers](int usual) { return handovers != 0 ? handovers : usual; };
  Register("transfer", Mode::kTransfer, 512, 0, count(50));
  Register("exec", Mode::kExec, 512, 0, count(50));
  Register("reboot", Mode::kReboot, 512, 0, count(20));
  benchmark::RegisterBenchmark("BM_Fsync", BM_Fsync)
      ->Iterations(count(50))
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
  if (handovers != 0 && handovers <= kSmokeHandovers) return;
  RegisterGrowth(count(10));
}

void PrintLine(const std::string& name, const Samples& samples, const std::string& target) {
  if (samples.empty()) return;
  std::printf("%-36s %5zu %9.3f %9.3f %9.3f   %s\n", name.c_str(), samples.size(), Percentile(samples, 0.5),
              Percentile(samples, 0.99), Percentile(samples, 1), target.c_str());
}

void PrintPhases(const std::string& name, const Series& series) {
  if (series.pause_ns.empty()) return;
  std::printf("%-36s", absl::StrCat(name, ", p50 (p99) of the phases").c_str());
  for (int i = 0; i < kPhaseCount; ++i) {
    std::printf(" %s %.2f (%.2f)", std::string(PhaseName(static_cast<Phase>(i))).c_str(),
                Percentile(series.phases_ns[i], 0.5), Percentile(series.phases_ns[i], 0.99));
  }
  std::printf("\n");
}

// Milliseconds of pause for each GiB touched in one round: the slope of the least-squares line through the p50s.
double GrowthPerGib(int round) {
  double n = 0, sum_x = 0, sum_y = 0, sum_xx = 0, sum_xy = 0;
  for (const int touched_mib : kGrowthTouchedMib) {
    const double x = touched_mib / 1024.0,
                 y = Percentile(AllSeries()[GrowthName(touched_mib) + RoundName(round)].pause_ns, 0.5);
    n += 1, sum_x += x, sum_y += y, sum_xx += x * x, sum_xy += x * y;
  }
  return (n * sum_xy - sum_x * sum_y) / (n * sum_xx - sum_x * sum_x);
}

void PrintGrowth() {
  if (AllSeries()[GrowthName(3072)].pause_ns.empty()) return;
  std::vector<double> growths;
  for (int round = 0; round < kGrowthRounds; ++round) growths.push_back(GrowthPerGib(round));
  std::sort(growths.begin(), growths.end());
  const double middle = (growths[kGrowthRounds / 2 - 1] + growths[kGrowthRounds / 2]) / 2;
  std::printf("%-36s %5d %9.3f                       target <= 0.6 (rounds: %.3f to %.3f)\n",
              "cpr-exec, growth per GiB touched", kGrowthRounds, middle, growths.front(), growths.back());
}

void PrintTable() {
  std::map<std::string, Series>& all = AllSeries();
  std::printf("\n%-36s %5s %9s %9s %9s   %s\n", "pause of the guest from outside, ms", "n", "p50", "p99", "max",
              "target");
  PrintLine("cpr-transfer", all["transfer"].pause_ns, "p50 <= 1.5");
  PrintLine("cpr-exec", all["exec"].pause_ns, "p50 <= 8");
  for (const int touched_mib : kGrowthTouchedMib) {
    PrintLine(absl::StrCat("cpr-exec, 3.5 GiB, ", touched_mib / 1024, " GiB touched"),
              all[GrowthName(touched_mib)].pause_ns, "");
  }
  PrintLine("cpr-reboot", all["reboot"].pause_ns, "");
  PrintLine("cpr-reboot, migrate to running again", all["reboot"].total_ns, "p50 <= 25 + one fsync");
  PrintLine("fsync of 100 KB in the same folder", all["fsync"].pause_ns, "");
  PrintGrowth();
  std::printf("\n");
  for (const char* name : {"transfer", "exec", "reboot"}) PrintPhases(name, all[name]);
}

// Takes --handovers=N, which it returns, and --each out of argv.
int TakeOptions(int* argc, char** argv) {
  int handovers = 0;
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    absl::string_view word = argv[i];
    if (absl::ConsumePrefix(&word, "--handovers=") && absl::SimpleAtoi(word, &handovers)) continue;
    if (word == "--each") {
      print_each = true;
      continue;
    }
    argv[kept++] = argv[i];
  }
  *argc = kept;
  return handovers;
}

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  if (const absl::Status usable = cpr::testing::KvmUsable(); !usable.ok()) {
    std::fprintf(stderr, "handover_bench: KVM unusable: %s\n", usable.ToString().c_str());
    return std::getenv("CPR_REQUIRE_KVM") != nullptr ? 1 : 0;
  }
  cpr::RegisterAll(cpr::TakeOptions(&argc, argv));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  cpr::PrintTable();
  return cpr::any_failed ? 1 : 0;
}
