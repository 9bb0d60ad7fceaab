"""What a user can say: schemes, goal, algorithm configs, recipes and the job file; and every error.

Import from the modules: `job_file.load_job`, `job.Job`, `tuning_config.TuningConfig`,
`algorithms.static.StaticQuantConfig`, `schemes.Scheme`, `goal.Goal`, `errors.DisttuneError`.
"""
