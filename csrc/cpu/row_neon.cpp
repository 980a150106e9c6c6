#include "vec_neon.h"
// The rest is compiled against the vector type above.
#include "row.h"

namespace fastsample {
const Worker kNeon = {
    "neon", {neon::kWorkerOf<Dtype::kFloat32>, neon::kWorkerOf<Dtype::kBfloat16>, neon::kWorkerOf<Dtype::kFloat16>}};
}  // namespace fastsample
