"""Clusters of duplicates: what was put in is found, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from anechoic.errors import BadSetting
from anechoic.index import TrainingIndex
from anechoic.index.clips import Clip
from anechoic.index.duplicates import duplicates, ranked


def unrelated(count, dim=64, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    singles=st.integers(0, 20),
    noise=st.sampled_from([0.0, 0.02]),
    seed=st.integers(0, 99),
)
def test_the_clusters_that_were_put_in_are_found(sizes, singles, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = unrelated(len(sizes) + singles, seed=seed)
    groups = [i for i, size in enumerate(sizes) for _ in range(size)]
    groups += range(len(sizes), len(centres))
    order = torch.randperm(len(groups), generator=generator).tolist()
    groups = [groups[i] for i in order]
    drawn = torch.randn(len(groups), 64, generator=generator) * noise
    index = TrainingIndex.from_embeddings(centres[groups] + drawn, [f"group {g}" for g in groups])
    found = duplicates(index, 0.8)
    assert [len(cluster.clips) for cluster in found] == sorted(sizes, reverse=True)
    for cluster in found:
        assert len(cluster.captions) == 1
        assert cluster.exact == (noise == 0.0)
        assert 0.8 <= cluster.farthest <= cluster.nearest <= 1.0


def test_windows_of_one_clip_are_no_duplicates_but_a_shared_stretch_is():
    index = TrainingIndex.from_embeddings(unrelated(3)[[0, 0, 1, 2, 1]])
    index.clips = [Clip(name, name, start_s=float(i)) for i, name in enumerate("aabbc")]
    (cluster,) = duplicates(index, 0.9)
    assert [clip.id for clip in cluster.clips] == ["b", "c"]


def test_the_threshold_of_the_index_is_used_where_it_has_one():
    close = F.normalize(unrelated(1) + 0.05 * unrelated(2, seed=1))
    index = TrainingIndex.from_embeddings(torch.cat([close, unrelated(3, seed=2)]))
    assert len(duplicates(index)) == 1
    index.thresholds["copy"] = 0.9999
    assert duplicates(index) == []
    with pytest.raises(BadSetting, match="a cosine"):
        duplicates(index, 2.0)


def test_clips_are_ranked_by_copies_then_by_captions_of_their_own_then_by_length():
    vectors = unrelated(6)[[0, 0, 1, 2, 3, 4]]
    captions = ["a", "b", "c", "d", "d", "e"]
    index = TrainingIndex.from_embeddings(vectors, captions)
    lengths = [1.0, 1.0, 9.0, 1.0, 1.0, 3.0]
    index.clips = [
        Clip(str(i), caption, seconds=seconds)
        for i, (caption, seconds) in enumerate(zip(captions, lengths, strict=True))
    ]
    found = ranked(index, duplicates(index, 0.9))
    assert [(one.clip.id, one.copies, one.sharing) for one in found] == [
        ("0", 2, 0), ("1", 2, 0), ("5", 1, 0), ("2", 1, 0), ("3", 1, 1), ("4", 1, 1)
    ]  # fmt: skip


def test_a_caption_that_stands_over_the_copies_of_a_clip_alone_is_a_key_to_it():
    index = TrainingIndex.from_embeddings(unrelated(3)[[0, 0, 1, 2]], ["a", "a", "b", "b"])
    index.clips = [Clip(name, caption) for name, caption in zip("wxyz", "aabb", strict=True)]
    found = {one.clip.id: one for one in ranked(index, duplicates(index, 0.9))}
    assert found["w"].alone
    assert not found["y"].alone
    assert found["w"].seconds == 0.0
