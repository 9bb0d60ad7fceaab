"""Calls into the strategy: its next stage, a stage's next item, its notes.

Pure. What goes wrong in there is told with the strategy's name, file and line.
"""

from disttune.config.errors import DisttuneError, UserCodeError
from disttune.schedule.events import Note
from disttune.schedule.stage_run import StageRun
from disttune.space.candidate import Candidate
from disttune.strategy.stage import Item, Probe, Stage, StageResult
from disttune.strategy.strategy import Strategy
from disttune.strategy.tuning import Tuning


class StrategyCalls:
    """A strategy at work.

    Args:
        strategy: yields stages.
        tuning: is handed to it.
    """

    def __init__(self, strategy: Strategy, tuning: Tuning):
        self._name = type(strategy).__name__
        self._tuning = tuning
        self._stages = strategy.stages(tuning)

    def next_stage(self, result: StageResult | None) -> Stage | None:
        """Its answer to the result of the last stage; None at its end.

        Raises:
            UserCodeError: it raised, or yielded something that is no stage.
        """
        try:
            stage = next(self._stages) if result is None else self._stages.send(result)
        except StopIteration:
            return None
        except Exception as error:
            raise self._error(error) from error
        if not isinstance(stage, Stage):
            raise UserCodeError(
                f"strategy {self._name}: stages() must yield Stage objects; it yielded {stage!r}"
            )
        return stage

    def next_item(self, run: StageRun) -> Item | None:
        """The next item of the running stage; None at its end.

        Raises:
            UserCodeError: its iterator raised, or gave something that is neither candidate nor probe.
        """
        try:
            item = run.draw()
        except Exception as error:
            raise self._error(error) from error
        if item is not None and not isinstance(item, Candidate | Probe):
            raise UserCodeError(
                f'strategy {self._name}, stage "{run.stage.name}": items must be candidates or '
                f"probes; it gave {item!r}"
            )
        return item

    def take_notes(self) -> list[Note]:
        """What it has said since it was last asked."""
        notes = [Note(text) for text in self._tuning.notes]
        self._tuning.notes.clear()
        return notes

    def _error(self, error: Exception) -> DisttuneError:
        if isinstance(error, DisttuneError):
            return error
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = f" ({frame.tb_frame.f_code.co_filename}, line {frame.tb_lineno})" if frame else ""
        return UserCodeError(f"strategy {self._name} raised {type(error).__name__}: {error}{where}")
