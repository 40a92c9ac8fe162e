// How fast guest RAM that cannot stay in place is copied into a file and back, beside what the same disk does with the
// same bytes written and read from one end to the other, as dd would, and beside QEMU's cpr-reboot. Ends with a table
// of medians.
//
//   copy_bench [--mib=N] [--folder=PATH] [--rounds=N] [--qemu=PROGRAM] [Google Benchmark's flags]

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "bench/copy_ways.h"
#include "bench/qemu_copy.h"
#include "benchmark/benchmark.h"

namespace cpr {
namespace {

struct Options {
  uint64_t mib = 1024;
  std::string folder = "/var/tmp";
  int rounds = 5;
  std::vector<std::string> qemu;
};
Options options;

std::map<std::string, std::vector<double>>& AllRates() {  // MB/s of touched bytes
  static auto* const all = new std::map<std::string, std::vector<double>>;
  return *all;
}
bool any_failed = false;

void Run(benchmark::State& state, const std::string& name, const Measured& measured) {
  for (auto _ : state) {
    int64_t nanoseconds = 0;
    const absl::StatusOr<uint64_t> bytes = measured(&nanoseconds);
    if (!bytes.ok()) {
      any_failed = true;
      return state.SkipWithError(bytes.status().ToString().c_str());
    }
    state.SetIterationTime(static_cast<double>(nanoseconds) / 1e9);
    AllRates()[name].push_back(static_cast<double>(*bytes) / 1e6 / (static_cast<double>(nanoseconds) / 1e9));
  }
  state.counters["MB/s"] = AllRates()[name].back();
}

struct Touched {
  const char* name;
  uint64_t one_in;
};
constexpr Touched kTouched[] = {{"all", 1}, {"half", 2}, {"sixteenth", 16}};
constexpr unsigned kThreads[] = {1, 2, 4};
constexpr int kQemuChannels = 2;

// A row of the table: a direction, how much is touched, and a way to the disk.
struct Row {
  bool write;
  Touched touched;
  bool direct;

