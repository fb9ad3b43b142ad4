"""Where weights come from: a commit that a name pins, and one sentence each where none can."""

from __future__ import annotations

import shutil

import pytest
import torch
from anechoic_lab.embedders.clip import ClipEmbedder
from huggingface_hub import close_session, constants
from support import embedder_models as models
from support.hub import RefusingHub, serving

from anechoic.embedders import embedder
from anechoic.embedders.clap import Clap
from anechoic.embedders.weights import WeightsLocation, find, fingerprint, why
from anechoic.errors import UnknownEmbedder

OLD, NEW = "0" * 40, "1" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache, with a repository me/clap of two commits; the newer one is current."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--me--clap"
    for seed, commit in enumerate((OLD, NEW)):
        models.save_clap(repository / "snapshots" / commit, seed=seed)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(NEW)
    return repository


def test_a_name_is_pinned_to_the_commit_that_was_read(cache):
    newest = Clap("me/clap")
    assert newest.name == f"clap:me/clap@{NEW}"
    pinned = embedder(f"clap:me/clap@{OLD}")
    assert pinned.name == f"clap:me/clap@{OLD}"
    assert pinned.revision != newest.revision
    (cache / "refs/main").write_text(OLD)  # the repository moves on, the name does not
    assert embedder(newest.name).revision == newest.revision
    assert Clap("me/clap").revision == pinned.revision
    assert pinned.text(["a dog"]).shape == (1, 16)


def test_a_pipeline_on_the_hub_gives_its_clap(cache):
    snapshot = cache / "snapshots" / NEW
    alone = Clap("me/clap").revision
    for part, files in {
        "text_encoder": ("config.json", "model.safetensors"),
        "feature_extractor": ("preprocessor_config.json",),
    }.items():
        (snapshot / part).mkdir()
        for file in files:
            shutil.move(snapshot / file, snapshot / part)
    (snapshot / "model_index.json").write_text("{}")
    clap = Clap("me/clap")
    assert (clap.name, clap.revision) == (f"clap:me/clap@{NEW}", alone)


@pytest.mark.parametrize("make", [Clap, ClipEmbedder])
@pytest.mark.parametrize(
    ("source", "mend"),
    [
        ("anechoic-tests/not-here", "HF_HUB_OFFLINE is set; unset it, run 'hf download anechoic"),
        ("/no/such/folder", "which is neither; correct it"),
        ("no--id/model", "which is neither; correct it"),
    ],
)
def test_offline_what_is_not_here_is_one_sentence(make, source, mend, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownEmbedder, match=r"^expected .*, got .*; ") as raised:
        make(source)
    assert mend in str(raised.value)


def test_offline_a_copy_without_its_weights_is_one_sentence(cache):
    (cache / "snapshots" / NEW / "model.safetensors").unlink()
    with pytest.raises(UnknownEmbedder, match=r"^expected the weights of 'me/clap@1*', got no who"):
        Clap("me/clap")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's client, directed to a server of this test."""
    with serving(RefusingHub) as endpoint:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()  # it was opened offline, perhaps
        yield endpoint
        close_session()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "gated/model",
            "expected CLAP weights that may be read, got the gated repository 'gated/model'; "
            "accept its terms at {hub}/gated/model and run 'hf auth login', or set HF_TOKEN",
        ),
        (
            "private/model",
            "expected a folder or a repository on huggingface.co with a CLAP, got 'private/model', "
            "which is neither; correct it, or run 'hf auth login' if it is private",
        ),
        (
            "old/model@v7",
            "expected a commit, tag or branch of 'old/model', got 'v7', which does not exist; "
            "correct it, or leave it out for the newest",
        ),
        (
            "plain/model",
            "expected a repository with a CLAP, got 'plain/model', which lacks files of one; name "
            "another",
        ),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_each(hub, source, sentence):
    with pytest.raises(UnknownEmbedder) as raised:
        find("CLAP", source)
    assert str(raised.value) == sentence.format(hub=hub)


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    sentence = why(WeightsLocation("CLAP", "me/clap", OLD), ConnectionError("no route to host"))
    assert sentence == (
        f"expected the weights of 'me/clap@{OLD}', got neither a local copy nor an answer of "
        "huggingface.co (no route to host); run 'hf download me/clap' where there is a "
        "connection, or name a folder: 'clap:/path/to/weights'"
    )


def test_one_weight_of_another_sign_is_another_model():
    model = torch.nn.Linear(8, 8)
    before = fingerprint(model)
    model.weight.data[3, 3].neg_()
    assert fingerprint(model) != before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_number_format_does_not_change_which_model_it_is(dtype):
    model = models.clap()
    model.audio_projection.linear1.weight.data[0, 0] = -1e-30  # to half precision it is -0
    before = fingerprint(model)
    assert fingerprint(model.to(dtype)) == before


def test_a_folder_is_found_wherever_it_is_named_from(tmp_path, monkeypatch):
    folder = tmp_path / "a@b"  # no revision: a folder may be called so
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("CLAP", "a@b") == WeightsLocation("CLAP", str(folder))
