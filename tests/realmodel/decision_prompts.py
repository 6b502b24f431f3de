"""Decisions with a known answer, from real measurements: the tumours of scikit-learn's breast cancer data.

Nothing of logitbox is used. Which token is the decision is found in the text, through the tokenizer's own offsets.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_breast_cancer, load_wine

BOX = r"\boxed{"


@dataclass(frozen=True)
class Decision:
    """A prompt with its answer in a box; `word` is what stands there, `answer` the name of that answer."""

    key: str
    prompt: str
    word: str
    answer: str

    @property
    def text(self):
        return f"{self.prompt}{BOX}{self.word}}}"


@dataclass(frozen=True)
class DecisionBatch:
    """Int64 tensors [B, T]; labels are -100 but in the box and what is around it. `slots` are columns."""

    decisions: tuple[Decision, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    slots: tuple[int, ...]


def claims(count=80):
    """Claims about tumours, true in half of the cases, to be accepted or rejected; a rule of thumb comes first."""
    data = load_breast_cancer()
    found = []
    for i in range(count):
        row = i * 2
        is_benign, radius = bool(data.target[row]), data.data[row, 0]
        word = "Accept" if i % 2 == 0 else "Reject"
        claimed = is_benign == (word == "Accept")  # whether the claim is that it is benign
        thumb = "Accept" if (radius < 15) == claimed else "Reject"
        kind = "benign" if claimed else "malignant"
        prompt = f"Rule of thumb: {BOX}{thumb}}}\nTumour of radius {radius:.1f}. Claim: {kind}. "
        found.append(Decision(f"tumour-{row}", prompt, word, word.lower()))
    return found


def choices(count=24):
    """Which letter names the cultivar of a wine; the options are rotated, so that every letter is right at times."""
    data = load_wine()
    found = []
    for i in range(count):
        row = i * 7
        kinds = [(place + i) % 4 + 1 for place in range(4)]  # there are three cultivars; 4 is never right
        alcohol, proline = data.data[row, 0], data.data[row, 12]
        thumb = "ABCD"[kinds.index(1 if proline > 755 else 2 if alcohol < 12.8 else 3)]
        right = "ABCD"[kinds.index(int(data.target[row]) + 1)]
        listed = " ".join(f"{letter}: {kind}." for letter, kind in zip("ABCD", kinds, strict=True))
        prompt = f"Alcohol {alcohol:.1f} %. {listed} Rule of thumb: {BOX}{thumb}}}. Answer: "
        found.append(Decision(f"wine-{row}", prompt, right, right.lower()))
    return found


def batches(tokenizer, decisions, rows=25):
    """Ragged batches, padded on the right."""
    for start in range(0, len(decisions), rows):
        yield _batch(tokenizer, tuple(decisions[start : start + rows]))


def _batch(tokenizer, decisions):
    coded = [tokenizer(d.text, add_special_tokens=False, return_offsets_mapping=True) for d in decisions]
    width = max(len(one["input_ids"]) for one in coded) + 1
    input_ids = torch.full((len(decisions), width), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
    slots = []
    for row, (decision, one) in enumerate(zip(decisions, coded, strict=True)):
        ids, offsets = [*one["input_ids"], tokenizer.eos_token_id], one["offset_mapping"]
        word = len(decision.text) - len(decision.word) - 1
        slots.append(next(i for i, (start, end) in enumerate(offsets) if start <= word < end))
        first = next(i for i, (_, end) in enumerate(offsets) if end > len(decision.prompt))
        input_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
        labels[row, first : len(ids)] = torch.tensor(ids[first:])
    return DecisionBatch(decisions, input_ids, mask, labels, tuple(slots))


def reference(logits, batch, ids):
    """One dict per decision: a float64 softmax at the slot, summed over each answer's ids.

    Args:
        logits: float32 [B, T, V]; the slot is predicted one column to its left.
        ids: answer to token ids.
    """
    rows = []
    for b, (decision, slot) in enumerate(zip(batch.decisions, batch.slots, strict=True)):
        p = torch.softmax(logits[b, slot - 1].double(), dim=0)
        masses = {name: float(sum(p[i] for i in mine)) for name, mine in ids.items()}
        likeliest = max(masses, key=masses.get)
        elsewhere = int(p.argmax()) not in {i for mine in ids.values() for i in mine}
        rows.append(
            {"key": decision.key, "answer": decision.answer, "likeliest": likeliest, "elsewhere": elsewhere}
            | {f"p_{name}": mass for name, mass in masses.items()}
        )
    return rows


def metrics(rows, answers, prefix="eval_"):
    """The seed's keys over the rows of `reference`."""

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    out = {f"avg_p_{name}": mean(row[f"p_{name}"] for row in rows) for name in answers}
    out["decision_prob_mass"] = mean(sum(row[f"p_{name}"] for name in answers) for row in rows)
    out["decision_confidence"] = mean(max(row[f"p_{name}"] for name in answers) for row in rows)
    out["decision_accuracy"] = mean(row["likeliest"] == row["answer"] for row in rows)
    out["decision_elsewhere"] = mean(row["elsewhere"] for row in rows)
    out["decision_slots"] = len(rows)
    return {prefix + key: value for key, value in out.items()}
