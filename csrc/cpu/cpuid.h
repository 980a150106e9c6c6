// Which level of x86-64 a processor and its operating system have, from the words of CPUID and XGETBV.
//
// A file compiled with -march=x86-64-v3 may use anything of that level anywhere, so all of it must be there:
// hypervisors and emulators do offer AVX2 without F16C or BMI.
#pragma once

#if defined(__x86_64__)

#include <cpuid.h>

#include <cstdint>
#include <initializer_list>

namespace fastsample {

struct Cpuid {
  uint32_t leaf_1_ecx, leaf_7_ebx, extended_ecx;
  uint64_t saved;  // XCR0: the registers that the operating system saves
};

constexpr uint32_t bits_at(std::initializer_list<int> places) {
  uint32_t bits = 0;
  for (const int place : places) bits |= 1u << place;
  return bits;
}

// 4, 3 or 1 (v2 has no code of its own here).
inline int x86_64_level(const Cpuid& has) {
  const auto all = [](uint64_t found, uint64_t wanted) { return (found & wanted) == wanted; };
  // SSE3, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LAHF, LZCNT
  const bool has_v3 = all(has.leaf_1_ecx, bits_at({0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29})) &&
                      all(has.leaf_7_ebx, bits_at({3, 5, 8})) && all(has.extended_ecx, bits_at({0, 5})) &&
                      all(has.saved, bits_at({1, 2}));  // the xmm and ymm registers
  // AVX-512 F, DQ, CD, BW, VL; the mask registers, the upper halves of zmm, zmm 16 to 31
  const bool has_v4 =
      has_v3 && all(has.leaf_7_ebx, bits_at({16, 17, 28, 30, 31})) && all(has.saved, bits_at({5, 6, 7}));
  return has_v4 ? 4 : has_v3 ? 3 : 1;
}

inline Cpuid this_processor() {
  Cpuid has = {};
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) has.leaf_1_ecx = c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) has.leaf_7_ebx = b;
  if (__get_cpuid(0x80000001u, &a, &b, &c, &d)) has.extended_ecx = c;
  if (has.leaf_1_ecx & bits_at({27})) {  // XGETBV is there
    uint32_t low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    has.saved = low | static_cast<uint64_t>(high) << 32;
  }
  return has;
}

}  // namespace fastsample

#endif
