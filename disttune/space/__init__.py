"""What can be tuned: what a target can compute, a model's ops, candidates, and the space of a job.

Import from the modules: `space.build_space`, `space.Space`, `capability.load_capability`,
`candidate.Candidate`, `summary.ModelSummary`.
"""
