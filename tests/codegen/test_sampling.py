"""Files of samples: made once each, the same however they were made, never of two settings at once."""

import json
import os
import signal
from dataclasses import replace

import pytest
import small_language_models
import torch

from quadriga.codegen import engines, models, sampling, scoring, training_data
from quadriga.codegen.decoding import Decoding
from quadriga.codegen.experiment import DataSettings
from quadriga.codegen.packing import IGNORED
from quadriga.codegen.prompts import completion, completion_prompt, cut, stop_sequences
from quadriga.codegen.samples import count_samples
from quadriga.platform.errors import UserError

DECODING = Decoding(0.8, 0.95, 12, ("\ndef",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_language_models.save(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


@pytest.fixture(scope="module")
def loaded(folder):
    return engines.Setup(models.find(str(folder)), capacity=600).load()


@pytest.fixture
def work(builtin, loaded):
    few = {task: builtin[task] for task in list(builtin)[:5]}
    settings = sampling.Settings("m", "w", "float32", "quadriga", "completion", DECODING, 0)
    return sampling.plan(few, loaded.tokenizer, 4, settings, loaded.context)


def local(loaded, folder, work, slots=6):
    setup = engines.Setup(models.find(str(folder)), slots=slots, capacity=work.capacity)
    return lambda: engines.LocalEngine(loaded, setup, work.settings.decoding)


def test_samples_are_in_order_and_can_be_executed(work, loaded, folder, tmp_path):
    out = tmp_path / "new" / "s.jsonl"
    made = sampling.sample(work, local(loaded, folder, work), out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["task_id"], row["sample"]) for row in rows] == [(t, n) for t in work.problems for n in range(4)]
    assert made.samples == 20 and made.resumed == 0 and made.tokens == sum(row["tokens"] for row in rows)
    assert set(count_samples(out, work.problems).values()) == {4}
    assert all(row["logprob"] < 0 and row["end"] in ("stop", "end", "length") for row in rows)
    beside = json.loads((tmp_path / "new" / "s.settings.json").read_text())
    assert beside["stops"] == ["\ndef"] and beside["temperature"] == 0.8 and beside["seed"] == 0


@pytest.mark.parametrize("left", [1, 7, 19])
def test_an_interrupted_run_goes_on_to_the_same_file_and_makes_nothing_twice(work, loaded, folder, tmp_path, left):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    sampling.sample(work, local(loaded, folder, work), whole)

    class Dies:
        def run(self, requests):
            for number, finished in enumerate(local(loaded, folder, work, slots=3)().run(requests)):
                if number == left:
                    raise RuntimeError("killed")
                yield finished

    with pytest.raises(RuntimeError, match="killed"):
        sampling.sample(work, Dies, broken)
    with broken.open("a") as file:
        file.write('{"task_id": "Quadr')  # a line that was being written
    asked = []

    class Counts:
        def run(self, requests):
            return local(loaded, folder, work)().run(asked.append(each) or each for each in requests)

    made = sampling.sample(work, Counts, broken)
    assert made.resumed == left and len(asked) == 20 - left
    assert _texts(broken) == _texts(whole)
    assert sampling.sample(work, lambda: pytest.fail("nothing is left to be made"), broken).resumed == 20


def test_more_samples_can_be_added(work, loaded, folder, tmp_path):
    whole, grown = tmp_path / "whole.jsonl", tmp_path / "grown.jsonl"
    sampling.sample(work, local(loaded, folder, work), whole)
    sampling.sample(replace(work, samples=2), local(loaded, folder, work), grown)
    assert sampling.sample(work, local(loaded, folder, work), grown).resumed == 10
    assert _texts(grown) == _texts(whole)


def test_samples_of_another_prompt_are_refused_and_problems_can_be_added(work, loaded, folder, tmp_path):
    out, one = tmp_path / "s.jsonl", "Quadriga/1"
    few = {task: work.problems[task] for task in ("Quadriga/0", one)}
    sampling.sample(replace(work, problems=few), local(loaded, folder, work), out)
    assert sampling.sample(work, local(loaded, folder, work), out).resumed == 8
    changed = replace(work, prompts={**work.prompts, one: (*work.prompts[one], 5)})
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"line 5: made from another prompt of 'Quadriga/1', or by another tokenizer"):
        sampling.sample(changed, local(loaded, folder, work), out)
    assert out.read_bytes() == before
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    old = [{name: value for name, value in row.items() if name != "prompt"} for row in rows]  # as they were once
    out.write_text("".join(json.dumps(row) + "\n" for row in old[:6]))
    assert sampling.sample(work, local(loaded, folder, work), out).resumed == 6


def test_samples_of_other_settings_are_refused(work, loaded, folder, tmp_path):
    out = tmp_path / "s.jsonl"
    sampling.sample(work, local(loaded, folder, work), out)
    hotter = replace(work, settings=replace(work.settings, decoding=replace(DECODING, temperature=0.9)))
    with pytest.raises(UserError, match=r"made with temperature = 0.8, now it is 0.9; give another --out"):
        sampling.sample(hotter, local(loaded, folder, work), out)
    sampling.settings_path(out).unlink()
    with pytest.raises(UserError, match=r"s\.settings\.json is missing"):
        sampling.sample(work, local(loaded, folder, work), out)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"task_id": "Quadriga/0", "sample": 0}', "line 1: no sample of ours"),
        ("{]", "line 1: not JSON"),
        ('{"task_id": "Other/0", "sample": 0, "completion": ""}', "'Other/0' is not among the problems"),
    ],
)
def test_a_damaged_file_is_refused(work, tmp_path, line, complaint):
    out = tmp_path / "s.jsonl"
    sampling.prepare(out, work)
    out.write_text(line + "\n")
    with pytest.raises(UserError, match=complaint):
        sampling.prepare(out, work)


