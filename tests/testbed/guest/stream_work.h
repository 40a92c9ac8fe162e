#ifndef TESTS_TESTBED_GUEST_STREAM_WORK_H_
#define TESTS_TESTBED_GUEST_STREAM_WORK_H_

#include <atomic>
#include <cstdint>
#include <string>

namespace cpr {

// Sends numbered words by one TCP connection to a server that sends back what it gets, and compares what comes: a
// connection that breaks, and bytes that are lost, doubled or altered, are found (finding.h). Runs until the process
// ends.
class StreamWork {
 public:
  // `address`: IPv4, in dots.
  StreamWork(const std::string& address, uint16_t port);

  // Words that came back so far. Thread-safe.
  uint64_t words() const { return words_; }

 private:
  void Receive(int fd);

  std::atomic<uint64_t> words_{0};
};

}  // namespace cpr

#endif  // TESTS_TESTBED_GUEST_STREAM_WORK_H_
