// What it costs to pass descriptors, and to execve with guest RAM mapped, with and without the keeper.

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "libcpr/base/io.h"
#include "libcpr/base/mapping.h"
#include "libcpr/preserve/execve.h"
#include "libcpr/preserve/fd_table.h"
#include "libcpr/preserve/keeper.h"
#include "libcpr/preserve/socket.h"
#include "libcpr/testing/child_process.h"
#include "libcpr/testing/helper.h"

namespace cpr {
namespace {

using ::cpr::testing::ChildProcess;
using ::cpr::testing::HelperCommand;

uint64_t NowNs() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

FdTable Eventfds(int64_t count) {
  FdTable table;
  for (uint32_t i = 0; i < count; ++i) {
    if (!table.Add("kick", i, FdKind::kEventfd, UniqueFd(::eventfd(0, EFD_CLOEXEC))).ok()) std::abort();
  }
  return table;
}

// One message with `fds` descriptors, there and owned.
void BM_SendFds(benchmark::State& state) {
  auto pair = PacketSocket::CreatePair();
  const FdTable table = Eventfds(state.range(0));
  const std::vector<int> fds = table.fds();
  for (auto _ : state) {
    if (!pair->first.Send("x", fds).ok()) state.SkipWithError("send");
    auto packet = pair->second.Receive();
    if (!packet.ok() || packet->fds.size() != fds.size()) state.SkipWithError("receive");
  }
}
BENCHMARK(BM_SendFds)->Arg(8)->Arg(64)->Arg(253);

// The same with its manifest written, read and every descriptor checked: what a handover does.
void BM_SendFdTable(benchmark::State& state) {
  auto pair = PacketSocket::CreatePair();
  const FdTable table = Eventfds(state.range(0));
  for (auto _ : state) {
    if (!pair->first.Send(table.Manifest().SerializeAsString(), table.fds()).ok()) state.SkipWithError("send");
    auto packet = pair->second.Receive();
    v1::FdManifest manifest;
    if (!packet.ok() || !manifest.ParseFromString(packet->bytes)) state.SkipWithError("receive");
    if (!FdTable::FromManifest(manifest, std::move(packet->fds)).ok()) state.SkipWithError("table");
  }
}
BENCHMARK(BM_SendFdTable)->Arg(8)->Arg(64)->Arg(253);

void BM_ArmAndDescribeExecFds(benchmark::State& state) {
  const FdTable table = Eventfds(state.range(0));
  for (auto _ : state) {
    ExecSet set(table.fds());
    if (!set.Arm().ok() || !DescribeExecFds(table).ok()) state.SkipWithError("arm");
  }
}
BENCHMARK(BM_ArmAndDescribeExecFds)->Arg(8)->Arg(64)->Arg(253);

void BM_KeeperStartAndAbort(benchmark::State& state) {
  std::atomic<uint64_t> word = 0;
  char name[] = "x";
  char* const argv[] = {name, nullptr};
  const UniqueFd exe(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  KeeperOptions options;
  options.argv = argv;
  options.exe_fd = exe.get();
  options.word = &word;
  options.expected = 1;
  for (auto _ : state) {
    auto keeper = Keeper::Start(options);
    if (!keeper.ok() || !keeper->Abort().ok()) state.SkipWithError("keeper");
  }
}
BENCHMARK(BM_KeeperStartAndAbort);

constexpr size_t kPageBytes = 4096;

// The old program: maps RAM (args[0], MiB args[2]) as a VMM has it, notes the time in the page args[1] and execs.
CPR_TEST_HELPER(BenchExecOld, (const std::vector<std::string>& args)) {
  const int ram_fd = std::atoi(args[0].c_str()), page_fd = std::atoi(args[1].c_str());
  const size_t size_bytes = static_cast<size_t>(std::atoi(args[2].c_str())) << 20;
  auto page = Mapping::Create(page_fd, 0, kPageBytes);
  if (!page.ok()) return 1;
  if (size_bytes != 0) {
    void* ram = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ram_fd, 0);
    if (ram == MAP_FAILED) return 1;
  }
  auto* times = reinterpret_cast<std::atomic<uint64_t>*>(page->data());
  const UniqueFd exe(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  std::vector<std::string> next = HelperCommand("BenchExecNew", {args[1], "-1", "-1"});
  std::vector<char*> argv;
  absl::StatusOr<Keeper> keeper = absl::CancelledError();
  if (args[3] == "keeper") {
    char* const back[] = {next[0].data(), nullptr};
    KeeperOptions options;
    options.argv = back;
    options.exe_fd = exe.get();
    options.word = times + 2;
    options.expected = 1;  // never is
    keeper = Keeper::Start(options);
    if (!keeper.ok()) return 1;
    next[3] = std::to_string(keeper->release_fd());
    next[4] = std::to_string(keeper->pid());
  }
  for (std::string& word : next) argv.push_back(word.data());
  argv.push_back(nullptr);
  times[0] = NowNs();
  ::execv(argv[0], argv.data());
  return 1;
}

CPR_TEST_HELPER(BenchExecNew, (const std::vector<std::string>& args)) {
  const uint64_t now = NowNs();
  auto page = Mapping::Create(std::atoi(args[0].c_str()), 0, kPageBytes);
  if (!page.ok()) return 1;
  reinterpret_cast<std::atomic<uint64_t>*>(page->data())[1] = now;
  const int release_fd = std::atoi(args[1].c_str());
  return release_fd < 0 || ReleaseKeeper(release_fd, std::atoi(args[2].c_str())).ok() ? 0 : 1;
}

// From execve to main of the new program, with so many MiB of touched guest RAM mapped in 4 KiB pages.
void BM_Execve(benchmark::State& state, const char* how) {
  const UniqueFd ram(::memfd_create("ram", MFD_CLOEXEC)), page(::memfd_create("page", MFD_CLOEXEC));
  const off_t ram_bytes = state.range(0) << 20;
  if (::ftruncate(page.get(), kPageBytes) != 0 || ::fallocate(ram.get(), 0, 0, std::max<off_t>(ram_bytes, 1)) != 0) {
    return state.SkipWithError("memory");
  }
  auto times = Mapping::Create(page.get(), 0, kPageBytes);
  auto* ns = reinterpret_cast<std::atomic<uint64_t>*>(times->data());
  const std::vector<std::string> command = HelperCommand(
      "BenchExecOld", {std::to_string(ram.get()), std::to_string(page.get()), std::to_string(state.range(0)), how});
  for (auto _ : state) {
    if (ChildProcess(command, {ram.get(), page.get()}).Wait() != 0) state.SkipWithError("child");
    state.SetIterationTime(static_cast<double>(ns[1] - ns[0]) * 1e-9);
  }
}
BENCHMARK_CAPTURE(BM_Execve, keeper, "keeper")->Arg(0)->Arg(256)->Arg(1024)->Iterations(20)->UseManualTime();
BENCHMARK_CAPTURE(BM_Execve, bare, "bare")->Arg(0)->Arg(256)->Arg(1024)->Iterations(20)->UseManualTime();

}  // namespace
}  // namespace cpr

int main(int argc, char** argv) {
  if (int exit_code = 0; cpr::testing::RunHelperIfAsked(argc, argv, &exit_code)) return exit_code;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
