"""The command as users run it: in its own process, on a tiny real study."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "w2s_ray" / "ladder" / "tokenizer"

STUDY = """
name: tiny
tasks:
  moods: {files: moods.jsonl, text: sentence, label: mood, test_examples: 60}
optimisation: {context_tokens: 32, examples_per_step: 16, learning_rate: 0.01, keep_at: [0.5]}
ladder:
  small: models/small
  large: {model: models/large, execution: {zero_stage: 1}}
methods:
  naive: {arms: [chain, direct, ceiling]}
  confident: {arms: [chain, ceiling], losses: {large: {kind: confidence}}}
splits: {train_examples: 64, validation_examples: 16}
tracking: {wandb: disabled}
report: {bootstrap_samples: 100}
"""


@dataclass(frozen=True)
class Done:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """The environment without variables that change where output goes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("W2S_", "WANDB_", "COLUMNS"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(*arguments: str | Path) -> list[str]:
    """The command line of `w2s`, whether or not it is installed."""
    return [sys.executable, "-m", "w2s_ray", *map(str, arguments)]


def w2s(*arguments: str | Path, cwd: Path = ROOT, seconds: float = 240) -> Done:
    """Run `w2s` and wait for it."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment(), timeout=seconds
    )
    return Done(done.returncode, done.stdout, done.stderr)


def write_llama(folder: Path, hidden: int) -> None:
    """A Llama small enough to train within a second, with the built-in tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(hidden)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sentences(count: int) -> Iterator[dict[str, str]]:
    """Labelled sentences; one word of each tells the mood."""
    coin = random.Random(0)
    for number in range(count):
        mood = ("down", "up")[number % 2]
        word = coin.choice({"up": ("warm", "bright", "calm"), "down": ("cold", "dark", "harsh")}[mood])
        yield {"sentence": f"day {number} by the sea was {word}", "mood": mood}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study `tiny.yaml`, its data and its models."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tiny.yaml").write_text(STUDY)
    (folder / "moods.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sentences(500)))
    for name, hidden in (("small", 16), ("large", 32)):
        write_llama(folder / "models" / name, hidden)
    return folder


@dataclass(frozen=True)
class Ran:
    """A study that was run once."""

    home: Path
    done: Done

    @property
    def store(self) -> Path:
        """The store of the run."""
        return self.home / "store"

    @property
    def log(self) -> str:
        """The output of libraries."""
        return (self.store / "studies" / "tiny" / "logs" / "run.log").read_text()

    def w2s(self, verb: str, *arguments: str | Path) -> Done:
        """Another verb on the same study and store."""
        return w2s(verb, "tiny.yaml", *arguments, "--store", self.store, cwd=self.home)

    def attempts(self) -> dict[str, int]:
        """How often each stage was started, by folder."""
        files = sorted(self.store.glob("artifacts/*/attempts.jsonl"))
        return {file.parent.name: len(file.read_text().splitlines()) for file in files}


@pytest.fixture(scope="session")
def ran(home: Path) -> Ran:
    """The tiny study, run by the command."""
    return Ran(home, w2s("run", "tiny.yaml", "--store", "store", cwd=home))


def fails(done: Done, code: int, *parts: str) -> None:
    """Check that a command ended with this exit code and an error that has these parts, without a traceback."""
    assert done.code == code, done
    assert "Traceback" not in done.err + done.out
    for part in parts:
        assert part in done.err, done.err


def stage_rows(text: str) -> Sequence[str]:
    """The lines of a table that begin with an identity."""
    return [line for line in text.splitlines() if len(line.split(" ")[0]) == 12 and line[0] in "0123456789abcdef"]
