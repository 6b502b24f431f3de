"""Where a hypothesis is known from: issues, by the abbreviations of the evidence catalogue, and versions whose code was read."""

from __future__ import annotations

REPOSITORIES: dict[str, str] = {
    "HF": "huggingface/transformers",
    "TRL": "huggingface/trl",
    "SW": "modelscope/ms-swift",
    "LF": "hiyouga/LLaMA-Factory",
    "MG": "NVIDIA/Megatron-LM",
    "TT": "pytorch/torchtitan",
    "PL": "Lightning-AI/pytorch-lightning",
    "FS": "facebookresearch/fairseq",
    "LMH": "EleutherAI/lm-evaluation-harness",
    "DS": "deepspeedai/DeepSpeed",
    "accelerate": "huggingface/accelerate",
    "evaluate": "huggingface/evaluate",
    "open-r1": "huggingface/open-r1",
    "composer": "mosaicml/composer",
    "llm-foundry": "mosaicml/llm-foundry",
    "unsloth": "unslothai/unsloth",
    "unsloth-zoo": "unslothai/unsloth-zoo",
    "burn": "tracel-ai/burn",
    "mmdetection": "open-mmlab/mmdetection",
    "verl": "volcengine/verl",
    "allennlp": "allenai/allennlp",
    "OLMo-core": "allenai/OLMo-core",
    "torchtune": "pytorch/torchtune",
    "pytorch": "pytorch/pytorch",
    "vision": "pytorch/vision",
    "xla": "pytorch/xla",
    "rf-detr": "roboflow/rf-detr",
    "nanochat": "karpathy/nanochat",
    "axolotl": "axolotl-ai-cloud/axolotl",
    "Fast-LLM": "ServiceNow/Fast-LLM",
    "Transformers-Tutorials": "NielsRogge/Transformers-Tutorials",
    "SLAM-LLM": "X-LANCE/SLAM-LLM",
    "espnet": "espnet/espnet",
    "keras": "keras-team/keras",
    "tensorflow": "tensorflow/tensorflow",
    "tensor2tensor": "tensorflow/tensor2tensor",
    "OpenNMT-py": "OpenNMT/OpenNMT-py",
    "ml-cross-entropy": "apple/ml-cross-entropy",
    "ART": "OpenPipe/ART",
    "optax": "google-deepmind/optax",
    "modalities": "Modalities/modalities",
}
"""Abbreviation to owner/name."""


def seen_in(*sources: str) -> tuple[str, ...]:
    """Links of issues given as "HF#34242", one repository's numbers with commas; anything without "#" stays as it is.

    Raises:
        KeyError: an abbreviation that is not in `REPOSITORIES`.
    """
    found: list[str] = []
    for source in sources:
        name, _, numbers = source.partition("#")
        if not numbers:
            found.append(source)
            continue
        found += [f"https://github.com/{REPOSITORIES[name]}/issues/{number}" for number in numbers.split(",")]
    return tuple(found)
