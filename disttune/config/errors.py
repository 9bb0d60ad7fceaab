"""Everything disttune raises for a user to read.

    DisttuneError                 base; `exit_code` is what the command line ends with
    +-- InputError                the user's input is wrong (exit 2)
    |   +-- JobFileError          job file or `--set`: names file and key
    |   +-- ModelError            the model cannot be used
    |   +-- DataError             calibration or evaluation data cannot be used
    |   +-- UserCodeError         the user's function or class cannot be loaded, pickled or run
    |   +-- RunDirectoryError     the run directory belongs to another job, is locked or not writable
    |   +-- JournalError          a journal that cannot be trusted: names the line
    +-- TrialError                one candidate could not be built or measured: a row, never the end
    +-- InternalError             a fault of ours (exit 1)

A message says where (file and key, trial, rank, op), what was found, what is valid, what to do.
"""


class DisttuneError(Exception):
    exit_code = 1


class InputError(DisttuneError):
    exit_code = 2


class JobFileError(InputError):
    pass


class ModelError(InputError):
    pass


class DataError(InputError):
    pass


class UserCodeError(InputError):
    pass


class RunDirectoryError(InputError):
    pass


class JournalError(InputError):
    pass


class TrialError(DisttuneError):
    pass


class InternalError(DisttuneError):
    pass


def error_class(name: str, exit_code: int) -> type[DisttuneError]:
    """The class of this name here; for one that is defined elsewhere what its exit code says."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, DisttuneError):
        return found
    return InputError if exit_code == InputError.exit_code else DisttuneError
