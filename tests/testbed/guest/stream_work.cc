#include "tests/testbed/guest/stream_work.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "tests/testbed/guest/finding.h"

namespace cpr {
namespace {

using Chunk = std::array<uint64_t, 2048>;

// Connected, or -1 and told.
int Connect(const std::string& address, uint16_t port) {
  sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && ::inet_pton(AF_INET, address.c_str(), &server.sin_addr) == 1 &&
      ::connect(fd, reinterpret_cast<const sockaddr*>(&server), sizeof(server)) == 0) {
    return fd;
  }
  Bad("stream: " + address + ": " + std::strerror(errno));
  return -1;
}

// Moves all of `bytes` by `move` (::send or ::recv); false and told if the connection is at its end.
template <typename Byte, typename Move>
bool MoveAll(int fd, Byte* bytes, size_t size_bytes, Move move, const char* what) {
  while (size_bytes > 0) {
    const ssize_t moved = move(fd, bytes, size_bytes, MSG_NOSIGNAL);
    if (moved <= 0) {
      Bad(std::string("stream: ") + what + ": " + (moved == 0 ? "the other side has closed" : std::strerror(errno)));
      return false;
    }
    bytes += moved;
    size_bytes -= static_cast<size_t>(moved);
  }
  return true;
}

void Send(int fd) {
  // 16 MB/s at most, so that an emulated host has time for more than this.
  constexpr useconds_t kRest = 1000;
  Chunk chunk;
  for (uint64_t next = 0;; ::usleep(kRest)) {
    for (uint64_t& word : chunk) word = next++;
    if (!MoveAll(fd, reinterpret_cast<const char*>(chunk.data()), sizeof(chunk), ::send, "send")) return;
  }
}

}  // namespace

StreamWork::StreamWork(const std::string& address, uint16_t port) {
  const int fd = Connect(address, port);
  if (fd < 0) return;
  std::thread(Send, fd).detach();
  std::thread([this, fd] { Receive(fd); }).detach();
}

void StreamWork::Receive(int fd) {
  Chunk chunk;
  for (uint64_t expected = 0;;) {
    if (!MoveAll(fd, reinterpret_cast<char*>(chunk.data()), sizeof(chunk), ::recv, "receive")) return;
    for (const uint64_t word : chunk) {
      if (word != expected) return Bad("stream: word " + std::to_string(word) + ", not " + std::to_string(expected));
      ++expected;
    }
    words_ = expected;
  }
}

}  // namespace cpr
