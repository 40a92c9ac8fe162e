#ifndef TESTS_FUZZ_FUZZ_H_
#define TESTS_FUZZ_FUZZ_H_

#include <cstdio>
#include <cstdlib>

#include "absl/strings/string_view.h"

// One input. Defined by each *_fuzz.cc; must come back for any bytes whatsoever, and aborts where a promise is broken.
void FuzzOne(absl::string_view input);

// A promise that holds for every input.
#define FUZZ_CHECK(condition)                                                              \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      std::fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                        \
    }                                                                                      \
  } while (0)

#endif  // TESTS_FUZZ_FUZZ_H_
