/* x87, SSE, AVX and AVX-512: the rest of the guest is built without them, so they hold what is loaded here. */
#include "tests/guest/guest.h"

extern void LoadX87(const uint8_t (*st)[16], const uint16_t* fcw, const uint32_t* mxcsr);
extern void SaveFx(void* area);
extern void LoadXmm(const void*from), SaveXmm(void*to);
extern void LoadYmm(const void*from), SaveYmm(void*to);
extern void LoadZmm(const void*from), SaveZmm(void*to);
extern void LoadMasks(const void*from), SaveMasks(void*to);

#define CHECKS_PER_GENERATION 256

/* Word `word` of register `n` in this generation. */
static uint64_t Pattern(const struct percpu* p, unsigned n, unsigned word) {
  const uint64_t x = (p->generation << 16 | p->number << 10 | n << 4 | word) * 0x9e3779b97f4a7c15ull;
  return x ^ x >> 29;
}

static unsigned WordsPerRegister(void) {
  return abi.features & CPR_GUEST_HAS_AVX512 ? 8 : abi.features & CPR_GUEST_HAS_AVX ? 4 : 2;
}

static unsigned RegisterCount(void) { return abi.features & CPR_GUEST_HAS_AVX512 ? 32 : 16; }

/* The k-th mask register's value. */
static uint16_t Mask(const struct percpu* p, unsigned k) { return Pattern(p, 40 + k, 0); }

static void LoadWide(struct percpu* p) {
  uint64_t* words = &p->vector[0][0];
  const unsigned width = WordsPerRegister();
  for (unsigned n = 0; n < RegisterCount(); ++n) {
    for (unsigned w = 0; w < width; ++w) words[n * width + w] = Pattern(p, n, w);
  }
  if (width == 8) LoadZmm(words);
  if (width == 4) LoadYmm(words);
  if (width == 2) LoadXmm(words);
  for (unsigned k = 1; k < 8; ++k) p->masks[k] = Mask(p, k);
  if (width == 8) LoadMasks(p->masks);
}

/* An 80-bit number with an exponent that no loading changes. */
static void X87Pattern(const struct percpu* p, unsigned n, uint8_t bytes[16]) {
  const uint64_t mantissa = Pattern(p, 48 + n, 0) | 1ull << 63;
  const uint16_t exponent = 0x3fff + n;
  memset(bytes, 0, 16);
  memcpy(bytes, &mantissa, 8);
  memcpy(bytes + 8, &exponent, 2);
}

void LoadVectors(struct percpu* p) {
  ++p->generation;
  for (unsigned n = 0; n < 8; ++n) X87Pattern(p, n, p->st[n]);
  p->fcw = p->generation & 1 ? 0x027f : 0x0b7f;   /* precision and rounding */
  p->mxcsr = p->generation & 1 ? 0x7f80 : 0x3f80; /* rounding; all exceptions masked */
  LoadX87(p->st, &p->fcw, &p->mxcsr);
  LoadWide(p);
}

static void CheckX87(struct percpu* p) {
  SaveFx(p->fx);
  uint16_t fcw;
  uint32_t mxcsr;
  memcpy(&fcw, p->fx, 2);
  memcpy(&mxcsr, p->fx + 24, 4);
  if (fcw != p->fcw) Fail(CPR_GUEST_FAIL_VECTOR, "FCW: 0x%x, not 0x%x", (uint64_t)fcw, (uint64_t)p->fcw);
  if (mxcsr != p->mxcsr) Fail(CPR_GUEST_FAIL_VECTOR, "MXCSR: 0x%x, not 0x%x", (uint64_t)mxcsr, (uint64_t)p->mxcsr);
  for (unsigned n = 0; n < 8; ++n) {
    uint64_t is, want;
    memcpy(&is, p->fx + 32 + 16 * n, 8);
    memcpy(&want, p->st[n], 8);
    if (is != want || memcmp(p->fx + 40 + 16 * n, p->st[n] + 8, 2) != 0)
      Fail(CPR_GUEST_FAIL_VECTOR, "st%u: mantissa 0x%x, not 0x%x", (uint64_t)n, is, want);
  }
}

static void CheckMasks(struct percpu* p) {
  SaveMasks(p->masks);
  for (unsigned k = 1; k < 8; ++k) {
    if (p->masks[k] != Mask(p, k))
      Fail(CPR_GUEST_FAIL_VECTOR, "k%u: 0x%x, not 0x%x", (uint64_t)k, (uint64_t)p->masks[k], (uint64_t)Mask(p, k));
  }
}

static void CheckWide(struct percpu* p) {
  static const char* const kNames[] = {"xmm", "ymm", "", "zmm"};
  uint64_t* words = &p->vector[0][0];
  const unsigned width = WordsPerRegister();
  if (width == 8) SaveZmm(words);
  if (width == 4) SaveYmm(words);
  if (width == 2) SaveXmm(words);
  for (unsigned n = 0; n < RegisterCount(); ++n) {
    for (unsigned w = 0; w < width; ++w) {
      const uint64_t is = words[n * width + w], want = Pattern(p, n, w);
      if (is != want)
        Fail(CPR_GUEST_FAIL_VECTOR, "%s%u word %u: 0x%x, not 0x%x", kNames[width / 2 - 1], (uint64_t)n, (uint64_t)w, is,
             want);
    }
  }
  if (width == 8) CheckMasks(p);
}

void CheckVectors(struct percpu* p) {
  const uint64_t failures = abi.fail_count;
  CheckX87(p);
  CheckWide(p);
  if (++p->abi->checks % CHECKS_PER_GENERATION == 0 || abi.fail_count != failures) LoadVectors(p);
}
