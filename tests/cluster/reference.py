"""The packed model in transformers: what its answers are held against, and as a Hugging Face directory."""

from pathlib import Path
from typing import Any


class Reference:
    """Read once for all tests: unpacking the GGUF file takes transformers longer than most tests."""

    def __init__(self, folder: Path) -> None:
        """Write the directory into `folder`, which a pod may read."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        from headway_engine.bench.beside_transformers import default_model

        self.folder = folder
        folder.mkdir()
        folder.parent.chmod(0o755)  # the engine runs as a user without rights of its own
        file = default_model()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        dense = GgufConfig(dequantize=True)  # a model in GGUF blocks cannot be saved
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=dense
        )
        self._tokenizer.save_pretrained(folder)
        self._model.save_pretrained(folder)
        for part in folder.iterdir():
            part.chmod(0o644)

    def greedy(self, prompt: str, max_tokens: int) -> list[int]:
        """The tokens that transformers answers."""
        inputs = self._tokenizer(prompt, return_tensors="pt")
        output = self._model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        answer: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return answer
