from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import transformers

import binxent.torch
from binxent import kernel
from binxent.torch import binary_cross_entropy_with_logits
from tests.recipes import page

TINY = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_labels": 5,
    "problem_type": "multi_label_classification",
}


def test_trainer() -> None:
    ours = page.check_switch("Transformers", rtol=1e-4)
    # The model is not given the labels, and computes no loss of its own.
    assert ours.names["trainer"].compute_loss_func is ours.names["loss"]
    before = kernel.runs()
    ours.names["trainer"].evaluate(ours.names["data"][:8])
    assert kernel.runs() - before == 1


def accumulated(code: str, batch_size: int, steps: int) -> tuple[list[float], Any]:
    """One epoch of the same 256 samples in the same order, without dropout."""
    changed = code.replace("num_train_epochs=5", "num_train_epochs=1").replace("logging_steps=16", "logging_steps=1")
    changed = changed.replace(
        "use_cpu=True",
        f"use_cpu=True, per_device_train_batch_size={batch_size}, gradient_accumulation_steps={steps}, "
        "max_grad_norm=0, optim='sgd'",
    )
    changed = changed.replace(
        "vocab_size=50,", "vocab_size=50, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,"
    )
    run = page.run(changed)
    return run.losses, run.names["model"]


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    code = page.program("Transformers")
    whole, one = accumulated(code, 32, 1)
    parts, other = accumulated(code, 8, 4)
    assert parts == pytest.approx(whole, rel=1e-5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_is_said_of_a_plain_mean_and_of_the_models_own_loss() -> None:
    code = page.program("Transformers")
    whole, _ = accumulated(code, 32, 1)
    ours = "normalizer=num_items_in_batch"
    assert ours in code
    mean, _ = accumulated(code.replace(ours, "normalizer=None"), 8, 4)
    own, _ = accumulated(code.replace(", compute_loss_func=loss", ""), 8, 4)
    assert mean[0] == pytest.approx(4 * whole[0], rel=1e-5)
    assert own[0] == pytest.approx(4 * whole[0], rel=1e-5)


def test_without_the_number_of_items_it_is_the_mean() -> None:
    names = page.run(page.program("Transformers").replace("num_train_epochs=5", "num_train_epochs=1")).names
    logits, labels = torch.randn(4, 5), torch.eye(4, 5)
    outputs = transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)
    torch.testing.assert_close(names["loss"](outputs, labels), binary_cross_entropy_with_logits(logits, labels))


def test_loop() -> None:
    page.check_switch("In your own loop", rtol=1e-4)


LABELS = torch.eye(4, 5)


def check_line(line: str, model: Any, **inputs: torch.Tensor) -> None:
    """The loss that the model returns for labels is the same after the line as before, but the kernel's."""
    inputs["labels"] = LABELS
    before = kernel.runs()
    own = model.eval()(**inputs).loss
    assert kernel.runs() == before
    names = [transformers, binxent, binary_cross_entropy_with_logits]
    exec(line, {"model": model, **{name.__name__: name for name in names}})
    ours = model(**inputs).loss
    assert kernel.runs() == before + 1
    torch.testing.assert_close(ours, own)


TO_ATTRIBUTE, TO_NAME = (page.sides(diff)[1] for diff in page.blocks("Where the call is not yours", "diff"))


def first_step(code: str, batch_size: int, steps: int) -> torch.Tensor:
    """What the parameters move by, of 32 samples in the same order."""
    changed = code.replace("num_train_epochs=5", "max_steps=1").replace(
        "use_cpu=True",
        f"use_cpu=True, per_device_train_batch_size={batch_size}, gradient_accumulation_steps={steps}, "
        "max_grad_norm=0, optim='sgd', lr_scheduler_type='constant'",
    )
    changed = changed.replace(
        "trainer.train()", "start = [p.detach().clone() for p in model.parameters()]\ntrainer.train()"
    )
    names = page.run(changed).names
    pairs = zip(names["model"].parameters(), names["start"], strict=True)
    return torch.cat([(after - before).ravel() for after, before in pairs])


def test_what_is_said_of_a_models_loss_function_and_of_trainer() -> None:
    code = page.program("Transformers").replace("BertConfig", "LlamaConfig")
    code = code.replace("vocab_size=50,", "vocab_size=50, num_key_value_heads=2, head_dim=16, pad_token_id=0,")
    function = code.replace("def loss(", "def unused(").replace(", compute_loss_func=loss", "")
    function = function.replace("trainer = Trainer(", f"{TO_ATTRIBUTE}\ntrainer = Trainer(")
    own = function.replace("model.loss_function = loss", "")
    whole = first_step(code, 32, 1)
    assert whole.abs().max() > 1e-4  # and parameters of 1 are rounded to 1e-7
    torch.testing.assert_close(first_step(code, 8, 4), whole, rtol=1e-3, atol=5e-7)
    for wrong in (function, own):
        torch.testing.assert_close(first_step(wrong, 32, 1), whole, rtol=1e-3, atol=5e-7)
        torch.testing.assert_close(first_step(wrong, 8, 4), 4 * whole, rtol=1e-3, atol=5e-7)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Gemma"])
def test_loss_function_of_a_decoder(name: str) -> None:
    make = getattr(transformers, f"{name}Config")
    config = make(**TINY, vocab_size=50, num_key_value_heads=2, head_dim=16, pad_token_id=0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    check_line(TO_ATTRIBUTE, model, input_ids=torch.randint(1, 50, (4, 6)))


@pytest.mark.parametrize("name", ["ViT", "Dinov2"])
def test_loss_function_of_an_image_classifier(name: str) -> None:
    config = getattr(transformers, f"{name}Config")(**TINY, image_size=32, patch_size=16)
    model = transformers.AutoModelForImageClassification.from_config(config)
    check_line(TO_ATTRIBUTE, model, pixel_values=torch.rand(4, 3, 32, 32))


SIZES = {
    "Bert": {},
    "Roberta": {},
    "Deberta": {},
    "DistilBert": {"dim": 32, "hidden_dim": 32, "n_layers": 1, "n_heads": 2},
    "T5": {"d_model": 32, "d_ff": 32, "d_kv": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
}


@pytest.mark.parametrize("name", SIZES)
def test_a_class_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = getattr(transformers, f"{name}Config")(**{**TINY, **SIZES[name]}, vocab_size=50)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    tokens = torch.randint(2, 50, (4, 6))
    tokens[:, -1] = 1  # T5 looks for the end
    path = type(model).__module__
    module = sys.modules[path]
    monkeypatch.setattr(module, "BCEWithLogitsLoss", module.BCEWithLogitsLoss)  # put back afterwards
    check_line(TO_NAME.replace("transformers.models.bert.modeling_bert", path), model, input_ids=tokens)
