"""Builds the C++ extension: one row worker per instruction set, chosen when the module loads. Needs no torch."""

import glob
import os
import platform
import shutil
import subprocess
import sysconfig

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

BACKENDS = "fastsample.sampling.backends"  # the extensions lie beside the modules that call them
X86 = platform.machine().lower() in ("x86_64", "amd64")
# -ffp-contract=off: the contract says where a multiply-add is fused, the compiler must not.
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
INSTRUCTION_SETS = (
    {
        "csrc/cpu/row_avx512.cpp": ["-march=x86-64-v4", "-mprefer-vector-width=512", "-Wno-maybe-uninitialized"],
        "csrc/cpu/row_avx2.cpp": ["-march=x86-64-v3"],
        "csrc/cpu/row_sse2.cpp": ["-march=x86-64"],
    }
    if X86
    else {"csrc/cpu/row_neon.cpp": ["-march=armv8-a"]}
)
HEADERS = [
    os.path.join(folder, file)
    for folder, _, files in os.walk("csrc")
    for file in sorted(files)
    if file.endswith((".h", ".cuh"))
]


def find_nvcc():
    """On the PATH, in CUDA_HOME, or of the packages nvidia-cuda-nvcc, nvidia-cuda-runtime and nvidia-cuda-cccl."""
    toolkit = os.environ.get("CUDA_HOME")
    packages = sorted(glob.glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", "cu*", "bin")))
    places = [os.environ.get("PATH"), toolkit and os.path.join(toolkit, "bin"), *reversed(packages)]
    return next(filter(None, (shutil.which("nvcc", path=place) for place in places if place)), None)


NVCC = find_nvcc()
# Those that are built for: "90" is a binary, "compute_90" is PTX, which newer GPUs compile when they load it. Without
# an `a`, binaries run on later ones of the same generation. FASTSAMPLE_CUDA_ARCHS="90 120" names others.
ARCHITECTURES = os.environ.get("FASTSAMPLE_CUDA_ARCHS", "80 86 89 90 100 120 compute_90").split()
NVCC_FLAGS = [
    *("-std=c++17", "-O3", "--fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden", "--threads", "0"),
    *(
        f"-gencode=arch=compute_{a.removeprefix('compute_')},code={a if a.startswith('compute_') else f'sm_{a}'}"
        for a in ARCHITECTURES
    ),
]


class Build(build_ext):
    """Compiles each row worker with the flags of its own instruction set, and what is CUDA with nvcc."""

    def build_extension(self, extension):
        if extension.name == f"{BACKENDS}._cuda":
            return self.build_cuda(extension)
        objects = []
        for source, flags in INSTRUCTION_SETS.items():
            objects += self.compiler.compile(
                [source], output_dir=self.build_temp, extra_postargs=[*FLAGS, *flags], depends=HEADERS
            )
        extension.extra_objects = objects
        super().build_extension(extension)
        return None

    def build_cuda(self, extension):
        """nvcc links as well: it knows where its static runtime is, and the module then needs no other library."""
        os.makedirs(self.build_temp, exist_ok=True)
        target = self.get_ext_fullpath(extension.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        kernel = os.path.join(self.build_temp, "sample_cuda.o")
        macro = ("FASTSAMPLE_ARCHITECTURES", f'"{" ".join(ARCHITECTURES)}"')
        binding = self.compiler.compile(
            ["csrc/bind_cuda.cpp"],
            output_dir=self.build_temp,
            macros=[macro],
            include_dirs=extension.include_dirs,
            extra_postargs=FLAGS,
        )
        try:
            subprocess.run([NVCC, *NVCC_FLAGS, "-c", "csrc/cuda/sample.cu", "-o", kernel], check=True)
            subprocess.run([NVCC, "-shared", "--cudart", "static", kernel, *binding, "-o", target], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"the CUDA backend was left out: {error}") from error  # the extension is optional


extensions = [
    Pybind11Extension(
        f"{BACKENDS}._cpu",
        ["csrc/bind_cpu.cpp", "csrc/cpu/dispatch.cpp", "csrc/cpu/threads.cpp"],
        cxx_std=17,
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread"],
        depends=HEADERS,
    )
]
if NVCC and platform.system() == "Linux":
    cuda = ["csrc/bind_cuda.cpp", "csrc/cuda/sample.cu"]
    extensions.append(
        Pybind11Extension("fastsample.sampling.backends._cuda", cuda, cxx_std=17, optional=True, depends=HEADERS)
    )

setup(ext_modules=extensions, cmdclass={"build_ext": Build})
