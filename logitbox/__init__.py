"""logitbox: the flight recorder for a model's logits.

Names are resolved when first used, so that importing the package costs nothing and the recording side works
where only torch, numpy and pyarrow are installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitbox.analysis.audit.audit import audit as audit
    from logitbox.analysis.calibration import calibration as calibration
    from logitbox.analysis.calibration import calibration_difference as calibration_difference
    from logitbox.analysis.classification import classification as classification
    from logitbox.analysis.decisions import decisions as decisions
    from logitbox.analysis.doctor import doctor as doctor
    from logitbox.analysis.entropy import high_entropy as high_entropy
    from logitbox.analysis.explain import explain as explain
    from logitbox.analysis.flips import flips as flips
    from logitbox.analysis.labels import label_issues as label_issues
    from logitbox.analysis.metrics import metrics as metrics
    from logitbox.data import load_example as load_example
    from logitbox.dumps.dump import Dump as Dump
    from logitbox.dumps.dump import open_dump
    from logitbox.dumps.flags import Flag as Flag
    from logitbox.dumps.gradients import record_grad_norm as record_grad_norm
    from logitbox.dumps.losses import composite_loss as composite_loss
    from logitbox.dumps.recorder import Recorder as Recorder
    from logitbox.dumps.reduce.sharded import VocabShard as VocabShard
    from logitbox.dumps.schemes.agent import AgentText as AgentText
    from logitbox.dumps.schemes.answers import ACCEPT_REJECT as ACCEPT_REJECT
    from logitbox.dumps.schemes.answers import resolve_answers as resolve_answers
    from logitbox.dumps.schemes.coordinate import CoordinateJson as CoordinateJson
    from logitbox.dumps.schemes.decision import DecisionSlot as DecisionSlot
    from logitbox.dumps.schemes.regex import RegexTypes as RegexTypes
    from logitbox.dumps.spec import TokenTypes as TokenTypes
    from logitbox.errors import LogitboxError as LogitboxError
    from logitbox.reports.report import report as report

    open = open_dump

_HOMES = {
    "Recorder": "logitbox.dumps.recorder:Recorder",
    "VocabShard": "logitbox.dumps.reduce.sharded:VocabShard",
    "TokenTypes": "logitbox.dumps.spec:TokenTypes",
    "AgentText": "logitbox.dumps.schemes.agent:AgentText",
    "CoordinateJson": "logitbox.dumps.schemes.coordinate:CoordinateJson",
    "DecisionSlot": "logitbox.dumps.schemes.decision:DecisionSlot",
    "RegexTypes": "logitbox.dumps.schemes.regex:RegexTypes",
    "ACCEPT_REJECT": "logitbox.dumps.schemes.answers:ACCEPT_REJECT",
    "resolve_answers": "logitbox.dumps.schemes.answers:resolve_answers",
    "composite_loss": "logitbox.dumps.losses:composite_loss",
    "record_grad_norm": "logitbox.dumps.gradients:record_grad_norm",
    "Flag": "logitbox.dumps.flags:Flag",
    "Dump": "logitbox.dumps.dump:Dump",
    "open": "logitbox.dumps.dump:open_dump",
    "metrics": "logitbox.analysis.metrics:metrics",
    "calibration": "logitbox.analysis.calibration:calibration",
    "calibration_difference": "logitbox.analysis.calibration:calibration_difference",
    "flips": "logitbox.analysis.flips:flips",
    "high_entropy": "logitbox.analysis.entropy:high_entropy",
    "explain": "logitbox.analysis.explain:explain",
    "decisions": "logitbox.analysis.decisions:decisions",
    "classification": "logitbox.analysis.classification:classification",
    "label_issues": "logitbox.analysis.labels:label_issues",
    "doctor": "logitbox.analysis.doctor:doctor",
    "audit": "logitbox.analysis.audit.audit:audit",
    "report": "logitbox.reports.report:report",
    "load_example": "logitbox.data:load_example",
    "LogitboxError": "logitbox.errors:LogitboxError",
}
"""Public name to its home, as module:attribute."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module 'logitbox' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}"
        )
    module, _, attribute = _HOMES[name].partition(":")
    try:
        value = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        extra = "torch" if error.name == "torch" else "logitbox with its dependencies"
        raise ModuleNotFoundError(
            f"logitbox.{name} needs {error.name}, which is not installed; `pip install {extra}`",
            name=error.name,
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOMES)
