"""From logits to records: one exact row of numbers for every row of logits."""

from __future__ import annotations

from logitbox.dumps.reduce.choose import reduce_logits as reduce_logits
from logitbox.dumps.reduce.groups import GroupIndex as GroupIndex
from logitbox.dumps.reduce.groups import Targets as Targets
from logitbox.dumps.reduce.groups import plain_arithmetic as plain_arithmetic
