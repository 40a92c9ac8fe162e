#include "vmm/acpi/aml.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace cpr::aml {
namespace {

std::string Bytes(uint64_t value, unsigned size_bytes) {
  std::string bytes;
  for (unsigned i = 0; i < size_bytes; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

std::string Byte(unsigned value) { return Bytes(value, 1); }

// The length of `rest` and of itself: one byte up to 63, else a nibble and one to three bytes more.
std::string WithLength(absl::string_view rest) {
  if (rest.size() + 1 < 0x40) return absl::StrCat(Byte(static_cast<unsigned>(rest.size()) + 1), rest);
  unsigned more = 1;
  while ((rest.size() + 1 + more) >> (4 + 8 * more) != 0) ++more;
  const uint64_t length = rest.size() + 1 + more;
  return absl::StrCat(Byte(static_cast<unsigned>(more << 6 | (length & 0xf))), Bytes(length >> 4, more), rest);
}

std::string NameString(absl::string_view name) {
  std::string bytes;
  if (absl::ConsumePrefix(&name, "\\")) bytes.push_back('\\');
  const std::vector<absl::string_view> segments = absl::StrSplit(name, '.');
  if (segments.size() == 2) bytes += '\x2e';
  if (segments.size() > 2) absl::StrAppend(&bytes, "\x2f", Byte(static_cast<unsigned>(segments.size())));
  for (const absl::string_view segment : segments) {
    absl::StrAppend(&bytes, segment, std::string(4 - segment.size(), '_'));
  }
  return bytes;
}

enum Space : unsigned { kMemory = 0, kIo = 1, kBus = 2 };
constexpr unsigned kBoundsFixed = 0x0c;

// Word, dword and qword address space descriptors are alike but for the size of their five numbers.
std::string Window(Space space, unsigned number_bytes, uint64_t first, uint64_t last) {
  const unsigned tag = number_bytes == 2 ? 0x88 : number_bytes == 4 ? 0x87 : 0x8a;
  const unsigned type_flags = space == kMemory ? 1 /* writable */ : space == kIo ? 3 /* ISA and other ranges */ : 0;
  std::string bytes =
      absl::StrCat(Byte(tag), Bytes(3 + 5 * number_bytes, 2), Byte(space), Byte(kBoundsFixed), Byte(type_flags));
  for (const uint64_t number : {uint64_t{0}, first, last, uint64_t{0}, last - first + 1}) {
    bytes += Bytes(number, number_bytes);
  }
  return bytes;
}

}  // namespace

std::string Integer(uint64_t value) {
  if (value <= 1) return Byte(static_cast<unsigned>(value));
  if (value <= 0xff) return absl::StrCat("\x0a", Bytes(value, 1));
  if (value <= 0xffff) return absl::StrCat("\x0b", Bytes(value, 2));
  if (value <= 0xffffffff) return absl::StrCat("\x0c", Bytes(value, 4));
  return absl::StrCat("\x0e", Bytes(value, 8));
}

std::string String(absl::string_view text) { return absl::StrCat("\x0d", text, Byte(0)); }

std::string EisaId(absl::string_view id) {
  unsigned number = 0;
  for (unsigned i = 0; i < 3; ++i) number = number << 5 | (static_cast<unsigned>(id[i]) - 0x40);
  for (unsigned i = 3; i < 7; ++i) {
    const char digit = id[i];
    number =
        number << 4 | static_cast<unsigned>(absl::ascii_isdigit(static_cast<unsigned char>(digit))
                                                ? digit - '0'
                                                : absl::ascii_toupper(static_cast<unsigned char>(digit)) - 'A' + 10);
  }
  // 32 bits, most significant byte first.
  return absl::StrCat("\x0c", Byte(number >> 24), Byte(number >> 16 & 0xff), Byte(number >> 8 & 0xff),
                      Byte(number & 0xff));
}

std::string Buffer(absl::string_view bytes) {
  return absl::StrCat("\x11", WithLength(absl::StrCat(Integer(bytes.size()), bytes)));
}

std::string Package(absl::string_view elements, uint8_t count) {
  return absl::StrCat("\x12", WithLength(absl::StrCat(Byte(count), elements)));
}

std::string Package(std::initializer_list<std::string> elements) {
  std::string bytes;
  for (const std::string& element : elements) bytes += element;
  return Package(bytes, static_cast<uint8_t>(elements.size()));
}

std::string Name(absl::string_view name, absl::string_view object) {
  return absl::StrCat("\x08", NameString(name), object);
}

std::string Scope(absl::string_view name, absl::string_view body) {
  return absl::StrCat("\x10", WithLength(absl::StrCat(NameString(name), body)));
}

std::string Device(absl::string_view name, absl::string_view body) {
  return absl::StrCat("\x5b\x82", WithLength(absl::StrCat(NameString(name), body)));
}

std::string Resources(std::initializer_list<std::string> descriptors) {
  std::string bytes;
  for (const std::string& descriptor : descriptors) bytes += descriptor;
  return Buffer(absl::StrCat(bytes, Byte(0x79), Byte(0)));  // a checksum of 0 is not looked at
}

std::string Io(uint16_t base, uint8_t size) {
  return absl::StrCat(Byte(0x47), Byte(1), Bytes(base, 2), Bytes(base, 2), Byte(1), Byte(size));
}

std::string Irq(unsigned number) { return absl::StrCat(Byte(0x22), Bytes(uint64_t{1} << number, 2)); }

std::string Memory32(uint32_t base, uint32_t size_bytes) {
  return absl::StrCat(Byte(0x86), Bytes(9, 2), Byte(1), Bytes(base, 4), Bytes(size_bytes, 4));
}

std::string BusWindow(uint16_t first, uint16_t last) { return Window(kBus, 2, first, last); }
std::string IoWindow(uint16_t first, uint16_t last) { return Window(kIo, 2, first, last); }
std::string MemoryWindow32(uint32_t first, uint32_t last) { return Window(kMemory, 4, first, last); }
std::string MemoryWindow64(uint64_t first, uint64_t last) { return Window(kMemory, 8, first, last); }

}  // namespace cpr::aml
