"""Generators of devices that are not at hand, by stand-ins for them."""

import torch

from sktl._utils.torch_state import seeded


def test_generator_of_mps_is_seeded_and_put_back(monkeypatch):
    state = {"mps": "the user's"}
    fakes = {
        "get_rng_state": lambda: state["mps"],
        "set_rng_state": lambda new: state.update(mps=new),
        "manual_seed": lambda seed: state.update(mps=f"seed {seed}"),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.mps, name, fake)
    with seeded(7, torch.device("mps")):
        assert state["mps"] == "seed 7"
    assert state["mps"] == "the user's"


def test_generator_of_the_named_card_is_seeded_not_the_current_one(monkeypatch):
    class Generator:
        seed = None

        def manual_seed(self, seed):
            self.seed = seed

    cards, put_back = (Generator(), Generator()), []
    monkeypatch.setattr(torch.cuda, "default_generators", cards)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda card: f"state of {card}")
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, card: put_back.append((state, card))
    )
    with seeded(7, torch.device("cuda", 0)):
        assert (cards[0].seed, cards[1].seed) == (7, None)
    assert put_back == [("state of cuda:0", torch.device("cuda", 0))]
