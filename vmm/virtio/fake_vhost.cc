#include "vmm/virtio/fake_vhost.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "vmm/virtio/vhost_abi.h"

namespace cpr::testing {
namespace {

constexpr int kNobody = 0;

constexpr VhostRequest kOfQueues[] = {kVhostSetRingSize, kVhostSetRingAddresses, kVhostSetRingBase,  kVhostGetRingBase,
                                      kVhostSetRingKick, kVhostSetRingCall,      kVhostNetSetBackend};
constexpr VhostRequest kOthers[] = {kVhostGetFeatures, kVhostSetFeatures, kVhostSetOwner, kVhostResetOwner,
                                    kVhostSetMemory};

// The first member of what all of these requests take.
uint32_t IndexIn(const void* argument) { return static_cast<const VhostRingState*>(argument)->index; }

std::string NameOf(unsigned long request, const void* argument) {
  for (const VhostRequest& known : kOthers) {
    if (known.number == request) return known.name;
  }
  for (const VhostRequest& known : kOfQueues) {
    if (known.number == request) return absl::StrCat("queue ", IndexIn(argument), ": ", known.name);
  }
  return "unknown";
}

std::vector<FakeVhost::Region> RegionsIn(const void* argument) {
  VhostMemory header;
  std::memcpy(&header, argument, sizeof(header));
  std::vector<FakeVhost::Region> regions;
  for (uint32_t i = 0; i < header.regions; ++i) {
    VhostMemoryRegion region;
    std::memcpy(&region, static_cast<const char*>(argument) + sizeof(header) + i * sizeof(region), sizeof(region));
    regions.push_back({region.gpa, region.size_bytes, region.hva});
  }
  return regions;
}

}  // namespace

IoctlFunction FakeVhost::As(int process) {
  return [this, process](int, unsigned long request, void* argument) {
    MutexLock lock(&mutex_);
    const int error = Call(process, request, argument);
    if (error == 0) return 0;
    errno = error;
    return -1;
  };
}

void FakeVhost::FailOne(size_t after, int error) {
  fail_after_ = after;
  error_ = error;
}

int FakeVhost::Call(int process, unsigned long request, void* argument) {
  calls.push_back(NameOf(request, argument));
  if (fail_after_ == size_t{0}) {
    fail_after_.reset();
    return error_;
  }
  if (fail_after_.has_value()) --*fail_after_;
  return Answer(process, request, argument);
}

int FakeVhost::Answer(int process, unsigned long request, void* argument) {
  if (request == kVhostGetFeatures.number) {
    std::memcpy(argument, &offered_features, sizeof(offered_features));
    return 0;
  }
  if (request == kVhostSetFeatures.number) {
    std::memcpy(&features, argument, sizeof(features));
    return (features & ~offered_features) == 0 ? 0 : EOPNOTSUPP;
  }
  if (request == kVhostSetOwner.number) {
    if (owner != kNobody) return EBUSY;
    owner = process;
    return 0;
  }
  if (owner != process) return EPERM;
  if (request == kVhostResetOwner.number) {
    owner = kNobody;
    features = 0;
    memory.clear();
    queues.assign(queues.size(), {});
    return 0;
  }
  if (request == kVhostSetMemory.number) {
    memory = RegionsIn(argument);
    return 0;
  }
  return IndexIn(argument) < queues.size() ? AnswerQueue(request, argument) : ENOBUFS;
}

int FakeVhost::AnswerQueue(unsigned long request, void* argument) {
  Queue& queue = queues[IndexIn(argument)];
  const bool at_work = queue.backend_fd != -1;
  auto* const state = static_cast<VhostRingState*>(argument);
  const int fd = static_cast<const VhostRingFile*>(argument)->fd;
  switch (request) {
    case kVhostSetRingSize.number:
      if (at_work) return EBUSY;
      queue.size = state->value;
      return 0;
    case kVhostSetRingBase.number:
      if (at_work) return EBUSY;
      queue.next_available = state->value;
      return 0;
    case kVhostGetRingBase.number:
      state->value = queue.next_available;
      return 0;
    case kVhostSetRingAddresses.number: {
      const auto* const address = static_cast<const VhostRingAddresses*>(argument);
      queue.descriptors = address->descriptors_hva;
      queue.available = address->available_hva;
      queue.used = address->used_hva;
      return 0;
    }
    case kVhostSetRingKick.number:
      queue.kick_fd = fd;
      return 0;
    case kVhostSetRingCall.number:
      queue.call_fd = fd;
      return 0;
    default:
      // VHOST_NET_SET_BACKEND, for which the rings have to be there.
      if (memory.empty() || queue.descriptors == 0) return EFAULT;
      queue.backend_fd = fd;
      return 0;
  }
}

}  // namespace cpr::testing
