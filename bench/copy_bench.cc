// How fast guest RAM that cannot stay in place is copied into a file and back, beside what the same disk does with the
// same bytes written and read from one end to the other, as dd would. Ends with a table of medians.
//
//   copy_bench [--mib=N] [--folder=PATH] [--rounds=N] [Google Benchmark's flags]
//
// --mib: size of the RAM, 1024 unless told. --folder: where the file goes, on the disk in question. --rounds: how often
// each is measured, 5 unless told.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "benchmark/benchmark.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/base/status_util.h"
#include "libcpr/base/unique_fd.h"
#include "libcpr/memory/ram_copy.h"
#include "libcpr/modes/phase.h"

namespace cpr {
namespace {

constexpr uint64_t kPieceBytes = 4 << 20;

struct Options {
  uint64_t mib = 1024;
  std::string folder = "/tmp";
  int rounds = 5;
};
Options options;

std::map<std::string, std::vector<double>>& AllRates() {  // MB/s of touched bytes
  static auto* const all = new std::map<std::string, std::vector<double>>;
  return *all;
}
bool any_failed = false;

// RAM as a guest leaves it: one run of touched pages in every `one_in` MiB, of one MiB, with nothing like zeros in it.
class Ram {
 public:
  static absl::StatusOr<std::unique_ptr<Ram>> Create(uint64_t one_in) {
    auto ram = std::make_unique<Ram>();
    ram->fd.Reset(::memfd_create("ram", MFD_CLOEXEC));
    const uint64_t size_bytes = options.mib << 20;
    if (::ftruncate(ram->fd.get(), static_cast<off_t>(size_bytes)) != 0) return ErrnoStatus(errno, "ftruncate");
    CPR_ASSIGN_OR_RETURN(ram->mapping, Mapping::Create(ram->fd.get(), 0, size_bytes));
    uint64_t word = 88172645463325252u;
    for (uint64_t at = 0; one_in != 0 && at < size_bytes; at += one_in << 20) {
      for (uint64_t byte = at; byte < at + (1 << 20); byte += sizeof(word)) {
        word ^= word << 13, word ^= word >> 7, word ^= word << 17;
        std::memcpy(ram->mapping.data() + byte, &word, sizeof(word));
      }
      ram->touched_bytes += 1 << 20;
    }
    return ram;
  }
  MappedRam Mapped() const { return {mapping.data(), mapping.size_bytes(), fd.get(), 0}; }

  UniqueFd fd;
  Mapping mapping;
  uint64_t touched_bytes = 0;
};

// A file that is gone when this is.
absl::StatusOr<UniqueFd> NewFile() {
  std::string path = absl::StrCat(options.folder, "/copy_bench.XXXXXX");
  UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
  if (!file.ok()) return ErrnoStatus(errno, path);
  ::unlink(path.c_str());
  return file;
}

absl::Status Sync(int fd) { return ::fsync(fd) == 0 ? absl::OkStatus() : ErrnoStatus(errno, "fsync"); }

// On the disk, and nowhere else.
absl::Status SyncAndForget(int fd) {
  CPR_RETURN_IF_ERROR(Sync(fd));
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  return absl::OkStatus();
}

absl::Status SetDirect(int fd, bool direct) {
  if (!direct || ::fcntl(fd, F_SETFL, O_DIRECT) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "O_DIRECT");
}

// What is measured: does `timed` and says how many bytes that were; `nanoseconds` is what it took.
using Measured = std::function<absl::StatusOr<uint64_t>(int64_t* nanoseconds)>;

template <typename Work>
absl::Status Time(int64_t* nanoseconds, Work work) {
  const int64_t began = MonotonicNs();
  const absl::Status status = work();
  *nanoseconds = MonotonicNs() - began;
  return status;
}

absl::Status WriteThrough(int fd, const Ram& ram, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    const uint64_t size_bytes = std::min(kPieceBytes, bytes - at);
    CPR_RETURN_IF_ERROR(PwriteAll(fd, RamBytes(ram.Mapped(), {at, at + size_bytes}), at));
  }
  return Sync(fd);
}

absl::Status ReadThrough(int fd, const Ram& ram, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kPieceBytes) {
    CPR_RETURN_IF_ERROR(
        PreadAll(fd, reinterpret_cast<char*>(ram.mapping.data()), std::min(kPieceBytes, bytes - at), at));
  }
  return absl::OkStatus();
}

// The disk alone: the touched bytes of `full`, one behind the other.
Measured DiskWrite(uint64_t one_in, bool direct) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto full, Ram::Create(1));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile());
    CPR_RETURN_IF_ERROR(SetDirect(file.get(), direct));
    const uint64_t bytes = full->touched_bytes / one_in;
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&] { return WriteThrough(file.get(), *full, bytes); }));
    return bytes;
  };
}

Measured DiskRead(uint64_t one_in, bool direct) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto full, Ram::Create(1));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile());
    const uint64_t bytes = full->touched_bytes / one_in;
    CPR_RETURN_IF_ERROR(WriteThrough(file.get(), *full, bytes));
    CPR_RETURN_IF_ERROR(SyncAndForget(file.get()));
    CPR_RETURN_IF_ERROR(SetDirect(file.get(), direct));
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&] { return ReadThrough(file.get(), *full, bytes); }));
    return bytes;
  };
}