  std::string Name(const std::string& what) const {
    return absl::StrCat(what, write ? "Save/" : "Load/", touched.name, "/", direct ? "direct" : "buffered");
  }
  std::string Disk() const { return Name("Disk"); }
  std::string Copy(unsigned threads) const { return absl::StrCat(Name(""), "/", threads); }
  std::string QemuStream() const { return Name("QemuStream"); }
  std::string QemuMapped() const { return Name("QemuMapped"); }
  Row Other() const { return {write, touched, !direct}; }
};

std::vector<Row> Rows() {
  std::vector<Row> rows;
  for (const bool write : {true, false}) {
    for (const Touched& touched : kTouched) {
      for (const bool direct : {true, false}) rows.push_back({write, touched, direct});
    }
  }
  return rows;
}

void Register(const std::string& name, const Measured& measured) {
  benchmark::RegisterBenchmark(absl::StrCat("BM_", name).c_str(),
                               [name, measured](benchmark::State& state) { Run(state, name, measured); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(options.rounds);
}

void RegisterQemu(const CopyPlace& place, const Row& row) {
  const uint64_t one_in = row.touched.one_in;
  const QemuCopy stream = {.program = options.qemu};
  const QemuCopy mapped = {options.qemu, /*mapped_ram=*/true, kQemuChannels, row.direct};
  if (!row.direct) {  // which a stream cannot be
    Register(row.QemuStream(), row.write ? QemuSave(place, one_in, stream) : QemuLoad(place, one_in, stream));
  }
  Register(row.QemuMapped(), row.write ? QemuSave(place, one_in, mapped) : QemuLoad(place, one_in, mapped));
}

void RegisterAll() {
  const CopyPlace place = {options.mib << 20, options.folder};
  const bool takes_direct = TakesDirect(place);
  for (const Row& row : Rows()) {
    if (row.direct && !takes_direct) continue;
    const uint64_t one_in = row.touched.one_in;
    Register(row.Disk(), row.write ? DiskWrite(place, one_in, row.direct) : DiskRead(place, one_in, row.direct));
    for (const unsigned threads : kThreads) {
      const RamCopyOptions how = {.threads = threads, .direct = row.direct};
      Register(row.Copy(threads), row.write ? Save(place, one_in, how) : Load(place, one_in, how));
    }
    if (!options.qemu.empty()) RegisterQemu(place, row);
  }
}

double Median(const std::string& name) {
  std::vector<double> rates = AllRates()[name];
  if (rates.empty()) return 0;
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

// A cell: MB/s and what part of the better one of the disk's two ways that is.
std::string Cell(double rate, double disk) {
  if (rate == 0) return "-";
  return disk == 0 ? absl::StrFormat("%.0f", rate) : absl::StrFormat("%.0f (%.0f%%)", rate, rate / disk * 100);
}

void PrintRow(const Row& row) {
  const double disk = std::max(Median(row.Disk()), Median(row.Other().Disk()));
  std::printf("%-26s %10s", row.Name("").c_str(), Cell(Median(row.Disk()), 0).c_str());
  for (const unsigned threads : kThreads) std::printf(" %13s", Cell(Median(row.Copy(threads)), disk).c_str());
  if (!options.qemu.empty()) {
    std::printf(" %13s %13s", Cell(Median(row.QemuStream()), disk).c_str(),
                Cell(Median(row.QemuMapped()), disk).c_str());
  }
  std::printf("\n");
}

void PrintTable() {
  std::printf("\nMB/s of touched bytes, median of %d; %d MiB of RAM; target >= 80%% of the disk's faster way\n",
              options.rounds, static_cast<int>(options.mib));
  std::printf("%-26s %10s %13s %13s %13s", "", "disk alone", "1 thread", "2 threads", "4 threads");
  if (!options.qemu.empty()) std::printf(" %13s %13s", "QEMU, stream", "mapped-ram, 2");
  std::printf("\n");
  for (const Row& row : Rows()) PrintRow(row);
}

// Takes our own flags out of argv; false if one of them makes no sense.
bool TakeOptions(int* argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    absl::string_view word = argv[i];
    if (absl::ConsumePrefix(&word, "--folder=")) {
      options.folder = std::string(word);
    } else if (absl::ConsumePrefix(&word, "--qemu=")) {
      options.qemu = absl::StrSplit(word, ' ', absl::SkipEmpty());
    } else if (absl::ConsumePrefix(&word, "--mib=")) {
      if (!absl::SimpleAtoi(word, &options.mib) || options.mib == 0 || options.mib % 16 != 0) return false;
    } else if (absl::ConsumePrefix(&word, "--rounds=")) {
      if (!absl::SimpleAtoi(word, &options.rounds) || options.rounds <= 0) return false;
    } else {
      argv[kept++] = argv[i];
    }
  }
  *argc = kept;
  return true;
}

void PrintHelp() {
  std::printf(
      "copy_bench [--mib=N] [--folder=PATH] [--rounds=N] [--qemu=PROGRAM]\n"
      "  --mib=N         size of the RAM, a multiple of 16; 1024 unless told\n"
      "  --folder=PATH   where the file goes, on the disk to be measured; /tmp unless told\n"
      "  --rounds=N      how often each is measured; 5 unless told\n"
      "  --qemu=PROGRAM  QEMU 9.0 or later, with words that it needs: measured beside; bench/copy_rates has one\n");
}

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  if (!cpr::TakeOptions(&argc, argv)) {
    cpr::PrintHelp();
    return 1;
  }
  if (std::any_of(argv + 1, argv + argc, [](const char* word) { return std::strcmp(word, "--help") == 0; }))
    cpr::PrintHelp();
  cpr::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  cpr::PrintTable();
  return cpr::any_failed ? 1 : 0;
}
