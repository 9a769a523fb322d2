"""A loss belongs to its example alone, an accuracy means what it says, and training does what it is told."""

import math

import numpy as np
import pytest
import torch
from tiny_language import reader, tokenizer, writer
from torch import nn

from linnet.errors import ArgumentError, NonFiniteError
from linnet.llm import models
from linnet.llm.data.attack import attack
from linnet.llm.data.base import EvaluationSet, Example, Task
from linnet.llm.data.learner import Answers, Classes, LabelWords, learner
from linnet.llm.data.reasoning import reasoning
from linnet.llm.data.reviews import reviews
from linnet.llm.systems import LoRA
from linnet.llm.training import Score, evaluate, train

SUMS = [Example(f"{a} + {b} =", str(a + b)) for a in (1, 20, 345) for b in (6, 77)]
MOODS = [
    Example("fine", "yes", 1),
    Example("a bore, that much is sure", "no", 0),
    Example("so so", "no", 0),
    Example("ok", "yes", 1),
]
QUESTION = "\nIs it?"
CASES = {
    "answers": (writer, Answers(tokenizer(), "\nAnswer:"), SUMS),
    "words": (writer, LabelWords(tokenizer(), QUESTION, ("no", "yes")), MOODS),
    "classes": (lambda: models.SentenceClassifier(reader(), 2), Classes(tokenizer(), 2), MOODS),
}


def asked(model, one, examples):
    with torch.no_grad():
        return one.outcome(model, one.batch(examples))


# --- losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_loss_belongs_to_its_example(case):
    make, one, examples = CASES[case]
    model = make()
    alone = [asked(model, one, [e]) for e in examples]
    for chosen in (examples, examples[::-1], examples[1:3], [examples[0]] * 3):
        together = asked(model, one, chosen)
        for e, loss, correct in zip(chosen, together.losses, together.correct, strict=True):
            expected = alone[examples.index(e)]
            assert loss.item() == pytest.approx(expected.losses.item(), rel=0, abs=1e-12)
            assert correct == expected.correct.item()


def tokens(text):
    return tokenizer()(text)["input_ids"]


def likelihoods(model, prompt, answer):
    """Return the log-probability of each token of an answer, one pass without padding for each."""
    out = []
    for i, token in enumerate(answer):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer[:i]])).logits[0, -1]
        out.append(torch.log_softmax(logits, 0)[token].item())
    return out


def test_the_loss_of_an_answer_is_that_of_its_tokens_and_its_end():
    model, one, examples = writer(), *CASES["answers"][1:]
    outcome = asked(model, one, examples)
    for e, loss in zip(examples, outcome.losses, strict=True):
        answer = [*tokens(f" {e.answer}"), tokenizer().eos_token_id]
        assert loss.item() == pytest.approx(
            -np.mean(likelihoods(model, tokens(f"{e.text}\nAnswer:"), answer)), abs=1e-12
        )


def test_a_label_is_the_likelier_word():
    model, one, examples = writer(seed=3), *CASES["words"][1:]
    outcome = asked(model, one, examples)
    found = []
    for e, loss, correct in zip(examples, outcome.losses, outcome.correct, strict=True):
        words = [likelihoods(model, tokens(e.text + QUESTION), tokens(f" {word}"))[0] for word in ("no", "yes")]
        assert loss.item() == pytest.approx(-words[e.label], abs=1e-12)
        assert correct == (words[e.label] > words[1 - e.label])
        found.append(bool(correct))
    assert {*found} == {True, False}


def test_a_class_is_the_likeliest():
    make, one, examples = CASES["classes"]
    model = make()
    outcome = asked(model, one, examples)
    for e, loss, correct in zip(examples, outcome.losses, outcome.correct, strict=True):
        ids = torch.tensor([tokens(e.text)])
        chances = torch.softmax(model(ids, torch.ones_like(ids)).logits[0].detach(), 0)
        assert loss.item() == pytest.approx(-math.log(chances[e.label]), abs=1e-12)
        assert correct == (chances[e.label] > 0.5)


