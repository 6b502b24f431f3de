"""Samples whose label is likely wrong."""

from logitbox.analysis.labels.issues import LabelIssues as LabelIssues
from logitbox.analysis.labels.issues import label_issues as label_issues
