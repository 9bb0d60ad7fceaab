"""One op after another goes to float and stays there if the metric rose: in the form of INC's strategies."""

from disttune import TuneStrategy


class OneByOne(TuneStrategy):
    """Each `yield` gives the trial of the config it yielded (`batch_size = 1`)."""

    def next_tune_cfg(self):
        kept = self.default
        best = yield kept
        for op in self.default.quantized_ops:
            result = yield kept.in_float(op)
            if result.metric is not None and (best.metric is None or result.metric > best.metric):
                best, kept = result, kept.in_float(op)


class EachAlone(TuneStrategy):
    """The same ops, each alone. No config needs a result: as many run at the same time as there are ranks."""

    batch_size = None

    def next_tune_cfg(self):
        yield self.default
        for op in self.default.quantized_ops:
            yield self.default.in_float(op)