def test_an_answer_is_correct_if_greedy_decoding_writes_it():
    model, one = writer(), CASES["answers"][1]
    train(model, one, SUMS, steps=60, batch_size=4, lr=3e-3, seed=0)
    tried = [Example(e.text, answer) for e in SUMS for answer in (e.answer, e.answer[:-1] or "0", e.answer + "0")]
    correct = asked(model, one, tried).correct.tolist()  # all in one batch, of several lengths
    for e, right in zip(tried, correct, strict=True):
        prompt = torch.tensor([tokens(f"{e.text}\nAnswer:")])
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        said = tokenizer().decode(written[0, prompt.shape[1] :])
        assert right == (said == f" {e.answer}<end>"), said
    assert any(correct[::3])
    assert not all(correct)


def test_a_model_that_returns_all_positions_is_read_alike():
    model, one = writer(), CASES["answers"][1]
    batch = one.batch(SUMS)
    knowing = one.outcome(model, batch)
    all_of_them = one.outcome(lambda logits_to_keep, **inputs: model(**inputs), batch)
    assert torch.allclose(knowing.losses, all_of_them.losses, rtol=0, atol=1e-12)


def test_what_cannot_be_asked_is_refused():
    one = CASES["answers"][1]
    with pytest.raises(ArgumentError, match="no examples"):
        one.batch([])
    with pytest.raises(ArgumentError, match=r"is 71 tokens long; the model reads 64: cut it"):
        one.batch([Example("a" * 63, "b")])
    with pytest.raises(ArgumentError, match="a text is empty"):
        Answers(tokenizer(), "").batch([Example("", "b")])
    with pytest.raises(ArgumentError, match="'maybe' is 6 tokens"):
        LabelWords(tokenizer(), QUESTION, ("no", "maybe"))
    with pytest.raises(ArgumentError, match="two or more words"):
        LabelWords(tokenizer(), QUESTION, ("no", "no"))
    for other in (CASES["words"][1], CASES["classes"][1]):
        with pytest.raises(ArgumentError, match="the label None; give one of 0 to 1"):
            other.batch(SUMS)
        with pytest.raises(ArgumentError, match="the label 2; give one of 0 to 1"):
            other.batch([Example("x", "y", 2)])
    endless = tokenizer().__class__(tokenizer_object=tokenizer().backend_tokenizer, pad_token="<pad>")
    with pytest.raises(ArgumentError, match="no end-of-sequence token"):
        Answers(endless, "").batch(SUMS)


def test_a_task_says_how_a_model_is_asked():
    def language(kind):
        return models.LanguageModel("tiny", kind, writer(), tokenizer(), {}, "")

    moods = Task(
        "moods", tuple(MOODS[:2]), {"rest": EvaluationSet("in", "", tuple(MOODS[2:]))}, QUESTION, "", ("no", "yes")
    )
    sums = Task("sums", tuple(SUMS[:2]), {"rest": EvaluationSet("in", "", tuple(SUMS[2:]))}, "\nAnswer:", "")
    assert learner(language("causal"), moods) == LabelWords(tokenizer(), QUESTION, ("no", "yes"))
    assert learner(language("causal"), sums) == Answers(tokenizer(), "\nAnswer:")
    assert learner(language("encoder"), moods) == Classes(tokenizer(), 2)
    with pytest.raises(ArgumentError, match="tiny is an encoder and writes no answers"):
        learner(language("encoder"), sums)


# --- scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_score_is_in_the_order_of_the_examples(case, batch_size):
    make, one, examples = CASES[case]
    model = make()
    model.train()
    score = evaluate(model, one, examples, batch_size)
    assert model.training
    model.eval()
    alone = [asked(model, one, [e]) for e in examples]
    assert score.losses == pytest.approx([found.losses.item() for found in alone], rel=0, abs=1e-12)
    assert score.correct.tolist() == [found.correct.item() for found in alone]


