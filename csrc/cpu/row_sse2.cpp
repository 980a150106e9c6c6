#include "vec_sse2.h"
// The rest is compiled against the vector type above.
#include "row.h"

namespace fastsample {
const Worker kSse2 = {
    "x86-64", {sse2::kWorkerOf<Dtype::kFloat32>, sse2::kWorkerOf<Dtype::kBfloat16>, sse2::kWorkerOf<Dtype::kFloat16>}};
}  // namespace fastsample
