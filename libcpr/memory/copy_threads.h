#ifndef LIBCPR_MEMORY_COPY_THREADS_H_
#define LIBCPR_MEMORY_COPY_THREADS_H_

#include <pthread.h>

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libcpr/base/mutex.h"
#include "libcpr/base/unique_fd.h"

namespace cpr {

// How many threads copy if nobody says: one for each CPU that the caller may run on, at most 8, which is more than any
// disk needs.
unsigned DefaultCopyThreads();

// Some threads that share one piece of work and end with it; they take no signals. What they do is seen by whoever has
// got the end of it from Advance or Finish. Thread-compatible; `step` must be thread-safe.
class CopyThreads {
 public:
  // One step of the work, some milliseconds long: true if there was one to do, false if none is left.
  using Step = std::function<absl::StatusOr<bool>()>;

  // Starts `count` threads (at least one), or as many of them as there can be. Each calls `step` until nothing is left,
  // or a step has failed. Errors carry errno.
  static absl::StatusOr<std::unique_ptr<CopyThreads>> Start(unsigned count, Step step);
  // Waits for the steps that are being done; the rest is left undone.
  ~CopyThreads();
  CopyThreads(const CopyThreads&) = delete;
  CopyThreads& operator=(const CopyThreads&) = delete;

  // Readable when steps have been done that Advance has not been called after. Lent.
  int fd() const { return event_.get(); }

  // Without waiting: true when all is done, with every thread ended; false when not yet. Error: the first one of all
  // steps, once every thread has ended.
  absl::StatusOr<bool> Advance();
  // The same, waiting.
  absl::Status Finish();

 private:
  CopyThreads(Step step, UniqueFd event) : step_(std::move(step)), event_(std::move(event)) {}
  void Work();
  void Fail(const absl::Status& why);
  void Leave(unsigned threads);
  void Notify() const;
  void Join();

  const Step step_;
  const UniqueFd event_;
  std::vector<pthread_t> threads_;
  std::atomic<unsigned> running_{0};
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // the first error
};

}  // namespace cpr

#endif  // LIBCPR_MEMORY_COPY_THREADS_H_
