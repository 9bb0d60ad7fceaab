"""When the batch job ends, as the environment tells."""

import pytest

from disttune.config.errors import InputError
from disttune.runtime.batch_job import batch_end_at


def test_slurm_tells_and_a_script_of_ones_own_goes_before_it():
    assert batch_end_at({}) is None
    assert batch_end_at({"SLURM_JOB_END_TIME": "1800000000"}) == 1.8e9
    assert batch_end_at({"SLURM_JOB_END_TIME": "1800000000", "DISTTUNE_END_TIME": "1700000000"}) == 1.7e9


@pytest.mark.parametrize("text", ["", "0", "unlimited"])
def test_what_slurm_leaves_open_is_no_end(text: str):
    assert batch_end_at({"SLURM_JOB_END_TIME": text}) is None


def test_a_mistake_in_ones_own_is_told_with_the_mend():
    with pytest.raises(InputError, match=r'DISTTUNE_END_TIME = "1h": expected seconds since 1970, .*date'):
        batch_end_at({"DISTTUNE_END_TIME": "1h"})
