"""Fixtures shared by all tests."""

import atexit
import os

import hypothesis
import pytest

from tests.helpers.models import save_tiny_base

# How long an example takes depends on what else the machine does; timings belong in benchmarks.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


@atexit.register
def silence_the_end() -> None:
    """Triton's bindings say what they leak when the interpreter ends; pytest's summary is to be the last line."""
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 2)


def pytest_collection_modifyitems(items: list) -> None:
    """Files with a whole pipeline first: it takes minutes, and started last it would run alone at the end."""
    whole = {item.path for item in items if item.get_closest_marker("pipeline")}
    items.sort(key=lambda item: item.path not in whole)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level tokenizer of 300 tokens, trained on a few contexts of the four tasks."""
    from swiftkv.base_model.tokenizer import train_tokenizer
    from swiftkv.config import load_config

    return train_tokenizer(load_config().tasks, 300, seed=0, contexts=5)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory, tiny_tokenizer):
    """Directory of a saved random Llama with tokenizer: hidden 64, 8 layers, 2 heads of 32, 1 KV head, vocab 300."""
    directory = tmp_path_factory.mktemp("models") / "tiny-base"
    save_tiny_base(directory, tiny_tokenizer)
    return directory


@pytest.fixture(scope="session")
def tiny_student(tiny_base, tmp_path_factory):
    """Directory of an undistilled student of the tiny base: cut 4 of 8, AcrossKV 2."""
    from swiftkv.modeling.convert import convert

    directory = tmp_path_factory.mktemp("models") / "tiny-student"
    convert(tiny_base, directory, 4, 2)
    return directory
