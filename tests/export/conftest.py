import json
import shutil

import pytest
import torch

from padless.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from padless.config.load import to_plain
from padless.config.schema import (
    BatchConfig,
    Config,
    DataConfig,
    EvalConfig,
    ExportConfig,
    GuardConfig,
    HardwareConfig,
    InitConfig,
    LoggersConfig,
    LossConfig,
    LrConfig,
    MaskingConfig,
    OptimizerConfig,
    PhaseConfig,
    RopeConfig,
    RunConfig,
    StartConfig,
    StreamConfig,
)
from padless.data.durable import sha256_of_file
from padless.data.tokenizer_training import build_tokenizer
from padless.model.masked_lm import MaskedLM
from small_shape import small_shape

SENTENCES = [f"the library number {number} opens at nine in the morning and closes late" for number in range(60)]


def make_phase(max_seq_len, global_theta):
    return PhaseConfig(
        tokens=4096,
        max_seq_len=max_seq_len,
        streams={"general": 1.0},
        rope=RopeConfig(global_theta, 10_000.0),
        lr=LrConfig("constant", 1e-3, 0, None, 1.0),
        weight_decay=1e-5,
        batch=BatchConfig(2, 2, "exact", None),
        masking=MaskingConfig(0.3, "constant", None, None, 0.8, 0.1),
        shuffle_seed=0,
        save_every_tokens=4096,
        keep_every_tokens=None,
        eval_every_tokens=4096,
        allow_short_documents=True,
    )


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(SENTENCES, 320).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def model_config():
    return small_shape(vocab_size=320, local_window_tokens=128, attention_out_dropout=0.1)


@pytest.fixture(scope="session")
def rope():
    return RopeConfig(160_000.0, 10_000.0)


@pytest.fixture(scope="session")
def config(model_config):
    return Config(
        run=RunConfig("card-test", "runs", 17, None, 10, None, (), None, 10, None),
        model=model_config,
        data=DataConfig({"general": StreamConfig("blocks", None)}, None, 512, 0, True, 2, "off", None, False),
        phases={"pretrain": make_phase(128, 10_000.0), "context": make_phase(512, 160_000.0)},
        phase_order=("pretrain", "context"),
        branches={},
        optimizer=OptimizerConfig("stable_adamw", 0.9, 0.98, 1e-6),
        loss=LossConfig(0.0),
        guard=GuardConfig("stop", "report", 64, 10.0, 0.5, 5),
        hardware=HardwareConfig("cpu", 1, 2, "fp32", "sdpa", False, 1, True, 600.0, "off"),
        init=InitConfig("random", None, "fan_in", "wrap", None, "copied", 0.0, False, False),
        start=StartConfig(None, ("weights",)),
        eval=EvalConfig(("general",), 128, 0.15, None),
        loggers=LoggersConfig(False, None, "offline"),
        export=ExportConfig(True, 1e-4),
    )


@pytest.fixture(scope="session")
def state_dict(model_config, rope):
    """Weights with a spread that makes logits of order 1, so that a wrong theta shows."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in MaskedLM(model_config, rope).state_dict().items():
        values = torch.randn(tensor.shape, generator=generator) * 0.3
        weights[name] = values + 1.0 if name.endswith("norm.weight") else values
    weights["decoder.weight"] = weights["model.embeddings.tok_embeddings.weight"]
    return weights


@pytest.fixture
def run_folder(config, state_dict, tokenizer_folder, tmp_path):
    """A run with two checkpoints of its first phase and one of its second, its tokenizer, lineage and metrics."""
    folder = tmp_path / "runs" / "mine"
    shutil.copytree(tokenizer_folder, folder / "tokenizer")
    for phase, clock in (("pretrain", 2048), ("pretrain", 4096), ("context", 8192)):
        facts = {
            "config": to_plain(config),
            "phase": phase,
            "clock_tokens": clock,
            "step": clock // 1024,
            "tokenizer_folder": str(folder / "tokenizer"),
            "tokenizer_sha256": sha256_of_file(folder / "tokenizer" / "tokenizer.json"),
            "data": {"general": "a"},
            "train_seconds": 36.0,
        }
        save_checkpoint(checkpoint_path(folder, phase, clock), Checkpoint(state_dict, None, facts), "hash")
    starts = [
        {"event": "start", "clock_tokens": 0, "world_size": 8, "hosts": ["a"], "device": "NVIDIA H100"},
        {"event": "phase_end", "clock_tokens": 4096, "detail": "pretrain"},
        {"event": "resume", "clock_tokens": 4096, "world_size": 16, "hosts": ["a", "b"], "device": "NVIDIA H100"},
        {"event": "resume", "clock_tokens": 5000, "world_size": 8, "hosts": ["a"], "device": "NVIDIA H100"},
    ]
    evals = [
        {"tokens": 0, "phase": "pretrain", "eval_loss": 5.0, "eval_loss_general": 5.0},
        {"tokens": 4096, "phase": "pretrain", "eval_loss": 3.25, "eval_loss_general": 3.0, "eval_loss_code": 3.5},
        {"tokens": 8192, "phase": "context", "eval_loss": 2.5, "eval_loss_general": 2.5},
    ]
    for name, lines in (("lineage.jsonl", starts), ("metrics.jsonl", [*evals, {"tokens": 8192, "loss": 2.0}])):
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"cut off')
    return folder


@pytest.fixture
def exported(config, state_dict, tokenizer_folder, tmp_path):
    from padless.export.command import export_from

    out = tmp_path / "hf"
    parity = export_from(state_dict, config, "context", tokenizer_folder, out, 8192, 36.0, 2.5)
    return out, parity


def point_at(monkeypatch, url):
    """Have huggingface_hub ask ``url``: it reads its environment when it is imported."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on the loopback address, and an empty cache."""
    import huggingface_hub
    from huggingface_hub.utils import reset_sessions

    from .fake_hub import FakeHub, serve

    fake = FakeHub()
    server = serve(fake)
    point_at(monkeypatch, fake.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    reset_sessions()  # one that an earlier test made offline stays so
    yield fake
    reset_sessions()
    server.shutdown()
    server.server_close()