def test_a_score_has_standard_errors():
    score = Score(np.array([1.0, 2.0, 6.0]), np.array([True, False, True]))
    assert (score.n, score.loss, score.accuracy) == (3, 3.0, pytest.approx(2 / 3))
    assert score.loss_error == pytest.approx(math.sqrt(7 / 3))
    assert score.accuracy_error == pytest.approx(math.sqrt(1 / 9))
    assert Score(score.losses[:1], score.correct[:1]).loss_error == math.inf


def test_a_loss_that_is_no_number_is_not_averaged():
    model, one = writer(tie_word_embeddings=False), CASES["answers"][1]
    with torch.no_grad():
        model.model.embed_tokens.weight[tokens("7")] = math.nan
    with pytest.raises(NonFiniteError, match=r"4 of 6 losses are not finite: nan of '1 \+ 6 ='"):
        evaluate(model, one, SUMS)
    with pytest.raises(ArgumentError, match="0 examples"):
        evaluate(model, one, [])


# --- training ---------------------------------------------------------------------------------------


class Recorded(nn.Module):
    """A model of one number, w: the loss of an example is w times the number that is its text."""

    def __init__(self, start=1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.seen = []


class Asking:
    """The learner that goes with it."""

    def batch(self, examples, device):
        return [float(e.text) for e in examples]

    def outcome(self, model, batch):
        model.seen.append((batch, model.w.item(), model.training))
        return type("Outcome", (), {"losses": model.w * torch.tensor(batch, dtype=torch.float64)})


class Plain:
    """Ready for plain gradient descent."""

    def __init__(self, model):
        self.model, self.parameters, self.made = model, list(model.parameters()), []

    def optimizer(self, lr, weight_decay=0.0, head_lr=None):
        self.made.append((lr, weight_decay))
        return torch.optim.SGD(self.parameters, lr=lr, weight_decay=weight_decay)


NUMBERS = [Example(str(0.1 * i), "") for i in range(1, 8)]


def descend(model, **options):
    plain = Plain(model.eval())
    options = {"steps": 10, "batch_size": 3, "lr": 0.5, "seed": 0} | options
    history = train(plain, Asking(), NUMBERS, **options)
    assert plain.made == [(options["lr"], options.get("weight_decay", 0.0))]
    return history


def test_a_step_is_what_the_schedule_says():
    model = Recorded()
    history = descend(model, warmup=0.2, clip=0.35)
    rates = [0.25, 0.5, *(0.5 * (10 - step) / 8 for step in range(2, 10))]
    path = [w for _, w, _ in model.seen] + [model.w.item()]
    means = [np.mean(batch) for batch, _, _ in model.seen]
    assert min(means) < 0.35 < max(means)  # some gradients are clipped, some are not
    for step, (rate, mean) in enumerate(zip(rates, means, strict=True)):
        assert path[step] - path[step + 1] == pytest.approx(rate * min(mean, 0.35), rel=1e-5)
    assert history.gradients == pytest.approx(means)
    assert history.losses == pytest.approx([w * mean for w, mean in zip(path, means, strict=False)])
    assert all(training for _, _, training in model.seen)
    assert not model.training
    assert history.seconds > 0


def test_every_example_comes_before_any_comes_again():
    model = Recorded()
    descend(model, steps=14)
    order = [number for batch, _, _ in model.seen for number in batch]
    assert len(order) == 42
    rounds = [order[i : i + 7] for i in range(0, 42, 7)]
    assert all(len(set(one)) == 7 for one in rounds)
    assert len({tuple(one) for one in rounds}) == 6
    other = Recorded()
    descend(other, steps=14, seed=1)
    assert [batch for batch, _, _ in other.seen] != [batch for batch, _, _ in model.seen]


def test_no_warm_up_begins_at_the_full_rate_and_one_step_is_a_step():
    model = Recorded()
    descend(model, steps=1, warmup=0.0, clip=10.0)
    assert 1.0 - model.w.item() == pytest.approx(0.5 * np.mean(model.seen[0][0]))
    model = Recorded()
    descend(model, steps=1, clip=10.0)
    assert 1.0 - model.w.item() == pytest.approx(0.5 * np.mean(model.seen[0][0]))


def test_weight_decay_reaches_the_optimiser():
    descend(Recorded(), weight_decay=0.3)


def run(seed, before=0):
    torch.manual_seed(before)
    model = models.SentenceClassifier(reader(dropout=0.3), 2)
    torch.manual_seed(before)
    state = torch.get_rng_state()
    history = train(model, CASES["classes"][1], MOODS, steps=4, batch_size=2, lr=1e-3, seed=seed)
    assert torch.equal(torch.get_rng_state(), state), "what is drawn elsewhere does not depend on a training"
    return history, model


def test_training_depends_on_its_seed_alone():
    one, model = run(seed=5, before=1)
    again, same = run(seed=5, before=2)
    assert np.array_equal(one.losses, again.losses)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    other, _ = run(seed=6, before=1)
    assert not np.allclose(one.losses, other.losses)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_is_none_stops_the_training(where):
    model = writer()
    one = CASES["answers"][1]
    if where == "loss":
        with torch.no_grad():
            model.model.norm.weight[0] = math.nan
    else:
        model.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match=rf"the {where} of step 1 is (nan|inf).*below 0.001"):
        train(model, one, SUMS, steps=2, batch_size=2, lr=1e-3, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], list(model.parameters())[:-1], strict=True))
    assert not model.training


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"batch_size": 8},
        {"lr": 0.0},
        {"lr": math.nan},
        {"head_lr": 0.0},
        {"head_lr": math.inf},
        {"clip": 0.0},
        {"warmup": 1.0},
    ],
)
def test_a_number_out_of_its_range_is_refused(wrong):
    with pytest.raises(ArgumentError, match=f"{next(iter(wrong))}="):
        descend(Recorded(), **wrong)


