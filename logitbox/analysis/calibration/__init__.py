"""Calibration: is a model as often right as it says? From a dump, or from arrays."""

from logitbox.analysis.calibration.arrays import from_arrays as from_arrays
from logitbox.analysis.calibration.arrays import from_probabilities as from_probabilities
from logitbox.analysis.calibration.counting import Counter as Counter
from logitbox.analysis.calibration.differences import CalibrationDifference as CalibrationDifference
from logitbox.analysis.calibration.differences import calibration_difference as calibration_difference
from logitbox.analysis.calibration.differences import difference as difference
from logitbox.analysis.calibration.dumped import CalibrationTable as CalibrationTable
from logitbox.analysis.calibration.dumped import calibration as calibration
from logitbox.analysis.calibration.result import Calibration as Calibration
from logitbox.analysis.histogram import Grid as Grid
