"""TuningLogger: log lines of a loop of one's own, through the logger "disttune"."""

import logging

_LOGGER = logging.getLogger("disttune")


class TuningLogger:
    """One method for each moment of a loop."""

    @classmethod
    def tuning_start(cls) -> None:
        _LOGGER.info("Tuning started.")

    @classmethod
    def trial_start(cls, trial_index: int | None = None) -> None:
        _LOGGER.info("Trial %s started.", trial_index)

    @classmethod
    def execution_start(cls, mode: str = "quantize", stacklevel: int = 2) -> None:
        _LOGGER.info("%s started.", mode.capitalize(), stacklevel=stacklevel)

    @classmethod
    def execution_end(cls, mode: str = "quantize", stacklevel: int = 2) -> None:
        _LOGGER.info("%s ended.", mode.capitalize(), stacklevel=stacklevel)

    @classmethod
    def quantization_start(cls, stacklevel: int = 2) -> None:
        cls.execution_start("quantization", stacklevel + 1)

    @classmethod
    def quantization_end(cls, stacklevel: int = 2) -> None:
        cls.execution_end("quantization", stacklevel + 1)

    @classmethod
    def evaluation_start(cls) -> None:
        _LOGGER.info("Evaluation started.")

    @classmethod
    def evaluation_end(cls) -> None:
        _LOGGER.info("Evaluation ended.")

    @classmethod
    def trial_end(cls, trial_index: int | None = None) -> None:
        _LOGGER.info("Trial %s ended.", trial_index)

    @classmethod
    def tuning_end(cls) -> None:
        _LOGGER.info("Tuning ended.")
