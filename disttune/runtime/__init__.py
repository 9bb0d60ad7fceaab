"""Running a job: ranks, trial processes, and what is written down so that nothing is lost."""
