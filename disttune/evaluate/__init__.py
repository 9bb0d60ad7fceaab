"""Evaluation of a model by the user's function or a built-in metric, inside a trial process.

Names live in their modules, which are imported where they are used (they load onnxruntime or numpy):
`model.QuantizedModel`, `data.load_feeds`, `evaluators.build_evaluators`, `samples.SampleEvaluator`,
`metrics.register_metric`, `user_code.load_function`, `user_files.FileRecorder`.
"""
