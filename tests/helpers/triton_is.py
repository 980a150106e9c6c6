"""Which Triton is installed: older ones compile other code of the same source."""

from importlib.metadata import version


def triton_is() -> tuple[int, ...]:
    """Its major and minor version."""
    return tuple(map(int, version("triton").split(".")[:2]))