def test_a_frozen_model_is_refused():
    with pytest.raises(ArgumentError, match=r"give a fresh\(\) copy"):
        train(writer().requires_grad_(False), CASES["answers"][1], SUMS, steps=1, batch_size=1, lr=1e-3, seed=0)


def test_a_system_is_trained_and_restored():
    model, one = writer(), CASES["answers"][1]
    before = evaluate(model, one, SUMS)
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    with LoRA(rank=4).prepare(model) as prepared:
        train(prepared, one, SUMS, steps=20, batch_size=6, lr=1e-2, seed=0)
        after = evaluate(prepared.model, one, SUMS)
    assert after.loss < before.loss - 3 * before.loss_error
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())


# --- real models ------------------------------------------------------------------------------------


def test_minilm_learns_sentiment_and_is_misled():
    language = models.load("minilm")
    task = reviews(0, language.tokenizer, per_class=12, evaluated_per_class=10, tokens=32)
    one = learner(language, task)
    model = language.classifier(2)
    history = train(model, one, task.train, steps=18, batch_size=8, lr=3e-4, seed=0)
    assert history.losses[0] == pytest.approx(math.log(2), abs=0.1)  # it knows nothing yet
    learnt = evaluate(model, one, task.train)
    assert learnt.loss < 0.5 * history.losses[0]
    assert learnt.accuracy > 0.9
    found = attack(model, one, task.train[:6], "character", edits=3, queries=60)
    right, still = (sum(one.correct[i] for one in found) for i in (0, 1))
    assert still < right
    assert all(one.losses[1] > one.losses[0] for one in found if one.edits)


def test_smollm2_begins_to_add():
    language = models.load("smollm2")
    task = reasoning("chain_sum", 0, train=8, evaluated=8)
    one = learner(language, task)
    with LoRA(rank=4).prepare(language.model) as prepared:
        history = train(prepared, one, task.train, steps=4, batch_size=4, lr=2e-3, seed=0, warmup=0.0)
    assert history.losses[-1] < 0.7 * history.losses[0]
    assert 0 < evaluate(language.model, one, task.evaluation["chain_sum long"].examples).loss < 5
