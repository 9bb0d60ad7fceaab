"""What one calibration pass leaves: statistics of every float activation that may be quantized."""
