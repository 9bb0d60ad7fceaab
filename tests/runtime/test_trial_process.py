import os
import subprocess
import sys

CHECK = """
import sys
from disttune.runtime.trial_process import set_up_libraries
from disttune.runtime.trial_worker import TrialWorker
set_up_libraries()
TrialWorker()
sys.exit("sympy" in sys.modules or "onnxruntime.quantization" in sys.modules)
"""


def test_a_waiting_trial_process_has_not_loaded_what_one_process_of_a_job_needs():
    """sympy and onnxruntime's quantizer take more memory than the rest together."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", CHECK], env=environment, check=False).returncode == 0
