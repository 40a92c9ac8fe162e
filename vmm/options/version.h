#ifndef VMM_OPTIONS_VERSION_H_
#define VMM_OPTIONS_VERSION_H_

namespace cpr {

// This program's own version, and the release of QEMU whose command line and monitors it speaks: QMP clients look at
// the latter to know what they may ask.
inline constexpr char kVersion[] = "0.1.0";
inline constexpr int kQemuMajor = 11;
inline constexpr int kQemuMinor = 1;
inline constexpr int kQemuMicro = 0;

}  // namespace cpr

#endif  // VMM_OPTIONS_VERSION_H_
