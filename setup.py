"""Builds the C++ extension: one row worker per instruction set, chosen when the module loads. Needs no torch."""

import os
import platform

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext

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
    os.path.join(folder, file) for folder, _, files in os.walk("csrc") for file in sorted(files) if file.endswith(".h")
]


class BuildPerInstructionSet(build_ext):
    """Compiles each row worker with the flags of its own instruction set, then links them into the one module."""

    def build_extension(self, extension):
        objects = []
        for source, flags in INSTRUCTION_SETS.items():
            objects += self.compiler.compile(
                [source], output_dir=self.build_temp, extra_postargs=[*FLAGS, *flags], depends=HEADERS
            )
        extension.extra_objects = objects
        super().build_extension(extension)


setup(
    ext_modules=[
        Pybind11Extension(
            "fastsample._cpu",
            ["csrc/bind_cpu.cpp", "csrc/cpu/dispatch.cpp", "csrc/cpu/threads.cpp"],
            cxx_std=17,
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
            depends=HEADERS,
        )
    ],
    cmdclass={"build_ext": BuildPerInstructionSet},
)
