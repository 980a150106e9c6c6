#include "vec_avx2.h"
// The rest is compiled against the vector type above.
#include "row.h"

namespace fastsample {
const Worker kAvx2 = {
    "avx2", {avx2::kWorkerOf<Dtype::kFloat32>, avx2::kWorkerOf<Dtype::kBfloat16>, avx2::kWorkerOf<Dtype::kFloat16>}};
}  // namespace fastsample
