"""Fine-tuning: packed examples do not see each other, resume is bit-identical, workers change nothing but rounding."""

import itertools
import json

import numpy as np
import pytest
import small_language_models
import torch

from quadriga.codegen import corpus, finetuning, training_data
from quadriga.codegen.experiment import CodeExperiment, OptimizerSettings
from quadriga.codegen.finetune_trainer import CHECKPOINT, FineTuner, read_state
from quadriga.codegen.packing import Example, pack
from quadriga.platform.cli import run
from quadriga.platform.errors import UserError

SOURCE = '''
def add_{n}(first, second):
    """Adds {n} to the sum of both numbers."""
    total = first + second
    return total + {n}
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_language_models.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A corpus of thirty functions in five files."""
    folder = tmp_path_factory.mktemp("source")
    for file in range(5):
        text = "import os\n" + "".join(SOURCE.format(n=10 * file + k) for k in range(6)) + f"\nx = {file}\n" * file
        (folder / f"file{file}.py").write_text(text)
    out = tmp_path_factory.mktemp("corpus")
    corpus.build(corpus.Settings((str(folder),), near=2, against=()), out)
    return out


def experiment(folder, learned, **fields):
    data = {"corpus": str(learned), "form": "functions", "length": 128, "validation_share": 0.2}
    values = {
        "preset": "codex-functions",
        "steps": 6,
        "model": {"name": str(folder)},
        "optimizer": {"warmup_steps": 2, "learning_rate": 1e-2},
        "batch_size": 4,
        "report_every": 2,
        "compute": {"device": "cpu"},
    }
    return CodeExperiment(**{**values, **fields, "data": {**data, **fields.get("data", {})}})


def test_examples_in_a_row_do_not_see_each_other(folder, learned):
    worker = finetuning.Worker(experiment(folder, learned))
    examples = [Example([5, 6, 7], [8, 9]), Example([], [10, 11, 12, 13]), Example([14], [15])]
    together = worker._loss(pack(examples, 24, 0).rows)
    alone = sum(worker._loss(pack([each], 24, 0).rows) for each in examples)
    assert torch.isclose(together, alone, rtol=1e-5)


def test_the_loss_is_that_of_transformers(folder, learned):
    worker = finetuning.Worker(experiment(folder, learned))
    rows = pack([Example([5, 6, 7], [8, 9, 10])], 6, 0).rows
    ids, labels, _ = (torch.from_numpy(part) for part in rows)
    assert torch.isclose(worker._loss(rows) / 3, worker._causal(input_ids=ids, labels=labels).loss, rtol=1e-5)


def test_accumulation_changes_nothing_but_rounding(folder, learned):
    losses = []
    for micro in (1, 4):
        worker = finetuning.Worker(experiment(folder, learned, micro_batch=micro))
        losses.append(worker.train(3))
    assert losses[0].loss == pytest.approx(losses[1].loss, rel=1e-5)
    assert losses[0].gradient_norm == pytest.approx(losses[1].gradient_norm, rel=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_resume_is_bit_identical(folder, learned, tmp_path, rank):
    if rank:
        pytest.importorskip("peft", reason="peft is not installed")
    wanted = experiment(folder, learned, model={"name": str(folder), "lora_rank": rank})
    whole, first, second = FineTuner(wanted), FineTuner(wanted), FineTuner(wanted)
    rows = [whole.train_iteration() for _ in range(3)]
    first.train_iteration()
    first.save(tmp_path)
    second.restore(tmp_path)
    again = [second.train_iteration() for _ in range(2)]
    timings = ("tokens_per_second", "time_learning_s", "time_validation_s")
    for before, after in zip(rows[1:], again, strict=True):
        assert {k: v for k, v in before.items() if k not in timings} == {
            k: v for k, v in after.items() if k not in timings
        }
    ours, theirs = (each._team.state()["weights"] for each in (whole, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert rows[-1]["optimizer_steps"] == 6


def test_resume_is_bit_identical_for_a_model_with_dropout(learned, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = small_language_models.tokenizer()
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 0, "eos_token_id": 0}
    dropout = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    model = tmp_path / "model"
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, **dropout)).save_pretrained(model)
    tokenizer.save_pretrained(model)
    whole, first, second = (FineTuner(experiment(model, learned)) for _ in range(3))
    losses = [whole.train_iteration()["train_loss"] for _ in range(3)]
    assert first.train_iteration()["train_loss"] == losses[0]
    first.save(tmp_path)
    second.restore(tmp_path)
    assert [second.train_iteration()["train_loss"] for _ in range(2)] == losses[1:]
    ours, theirs = (each._team.state()["weights"] for each in (whole, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.gpu
def test_the_state_of_a_run_on_a_gpu_is_in_the_memory_of_the_machine(folder, learned):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    worker = finetuning.Worker(experiment(folder, learned, compute={"device": "cuda"}))
    worker.train(1)
    state = worker.state()
    tensors = [*state["weights"].values()]
    tensors += [each for moments in state["optimizer"]["state"].values() for each in moments.values()]
    assert {each.device.type for each in tensors} == {"cpu"}
    worker.load(state)
    worker.train(1)


def test_examples_that_are_longer_than_a_row_are_counted_at_the_start(folder, tmp_path, caplog):
    source = tmp_path / "source"
    source.mkdir()
    lines = "".join(f"    total = total + {n}\n" for n in range(60))
    long = f'\ndef long(total):\n    """Adds many numbers to one."""\n{lines}    return total\n'
    (source / "a.py").write_text("import os\n" + "".join(SOURCE.format(n=n) for n in range(4)) + long)
    corpus.build(corpus.Settings((str(source),), against=()), tmp_path / "corpus")
    with caplog.at_level("WARNING", "quadriga"):
        FineTuner(experiment(folder, tmp_path / "corpus", data={"validation_share": 0.0}))
    assert caplog.messages == ["1 of 5 examples are longer than data.length = 128 and left out"]


def test_a_run_is_trained_resumed_exported_and_sampled_from_the_command_line(folder, learned, tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "exported"
    common = ["--runs-dir", str(runs)]
    options = ["--corpus", str(learned), "--model", str(folder), "--steps", "2", "--name", "mine", "--quiet"]
    small = ["data.length=128", "batch_size=2", "report_every=1", "optimizer.learning_rate=0.01"]
    small += ["data.validation_share=0.2"]
    chosen = [part for each in small for part in ("--set", each)]
    assert run(["code", "finetune", "codex-functions", *options, *chosen, *common]) == 0
    capsys.readouterr()
    assert run(["code", "finetune", "--resume", "mine", "--steps", "3", *common]) == 0
    assert f"\n  quadriga code export {runs}/mine mine-model\n" in capsys.readouterr().out
    assert run(["code", "export", "mine", str(out), *common]) == 0
    assert "optimizer step 3" in capsys.readouterr().out
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    before = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("def add(", return_tensors="pt").input_ids
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, before(ids).logits)
    assert run(["code", "export", "mine", str(out), *common]) == 2
    assert "already and not empty" in capsys.readouterr().err


def test_two_workers_learn_what_one_does(folder, learned, ray_session):
    one = FineTuner(experiment(folder, learned))
    two = FineTuner(experiment(folder, learned, compute={"workers": 2, "device": "cpu"}))
    try:
        for _ in range(3):
            alone, shared = one.train_iteration(), two.train_iteration()
            assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
            assert shared["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-3)
    finally:
        two.stop()


@pytest.mark.parametrize("form", ["files", "functions", "docstrings"])
def test_forms_of_data(folder, learned, form):
    settings = experiment(folder, learned, data={"form": form, "validation_share": 0.0}).data
    found = list(training_data.documents(settings))
    assert len(found) == {"files": 5}.get(form, 30)
    first = found[0]
    if form == "functions":
        assert (
            first.prompt.endswith('both numbers."""')
            and first.target == "\n    total = first + second\n    return total + 0\n"
        )
    if form == "docstrings":
        assert "Adds" not in first.prompt and first.target == 'Adds 0 to the sum of both numbers."""\n'
    tokenizer = small_language_models.tokenizer()
    rows = training_data.load(settings, tokenizer).train.rows
    ends = int((rows.labels == tokenizer.eos_token_id).sum())
    assert ends == len(found)


def test_solutions_are_the_samples_that_passed(builtin, tmp_path, capsys):
    known = dict(list(builtin.items())[:2])
    problems = tmp_path / "p.jsonl"
    samples = tmp_path / "s.jsonl"
    with problems.open("w") as file, samples.open("w") as out:
        for problem in known.values():
            row = {"task_id": problem.task_id, "prompt": problem.prompt, "entry_point": problem.entry_point}
            file.write(json.dumps({**row, "test": problem.tests}) + "\n")
            for code in (problem.canonical, problem.canonical, "    return None\n"):
                out.write(json.dumps({"task_id": problem.task_id, "completion": code}) + "\n")
    assert run(["code", "execute", str(samples), "--problems", str(problems), "--timeout", "30", "--k", "1"]) == 0
    settings = CodeExperiment(
        preset="codex-s", steps=1, data={"form": "solutions", "samples": str(samples), "problems": str(problems)}
    ).data
    found = list(training_data.documents(settings))
    assert [each.prompt + each.target for each in found] == [p.prompt + p.canonical for p in known.values()]


@pytest.mark.parametrize(("rank", "advice"), [(0, "adapters .--lora-rank 8., or a smaller"), (4, "or a smaller model")])
def test_what_does_not_fit_is_said_with_what_would(folder, learned, monkeypatch, rank, advice):
    monkeypatch.setattr(finetuning.models, "free_memory", lambda device: 1000)
    with pytest.raises(UserError, match=f"does not fit: .*{advice}"):
        finetuning.Worker(experiment(folder, learned, model={"name": str(folder), "lora_rank": rank}))


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [finetuning.learning_rate(settings, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[60] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_what_is_wrong_is_said_before_anything_starts(folder, learned, tmp_path, capsys):
    options = ["--runs-dir", str(tmp_path / "runs"), "--quiet"]
    for name, content in (("torn", b"PAR1 torn"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / corpus.FUNCTIONS).write_bytes(content)
    none = corpus.pq.read_table(learned / corpus.FUNCTIONS).slice(0, 0)
    corpus.pq.write_table(none, tmp_path / "empty" / corpus.FUNCTIONS)
    functions = ["codex-functions", "--model", str(folder), "--corpus"]
    bad = [
        ([*functions, str(tmp_path / "torn")], "damaged, or no file of a corpus"),
        ([*functions, str(tmp_path / "empty")], "the corpus is empty"),
        (["codex", "--model", str(folder)], "data.corpus: data.form files needs it"),
        (["codex", "--model", str(folder), "--corpus", "nowhere"], "no such file; make it: quadriga code corpus build"),
        (["codex", "--model", "./nowhere", "--corpus", str(learned)], "no such folder"),
        (["codex", "--corpus", str(learned), "--set", "batch_size=3", "--workers", "2"], "multiple of compute.workers"),
    ]
    for words, complaint in bad:
        assert run(["code", "finetune", *words, *options]) == 2
        assert complaint in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="is more than the model's 512 tokens"):
        finetuning.Worker(experiment(folder, learned, data={"length": 1024}))
    with pytest.raises(UserError, match=r"nothing to learn from: of 30 examples all are longer than data.length = 16"):
        finetuning.Worker(experiment(folder, learned, data={"length": 16, "validation_share": 0.0}))
    (tmp_path / CHECKPOINT).write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="no checkpoint of a fine-tuning"):
        read_state(tmp_path)