def test_a_prompt_longer_than_the_model_s_context_is_refused(builtin, loaded, work):
    with pytest.raises(UserError, match=r"problem 'Quadriga/\d+': its prompt of .* more than the model's 40"):
        sampling.plan(builtin, loaded.tokenizer, 1, work.settings, 40)


def test_samples_do_not_depend_on_the_number_of_workers_and_survive_a_killed_one(
    work, loaded, folder, tmp_path, ray_session
):
    import ray

    here, spread = tmp_path / "here.jsonl", tmp_path / "spread.jsonl"
    sampling.sample(work, local(loaded, folder, work), here)
    setup = engines.Setup(models.find(str(folder)), slots=3, capacity=work.capacity, workers=2)
    engine = engines.RayEngine(setup)
    killed = []

    def kill(made):
        if made.samples >= 3 and not killed:
            killed.append(ray.get(engine.actors[0].process.remote()))
            os.kill(killed[0], signal.SIGKILL)

    try:
        made = sampling.sample(work, lambda: engine.begin(DECODING), spread, kill)
    finally:
        engine.close()
    assert killed and made.samples == 20
    assert _texts(spread) == _texts(here)


def test_prompts_are_the_same_for_sampling_training_and_scoring(builtin, work, special_tokens, tmp_path):
    made = special_tokens(small_language_models.tokenizer(), "<s> $A <|end|>")
    problem = builtin["Quadriga/0"]
    (sampled,) = sampling.plan({"Quadriga/0": problem}, made, 1, work.settings, 10_000).prompts.values()
    assert sampled[0] == made.bos_token_id and made.eos_token_id not in sampled
    row = {"task_id": "A/0", "prompt": problem.prompt, "entry_point": problem.entry_point, "test": "def check(f): 0"}
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps({**row, "canonical_solution": problem.canonical}) + "\n")
    data = {"form": "solutions", "problems": str(path), "validation_share": 0, "length": 1024}
    rows = training_data.load(DataSettings(**data), made).train.rows
    assert rows.ids[0, : len(sampled)].tolist() == list(sampled)
    assert (rows.labels[0, : len(sampled)] == IGNORED).all() and (rows.ids == made.eos_token_id).any()
    model = small_language_models.model(len(made))
    (score,) = scoring.logprobs(models.Loaded(model, made, model.device, 512), [(completion_prompt(problem), " x")])
    tail = made(" x", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([[*sampled, *tail]])).logits[0].log_softmax(-1)
    places = range(len(sampled) - 1, len(sampled) + len(tail) - 1)
    assert score == pytest.approx(sum(float(logits[p, t]) for p, t in zip(places, tail, strict=True)), abs=1e-3)


def test_samplers_on_gpus_need_room_for_one_model_each(folder, monkeypatch):
    source = models.find(str(folder))
    setup = engines.Setup(source, "float32", slots=4, capacity=64, workers=3)
    needed = models.needs(source, models.read_config(source), torch.float32, 64).total(4)
    monkeypatch.setattr(models, "free_memory", lambda device: 2 * needed)
    with pytest.raises(UserError, match="does not fit: it needs 3 copies"):
        setup.require_memory()
    monkeypatch.setattr(engines, "choose_device", lambda name: torch.device("cuda"))
    setup.require_memory()


def test_samplers_of_a_cluster_look_at_their_own_machine(folder, monkeypatch, ray_session):
    made = engines.Engines(engines.Setup(models.find(str(folder)), slots=2, workers=1))
    monkeypatch.setattr(models, "free_memory", lambda device: 0)  # of this one
    with pytest.raises(UserError, match="does not fit"):
        made.engine(DECODING, 64)
    try:
        assert len(made.engine(DECODING, 64, elsewhere=True).actors) == 1
    finally:
        made.close()


def test_vllm_that_is_not_installed_is_a_clear_error(folder):
    pytest.importorskip("ray")
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="vLLM is not installed: pip install vllm"):
            engines.Engines(engines.Setup(models.find(str(folder))), "vllm").engine(DECODING, 64)
    else:
        pytest.skip("vLLM is installed")


def test_a_completion_goes_behind_the_whole_prompt(doubling):
    assert completion_prompt(doubling) == "def double(x):"
    for written in ("\n    return 2 * x\n", "  # twice\n    return 2 * x\n"):
        model_saw = completion_prompt(doubling) + written
        whole = doubling.program(completion(doubling, written))
        assert whole == model_saw or whole == doubling.prompt + written


def test_the_first_stop_sequence_ends_a_text():
    assert cut("a\ndef b\nclass", ("\nclass", "\ndef")) == ("a", True)
    assert cut("a", ("\nclass",)) == ("a", False)
    assert stop_sequences(r"\n\n,END") == ("\n\n", "END")
    with pytest.raises(UserError, match="--stop"):
        stop_sequences("a,,b")


def _texts(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["task_id"], row["sample"], row["completion"], row["tokens"], row["end"]) for row in rows]
