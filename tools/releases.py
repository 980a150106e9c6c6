"""The releases of transformers that are tested: which they are, and what some of their requirements were at their time.

Made by `python tools/compat.py --refresh`.
"""

RELEASES = {
    "5.0.0": ("the first", "huggingface-hub==1.8.0 tokenizers==0.22.2 safetensors==0.7.0"),
    "5.4.0": ("the last of 2026 Q1", "huggingface-hub==1.8.0 tokenizers==0.22.2 safetensors==0.7.0"),
    "5.12.1": ("the last of 2026 Q2", "huggingface-hub==1.21.0 tokenizers==0.22.2 safetensors==0.8.0"),
    "5.18.0": ("the last of 2026 Q3", "huggingface-hub==1.33.0 tokenizers==0.23.2 safetensors==0.8.0"),
    "5.23.0": ("of the last two series on 2026-11-24", "huggingface-hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0"),
    "5.24.0": ("of the last two series on 2026-11-24", "huggingface-hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0"),
}
