"""fastsample: sampling many answers of one question, cheaply."""

from .contract import Stats
from .info import info
from .sampling import SparseDistribution, distribution, sample
from .version import __version__

__all__ = ["SparseDistribution", "Stats", "__version__", "distribution", "info", "sample"]
