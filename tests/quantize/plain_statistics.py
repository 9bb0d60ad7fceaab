"""Statistics of arrays in one line, for tests of what is derived from statistics."""

import numpy as np

from disttune.quantize.statistics.layout import Samples
from disttune.quantize.statistics.observer import TensorObserver
from disttune.quantize.statistics.tally import Tally
from disttune.quantize.statistics.tensor_statistics import TensorStatistics


def statistics_of(values: object, n_samples: int = 1) -> TensorStatistics:
    """Statistics of values, the first dimension being cut into samples."""
    observer = TensorObserver(Tally())
    for part in np.array_split(np.asarray(values, np.float32), n_samples):
        observer.add([Samples(part, 1)])
    return observer.statistics()
