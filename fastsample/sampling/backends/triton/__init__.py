"""The Triton backend: `launch` is what the dispatch asks for, the other files are its kernels."""
