#include "vmm/devices/bus.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace cpr {
namespace {

uint64_t Ones(unsigned size_bytes) { return size_bytes >= 8 ? ~uint64_t{0} : (uint64_t{1} << 8 * size_bytes) - 1; }

}  // namespace

absl::Status Bus::Add(absl::string_view name, uint64_t address, uint64_t size_bytes, unsigned max_access_bytes,
                      BusHandler handler) {
  const uint64_t last = address + size_bytes - 1;
  if (size_bytes == 0 || last < address) {
    return absl::InvalidArgumentError(absl::StrFormat("range of %s at %#x: size %#x", name, address, size_bytes));
  }
  auto range =
      std::make_shared<const Range>(Range{std::string(name), address, last, max_access_bytes, std::move(handler)});
  WriterLock lock(&mutex_);
  const auto after = ranges_.upper_bound(last);
  if (after != ranges_.begin() && std::prev(after)->second->last >= address) {
    return absl::AlreadyExistsError(
        absl::StrFormat("range of %s at %#x overlaps %s", name, address, std::prev(after)->second->name));
  }
  ranges_.emplace(address, std::move(range));
  return absl::OkStatus();
}

absl::Status Bus::Remove(uint64_t address) {
  WriterLock lock(&mutex_);
  if (ranges_.erase(address) == 0) return absl::NotFoundError(absl::StrFormat("no range starts at %#x", address));
  return absl::OkStatus();
}

std::shared_ptr<const Bus::Range> Bus::Find(uint64_t address) const {
  ReaderLock lock(&mutex_);
  const auto after = ranges_.upper_bound(address);
  if (after == ranges_.begin() || std::prev(after)->second->last < address) return nullptr;
  return std::prev(after)->second;
}

unsigned Bus::Piece(const Range* range, uint64_t address, unsigned size_bytes) {
  if (range == nullptr) return 1;
  const uint64_t room = range->last - address;  // bytes beyond the first
  const unsigned fits = static_cast<unsigned>(std::min<uint64_t>(room, size_bytes - 1)) + 1;
  return std::bit_floor(std::min(fits, range->max_access_bytes));
}

uint64_t Bus::Read(uint64_t address, unsigned size_bytes) {
  uint64_t value = 0;
  for (unsigned done = 0; done < size_bytes;) {
    const std::shared_ptr<const Range> range = Find(address + done);
    const unsigned piece = Piece(range.get(), address + done, size_bytes - done);
    const uint64_t part = range ? range->handler.read(address + done - range->address, piece) : Ones(1);
    value |= (part & Ones(piece)) << (8 * done);
    done += piece;
  }
  return value;
}

void Bus::Write(uint64_t address, unsigned size_bytes, uint64_t value) {
  for (unsigned done = 0; done < size_bytes;) {
    const std::shared_ptr<const Range> range = Find(address + done);
    const unsigned piece = Piece(range.get(), address + done, size_bytes - done);
    if (range) range->handler.write(address + done - range->address, piece, (value >> (8 * done)) & Ones(piece));
    done += piece;
  }
}

}  // namespace cpr
