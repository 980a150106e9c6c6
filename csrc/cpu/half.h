// float16 to float32 without an instruction for it, exact: subnormals, infinities and NaNs included.
#pragma once

#include <cstdint>
#include <cstring>

namespace fastsample {

static inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  uint32_t u;
  float value;
  if (magnitude >= 0x7c00u) {  // infinity, NaN
    u = sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
  } else if (magnitude >= 0x0400u) {
    u = sign | ((magnitude << 13) + (112u << 23));
  } else {  // zero and subnormals: magnitude * 2^-24 is exact
    value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  memcpy(&value, &u, sizeof value);
  return value;
}

}  // namespace fastsample
