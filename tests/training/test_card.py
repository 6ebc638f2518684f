"""The card of an adapter: its numbers, counted a second way, and what reading it back refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from suffice.classifier import Classifier
from suffice.datasets import load_dataset
from suffice.errors import InputError
from suffice.explainers.lax import AdapterSettings, card_in_words, heatmaps, load_adapter, new_adapter
from suffice.images import to_model
from suffice.training.card import with_card


def tiny() -> Classifier:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten(), nn.Linear(16, 2)
    )
    return Classifier(network, input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1), name="tiny")


def test_numbers_counted_a_second_way(photos: Path) -> None:
    (photos / "val" / "left" / "99.png").write_bytes(b"no image")
    classifier = tiny()
    training, test = (load_dataset(str(photos), split=split) for split in ("train", "test"))
    untrained = new_adapter(classifier, AdapterSettings(design="paper"))
    adapter = dataclasses.replace(untrained, trained={"alpha_min": 0.5, "labels": "true"})
    card = with_card(adapter, classifier, training, test).card
    found = card["test"]

    unreadable = [i for i in range(len(test)) if "99" in test.paths[i]]  # type: ignore[attr-defined]
    assert found["failures"]["unreadable"] == unreadable
    wrong, short, left, areas = [], [], [], []
    for index in range(len(test)):
        if index in unreadable:
            continue
        image = to_model(test.photo(index), classifier)
        _, maps = heatmaps(classifier, adapter, image[None])
        part = maps[0] > 0.5
        areas.append(float(part.double().mean()))
        for failed, shown in ((wrong, image), (short, image * part), (left, image * ~part)):
            top = int(classifier.module(shown[None]).argmax())
            if (top == test.labels[index]) == (failed is left):
                failed.append(index)
    named = found["failures"]
    assert (named["misclassified"], named["insufficient"], named["complement_keeps_class"]) == (wrong, short, left)
    assert found["msi_penalty"]["mean"] == pytest.approx(sum(areas) / len(areas), abs=1e-5)
    assert found["msi"]["mean"] == pytest.approx(found["msi_base"]["mean"] - found["msi_penalty"]["mean"], abs=2e-6)
    assert card["base"] == {"model": "tiny", "weights_sha256": adapter.backbone["weights"]}
    assert "test" not in with_card(adapter, classifier, training, None).card
    assert "own choices" not in card_in_words(card)


def test_saved_and_read_back_and_another_structure_refused(photos: Path, tmp_path: Path) -> None:
    classifier = tiny()
    data = load_dataset(str(photos), split="train")
    adapter = dataclasses.replace(
        new_adapter(classifier, AdapterSettings(design="paper")), trained={"alpha_min": 0.5, "labels": "predicted"}
    )
    path = tmp_path / "lax" / "adapter.safetensors"
    with_card(adapter, classifier, data, data).save(path)
    card = load_adapter(path, classifier).card
    assert card == json.loads((tmp_path / "lax" / "adapter.card.json").read_text())
    assert card["test"]["failures"]["misclassified"] == [], "its own choices are what it was trained on"
    assert ", on the model's own choices; on " in card_in_words(card)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["suffice"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for broken in ([1], {"data": 3}, {"data": {"name": "x", "images": "many"}}):
        save_file(state, tmp_path / "broken.safetensors", {"suffice": json.dumps({**header, "card": broken})})
        with pytest.raises(InputError, match="expected the card of an adapter in"):
            load_adapter(tmp_path / "broken.safetensors", classifier)
    del header["card"]  # as earlier versions wrote it
    save_file(state, tmp_path / "older.safetensors", {"suffice": json.dumps(header)})
    assert load_adapter(tmp_path / "older.safetensors", classifier).card == {}
