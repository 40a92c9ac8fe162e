/* Strings: formatting and the command line. */
#include "tests/guest/guest.h"

void* memcpy(void* to, const void* from, size_t size) {
  void* start = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
  return start;
}

void* memset(void* to, int value, size_t size) {
  void* start = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return start;
}

int memcmp(const void* a, const void* b, size_t size) {
  const uint8_t *x = a, *y = b;
  for (size_t i = 0; i < size; ++i) {
    if (x[i] != y[i]) return x[i] - y[i];
  }
  return 0;
}

struct sink {
  char* out;
  size_t size, used;
};

static void PutChar(struct sink* s, char c) {
  if (s->used + 1 < s->size) s->out[s->used++] = c;
}

static void PutNumber(struct sink* s, uint64_t value, unsigned base) {
  char digits[24];
  unsigned n = 0;
  do {
    digits[n++] = "0123456789abcdef"[value % base];
    value /= base;
  } while (value != 0);
  while (n > 0) PutChar(s, digits[--n]);
}

static void PutArgument(struct sink* s, char kind, va_list* args) {
  if (kind == 's') {
    for (const char* c = va_arg(*args, const char*); *c != '\0'; ++c) PutChar(s, *c);
    return;
  }
  uint64_t value = va_arg(*args, uint64_t);
  if (kind == 'd' && (int64_t)value < 0) {
    PutChar(s, '-');
    value = -value;
  }
  PutNumber(s, value, kind == 'x' ? 16 : 10);
}

size_t FormatV(char* out, size_t size, const char* format, va_list args) {
  struct sink s = {out, size, 0};
  va_list copy;
  va_copy(copy, args);
  for (; *format != '\0'; ++format) {
    if (*format == '%') {
      PutArgument(&s, *++format, &copy);
    } else {
      PutChar(&s, *format);
    }
  }
  va_end(copy);
  out[s.used] = '\0';
  return s.used;
}

size_t Format(char* out, size_t size, const char* format, ...) {
  va_list args;
  va_start(args, format);
  const size_t used = FormatV(out, size, format, args);
  va_end(args);
  return used;
}

/* The text after `key` if the word at `word` begins with it, else NULL. */
static const char* After(const char* word, const char* key) {
  while (*key != '\0') {
    if (*word++ != *key++) return NULL;
  }
  return word;
}

static bool TakeNumber(const char* word, const char* key, uint64_t* value) {
  const char* digits = After(word, key);
  if (digits == NULL || *digits < '0' || *digits > '9') return false;
  for (*value = 0; *digits >= '0' && *digits <= '9'; ++digits) *value = *value * 10 + (*digits - '0');
  return true;
}

static void TakeWord(const char* word) {
  static const char* const kTimers[] = {"timer=periodic", "timer=deadline", "timer=oneshot", "timer=mix"};
  uint64_t value = 0;
  if (TakeNumber(word, "cpus=", &value)) options.cpus = value < 1 ? 1 : value > 64 ? 64 : value;
  if (TakeNumber(word, "ws=", &value)) options.ws_bytes = value << 20;
  if (TakeNumber(word, "touch=", &value)) options.touch_bytes = value << 20;
  if (TakeNumber(word, "hz=", &value)) options.hz = value < 10 ? 10 : value > 5000 ? 5000 : value;
  if (TakeNumber(word, "gap=", &value)) options.gap_us = value;
  if (TakeNumber(word, "clktol=", &value)) options.clock_tolerance_us = value;
  for (unsigned i = 0; i < 4; ++i) {
    if (After(word, kTimers[i]) != NULL) options.timer = i;
  }
  if (After(word, "quiet") != NULL) options.quiet = true;
  if (After(word, "irq4") != NULL) options.irq4 = true;
  if (After(word, "edu=") != NULL) {
    options.edu = true;
    options.edu_msi = After(word, "edu=msi") != NULL;
    options.edu_pin = TakeNumber(word, "edu=", &value) ? value : ~0ull;
  }
  if (After(word, "withhold=") != NULL) {
    options.withhold = true;
    options.withhold_msix = After(word, "withhold=msix") != NULL;
    options.withhold_pin = TakeNumber(word, "withhold=", &value) ? value : ~0ull;
  }
  if (After(word, "idle") != NULL) options.idle_aps = true;
}

void ParseCommandLine(const char* line) {
  for (bool begins = true; *line != '\0'; ++line) {
    if (begins) TakeWord(line);
    begins = *line == ' ';
  }
}
