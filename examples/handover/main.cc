// A handover over a socket between two small processes, without KVM.
//
//   handover new /tmp/cpr.sock &      waits for a guest
//   handover old /tmp/cpr.sock        starts one, counts to 1000 and hands it over

#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "examples/handover/counter.h"
#include "libcpr/base/status_macros.h"
#include "libcpr/modes/transfer.h"

namespace {

absl::Status RunNew(const char* path) {
  CPR_ASSIGN_OR_RETURN(cpr::PacketSocket listener, cpr::PacketSocket::Listen(path));
  Counter guest;
  auto say_refused = [](const absl::Status& why) { std::fprintf(stderr, "refused: %s\n", why.ToString().c_str()); };
  CPR_ASSIGN_OR_RETURN(auto incoming, cpr::CreateTransferIncoming({std::move(listener), say_refused}, &guest));
  std::printf("new: waiting\n");
  std::fflush(stdout);
  CPR_RETURN_IF_ERROR(incoming->Run());
  std::printf("new: the guest runs here, count %lu, step %lu, paused for %.3f ms\n", guest.count(), guest.step(),
              static_cast<double>(incoming->pause_ns()) / 1e6);
  guest.Tick();
  std::printf("new: count %lu\n", guest.count());
  return absl::OkStatus();
}

absl::Status RunOld(const char* path) {
  Counter guest;
  CPR_RETURN_IF_ERROR(guest.Start(5));
  while (guest.count() < 1000) guest.Tick();
  std::printf("old: count %lu\n", guest.count());
  CPR_ASSIGN_OR_RETURN(cpr::PacketSocket socket, cpr::PacketSocket::Connect(path));
  CPR_ASSIGN_OR_RETURN(auto outgoing, cpr::CreateTransferOutgoing({std::move(socket), nullptr, {}, nullptr}, &guest));
  CPR_RETURN_IF_ERROR(outgoing->Run());
  for (int i = 0; i < cpr::kPhaseCount; ++i) {
    std::printf("old: %-8s%10ld ns\n", std::string(cpr::PhaseName(static_cast<cpr::Phase>(i))).c_str(),
                outgoing->phase_times_ns()[static_cast<size_t>(i)]);
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_new = argc == 3 && std::strcmp(argv[1], "new") == 0;
  const bool is_old = argc == 3 && std::strcmp(argv[1], "old") == 0;
  if (!is_new && !is_old) {
    std::fprintf(stderr, "usage: handover new|old SOCKET\n");
    return 2;
  }
  const absl::Status status = is_new ? RunNew(argv[2]) : RunOld(argv[2]);
  if (!status.ok()) std::fprintf(stderr, "%s: %s\n", argv[1], status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
