/* RAM: what there is, the working set that is rewritten all the time, and pages touched once. */
#include "tests/guest/guest.h"

#define WORDS (PAGE_BYTES / 8)
#define POOL_GPA 0x300000ull /* page tables beyond the first 4 GiB */
#define POOL_END 0x400000ull

struct memmap_entry {
  uint64_t gpa, size;
  uint32_t type, reserved;
};

extern uint64_t start_info_gpa;
extern uint64_t directory_pointers[512];

static uint64_t* generations; /* of each page of the working set */
static uint64_t low_end, high_gpa, high_end;
static uint64_t touched_pages;

static const struct memmap_entry* Memmap(uint32_t* count) {
  const uint32_t* info = (const uint32_t*)start_info_gpa;
  *count = info[12];
  return (const struct memmap_entry*)*(const uint64_t*)&info[10];
}

static void MapGib(uint64_t gib) {
  static uint64_t pool = POOL_GPA;
  if (gib >= 512 || directory_pointers[gib] != 0 || pool >= POOL_END) return;
  uint64_t* directory = (uint64_t*)pool;
  for (uint64_t i = 0; i < 512; ++i) directory[i] = ((gib << 30) + (i << 21)) | 0x87;
  directory_pointers[gib] = pool | 7;
  pool += PAGE_BYTES;
}

/* The range that holds this program, and the one above the hole under 4 GiB. */
static void FindRam(void) {
  uint32_t count;
  const struct memmap_entry* map = Memmap(&count);
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t end = map[i].gpa + map[i].size;
    if (map[i].type != 1) continue;
    if (map[i].gpa <= CPR_GUEST_ABI_GPA && end > CPR_GUEST_ABI_GPA) low_end = end;
    if (map[i].gpa < 1ull << 32) continue;
    if (high_end == 0) high_gpa = map[i].gpa;
    high_end = end;
    for (uint64_t gib = map[i].gpa >> 30; gib < (end + (1ull << 30) - 1) >> 30; ++gib) MapGib(gib);
  }
  TrapCall(TRAP_INVALIDATE, 0, 0);
}

/* A page's words: its number, its generation, a stream seeded by both, and the sum of all before. */
static uint64_t Seed(uint64_t page, uint64_t generation) {
  return (page + 1) * 0x9e3779b97f4a7c15ull ^ generation << 20;
}

static void WritePage(uint64_t* words, uint64_t page, uint64_t generation) {
  uint64_t x = Seed(page, generation), sum = page + generation;
  words[0] = page;
  words[1] = generation;
  for (unsigned i = 2; i < WORDS - 1; ++i) {
    x = NextWord(x);
    words[i] = x;
    sum += x;
  }
  words[WORDS - 1] = sum;
}

/* The index of the first word that is not as WritePage left it, WORDS if all are. */
static unsigned WrongWord(const volatile uint64_t* words, uint64_t page, uint64_t generation, uint64_t* want) {
  uint64_t x = Seed(page, generation), sum = page + generation;
  *want = page;
  if (words[0] != page) return 0;
  *want = generation;
  if (words[1] != generation) return 1;
  for (unsigned i = 2; i < WORDS - 1; ++i) {
    x = NextWord(x);
    *want = x;
    if (words[i] != x) return i;
    sum += x;
  }
  *want = sum;
  return words[WORDS - 1] == sum ? WORDS : WORDS - 1;
}

bool CheckNextPage(struct percpu* p, bool rewrite) {
  if (p->next_page >= abi.ws_pages) {
    p->next_page = p->number;
    return true;
  }
  const uint64_t page = p->next_page, gpa = abi.ws_gpa + page * PAGE_BYTES;
  uint64_t want;
  const unsigned wrong = WrongWord((uint64_t*)gpa, page, generations[page], &want);
  if (wrong < WORDS) {
    Fail(CPR_GUEST_FAIL_WORKING_SET, "working set page %u word %u (gpa 0x%x): 0x%x, not 0x%x (generation %u)", page,
         (uint64_t)wrong, gpa + wrong * 8, ((volatile uint64_t*)gpa)[wrong], want, generations[page]);
  }
  if (rewrite || wrong < WORDS) {
    WritePage((uint64_t*)gpa, page, ++generations[page]);
    ++p->abi->pages_rewritten;
  }
  ++p->abi->checks;
  p->next_page += options.cpus;
  return p->next_page >= abi.ws_pages;
}

static uint64_t TouchedGpa(uint64_t index) {
  const uint64_t low_pages = (low_end - abi.touched_gpa) / PAGE_BYTES;
  return index < low_pages ? abi.touched_gpa + index * PAGE_BYTES : high_gpa + (index - low_pages) * PAGE_BYTES;
}

void CheckTouched(struct percpu* p) {
  if (touched_pages == 0) return;
  const uint64_t gpa = TouchedGpa(p->next_touched), value = *(volatile uint64_t*)gpa;
  if (value != ~gpa) Fail(CPR_GUEST_FAIL_TOUCHED, "touched page 0x%x: 0x%x, not 0x%x", gpa, value, ~gpa);
  p->next_touched = (p->next_touched + 1) % touched_pages;
  ++p->abi->checks;
}

static void Touch(uint64_t pages) {
  const uint64_t room = (low_end - abi.touched_gpa + high_end - high_gpa) / PAGE_BYTES;
  if (pages > room) {
    Fail(CPR_GUEST_FAIL_BOOT, "touch=%u MiB: RAM left is %u MiB", pages >> 8, room >> 8);
    pages = room;
  }
  for (uint64_t i = 0; i < pages; ++i) {
    const uint64_t gpa = TouchedGpa(i);
    *(volatile uint64_t*)gpa = ~gpa;
    Beat(This());
  }
  touched_pages = pages;
  abi.touched_bytes = pages * PAGE_BYTES;
}

void InitMemory(void) {
  FindRam();
  uint64_t pages = options.ws_bytes / PAGE_BYTES;
  const uint64_t table = (pages * 8 + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1), room = low_end - POOL_END;
  if (low_end < POOL_END || table + pages * PAGE_BYTES > room) {
    Fail(CPR_GUEST_FAIL_BOOT, "ws=%u MiB: RAM left is %u MiB", pages >> 8, low_end < POOL_END ? 0 : room >> 20);
    pages = 0;
  }
  generations = (uint64_t*)POOL_END;
  abi.ws_gpa = POOL_END + table;
  abi.touched_gpa = abi.ws_gpa + pages * PAGE_BYTES;
  for (uint64_t page = 0; page < pages; ++page) {
    generations[page] = 1;
    WritePage((uint64_t*)(abi.ws_gpa + page * PAGE_BYTES), page, 1);
    Beat(This());
  }
  abi.ws_pages = pages;
  if (pages != 0 || options.ws_bytes == 0) Touch(options.touch_bytes / PAGE_BYTES);
}
