"""Classifiers: the metrics of seed 002, from dumps in which every sample is one prediction."""

from logitbox.analysis.classification.classifier import classification as classification
from logitbox.analysis.classification.result import Classification as Classification
