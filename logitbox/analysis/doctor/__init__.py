"""The doctor: training health by rules that are data (see `profiles/` and docs/doctor.md)."""

from logitbox.analysis.doctor.diagnosis import Diagnosis as Diagnosis
from logitbox.analysis.doctor.diagnosis import Finding as Finding
from logitbox.analysis.doctor.examining import doctor as doctor
from logitbox.analysis.doctor.loading import load_profile as load_profile