absl::StatusOr<std::vector<RamExtent>> SaveRam(const Ram& ram, int fd, const RamCopyOptions& how) {
  CPR_ASSIGN_OR_RETURN(const auto copy, RamCopyOut::Start({{"ram", ram.Mapped()}}, fd, how));
  CPR_RETURN_IF_ERROR(copy->Finish());
  return copy->TakeExtents()[0];
}

Measured Save(uint64_t one_in, RamCopyOptions how) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto ram, Ram::Create(one_in));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile());
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&]() -> absl::Status {
      CPR_RETURN_IF_ERROR(SaveRam(*ram, file.get(), how).status());
      return Sync(file.get());
    }));
    return ram->touched_bytes;
  };
}

Measured Load(uint64_t one_in, RamCopyOptions how) {
  return [=](int64_t* nanoseconds) -> absl::StatusOr<uint64_t> {
    CPR_ASSIGN_OR_RETURN(const auto ram, Ram::Create(one_in));
    CPR_ASSIGN_OR_RETURN(const auto back, Ram::Create(0));
    CPR_ASSIGN_OR_RETURN(const UniqueFd file, NewFile());
    CPR_ASSIGN_OR_RETURN(const std::vector<RamExtent> extents, SaveRam(*ram, file.get(), how));
    CPR_RETURN_IF_ERROR(SyncAndForget(file.get()));
    std::unique_ptr<RamCopyIn> copy;
    CPR_RETURN_IF_ERROR(Time(nanoseconds, [&]() -> absl::Status {
      CPR_ASSIGN_OR_RETURN(copy, RamCopyIn::Start({{"ram", back->Mapped(), extents}}, file.get(), how));
      return copy->Finish();
    }));
    if (std::memcmp(ram->mapping.data(), back->mapping.data(), ram->mapping.size_bytes()) != 0)
      return absl::DataLossError("what came back is not what went out");
    return ram->touched_bytes;
  };
}

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
const char* How(bool direct) { return direct ? "direct" : "buffered"; }

std::string DiskName(bool write, const Touched& touched, bool direct) {
  return absl::StrCat(write ? "DiskWrite/" : "DiskRead/", touched.name, "/", How(direct));
}

std::string CopyName(bool write, const Touched& touched, unsigned threads, bool direct) {
  return absl::StrCat(write ? "Save/" : "Load/", touched.name, "/", threads, "/", How(direct));
}

void Register(const std::string& name, const Measured& measured) {
  benchmark::RegisterBenchmark(absl::StrCat("BM_", name).c_str(),
                               [name, measured](benchmark::State& state) { Run(state, name, measured); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(options.rounds);
}

bool TakesDirect() {
  const absl::StatusOr<UniqueFd> file = NewFile();
  return file.ok() && SetDirect(file->get(), true).ok();
}

void RegisterAll() {
  const bool takes_direct = TakesDirect();
  for (const bool write : {true, false}) {
    for (const Touched& touched : kTouched) {
      const uint64_t one_in = touched.one_in;
      for (const bool direct : {true, false}) {
        if (direct && !takes_direct) continue;
        Register(DiskName(write, touched, direct), write ? DiskWrite(one_in, direct) : DiskRead(one_in, direct));
        for (const unsigned threads : kThreads) {
          const RamCopyOptions how = {.threads = threads, .direct = direct};
          Register(CopyName(write, touched, threads, direct), write ? Save(one_in, how) : Load(one_in, how));
        }
      }
    }
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

void PrintTable() {
  std::printf("\nMB/s of touched bytes, median of %d; %d MiB of RAM; target >= 80%% of the disk's faster way\n",
              options.rounds, static_cast<int>(options.mib));
  std::printf("%-26s %10s %14s %14s %14s\n", "", "disk alone", "1 thread", "2 threads", "4 threads");
  for (const bool write : {true, false}) {
    for (const Touched& touched : kTouched) {
      const double disk = std::max(Median(DiskName(write, touched, true)), Median(DiskName(write, touched, false)));
      for (const bool direct : {true, false}) {
        std::printf("%-26s %10s", absl::StrCat(write ? "save, " : "load, ", touched.name, ", ", How(direct)).c_str(),
                    Cell(Median(DiskName(write, touched, direct)), 0).c_str());
        for (const unsigned threads : kThreads) {
          std::printf(" %14s", Cell(Median(CopyName(write, touched, threads, direct)), disk).c_str());
        }
        std::printf("\n");
      }
    }
  }
}

// Takes our own flags out of argv; false if one of them makes no sense.
bool TakeOptions(int* argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    absl::string_view word = argv[i];
    if (absl::ConsumePrefix(&word, "--folder=")) {
      options.folder = std::string(word);
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
      "copy_bench [--mib=N] [--folder=PATH] [--rounds=N]\n"
      "  --mib=N        size of the RAM, a multiple of 16; 1024 unless told\n"
      "  --folder=PATH  where the file goes, on the disk to be measured; /tmp unless told\n"
      "  --rounds=N     how often each is measured; 5 unless told\n");
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
