"""What trainers logged: readers of many formats, one frame, runs told apart."""

from __future__ import annotations

from logitbox.analysis.logs.frame import SCHEMA as SCHEMA
from logitbox.analysis.logs.frame import Logged as Logged
from logitbox.analysis.logs.reading import read_logged as read_logged
