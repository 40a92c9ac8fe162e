#include "libcpr/memory/copy_threads.h"

#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libcpr/base/status_util.h"

namespace cpr {
namespace {

constexpr unsigned kMaxThreads = 8;

// What the process is sent is for the threads that were there before. A fault of a thread's own has to reach it.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) sigdelset(&all, own);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

unsigned DefaultCopyThreads() {
  cpu_set_t cpus;
  if (::sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return kMaxThreads;  // more CPUs than the set has room for
  return std::clamp(static_cast<unsigned>(CPU_COUNT(&cpus)), 1u, kMaxThreads);
}

absl::StatusOr<std::unique_ptr<CopyThreads>> CopyThreads::Start(unsigned count, Step step) {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.ok()) return ErrnoStatus(errno, "eventfd");
  auto threads = std::unique_ptr<CopyThreads>(new CopyThreads(std::move(step), std::move(event)));
  const SignalsBlocked blocked;
  threads->running_ = count;
  const auto main = [](void* self) -> void* {
    static_cast<CopyThreads*>(self)->Work();
    return nullptr;
  };
  for (unsigned i = 0; i < count; ++i) {
    pthread_t thread;
    const int err = ::pthread_create(&thread, nullptr, main, threads.get());
    if (err != 0 && i == 0) return ErrnoStatus(err, "a thread that copies RAM");
    if (err != 0) {
      threads->Leave(count - i);
      break;
    }
    ::pthread_setname_np(thread, absl::StrCat("cpr-copy-", i).c_str());
    threads->threads_.push_back(thread);
  }
  return threads;
}

CopyThreads::~CopyThreads() {
  stop_ = true;
  Join();
}

void CopyThreads::Work() {
  while (!stop_) {
    const absl::StatusOr<bool> more = step_();
    if (!more.ok()) Fail(more.status());
    if (!more.ok() || !*more) break;
    Notify();
  }
  Leave(1);
}

void CopyThreads::Fail(const absl::Status& why) {
  stop_ = true;
  MutexLock lock(&mutex_);
  if (status_.ok()) status_ = why;
}

void CopyThreads::Leave(unsigned threads) {
  if (running_.fetch_sub(threads) == threads) Notify();
}

void CopyThreads::Notify() const {
  const uint64_t one = 1;
  // It cannot fail but when it is readable already.
  if (::write(event_.get(), &one, sizeof(one)) < 0) return;
}

void CopyThreads::Join() {
  for (const pthread_t thread : threads_) ::pthread_join(thread, nullptr);
  threads_.clear();
}

absl::StatusOr<bool> CopyThreads::Advance() {
  uint64_t steps = 0;
  if (running_ != 0) {
    if (::read(event_.get(), &steps, sizeof(steps)) < 0 && errno != EAGAIN) return ErrnoStatus(errno, "eventfd");
    if (running_ != 0) return false;
  }
  const absl::Status status = Finish();
  if (!status.ok()) return status;
  return true;
}

absl::Status CopyThreads::Finish() {
  Join();
  MutexLock lock(&mutex_);
  return status_;
}

}  // namespace cpr
