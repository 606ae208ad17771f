# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.manifest: what is read is what was written, or damage."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.train.manifest import DamageError, Manifest, Shard, read_manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def manifest(**changes):
    shards = (Shard(0, 10, "a" * 64), Shard(1, 20, "b" * 64))
    fields = {"generation": 4, "step": 70, "world_size": 2, "replicated": False, "shards": shards}
    return Manifest(**(fields | {"torch_version": "2.13.0", "metadata": {}} | changes))


def written(folder, **changes):
    manifest(**changes).write(folder)
    return folder / "manifest.json"


def without_seal(read):
    return {name: value for name, value in vars(read).items() if name != "sha256"}


@settings(deadline=None, max_examples=60)
@given(metadata=st.dictionaries(st.text(), JSON, max_size=4))
def test_what_was_written_is_read(tmp_path_factory, metadata):
    folder = tmp_path_factory.mktemp("generation")
    written(folder, metadata=metadata)
    expected = without_seal(manifest(metadata=metadata))
    assert without_seal(read_manifest(folder, 4)) == expected


def test_numbers_as_keys_of_metadata_become_text(tmp_path):
    written(tmp_path, metadata={10: "ten", 9: "nine"})
    assert read_manifest(tmp_path, 4).metadata == {"10": "ten", "9": "nine"}


def test_its_checksum_is_that_of_the_file_without_it(tmp_path):
    text = written(tmp_path).read_text()
    seal = json.loads(text)["sha256"]
    assert hashlib.sha256(text.replace(seal, "").rstrip("\n").encode()).hexdigest() == seal
    assert read_manifest(tmp_path, 4).sha256 == seal


def test_a_flipped_bit_in_each_byte_is_damage(tmp_path):
    path = written(tmp_path, metadata={"loss": 1.5})
    intact = path.read_bytes()
    for at in range(len(intact)):
        flipped = bytearray(intact)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises(DamageError, match=r"manifest\.json"):
            read_manifest(tmp_path, 4)


def test_each_truncation_is_damage(tmp_path):
    path = written(tmp_path)
    intact = path.read_bytes()
    for size in range(len(intact)):
        path.write_bytes(intact[:size])
        with pytest.raises(DamageError, match="checksum"):
            read_manifest(tmp_path, 4)


@settings(deadline=None, max_examples=100)
@given(raw=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_damage(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("generation")
    (folder / "manifest.json").write_bytes(raw)
    with pytest.raises(DamageError):
        read_manifest(folder, 4)


def test_deep_nesting_is_damage(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(DamageError):
        read_manifest(tmp_path, 4)


def test_that_of_another_generation_is_damage(tmp_path):
    written(tmp_path)
    with pytest.raises(DamageError, match="generation 4"):
        read_manifest(tmp_path, 5)


def test_another_schema_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("rdmatrain.train.manifest.SCHEMA", 3)
    written(tmp_path)
    monkeypatch.undo()
    with pytest.raises(DamageError, match="schema 3, known is 2"):
        read_manifest(tmp_path, 4)


@pytest.mark.parametrize("name", ["shards", "step", "schema"])
def test_a_sealed_one_without_a_field_is_damage(tmp_path, name):
    fields = json.loads(written(tmp_path).read_text())
    del fields[name]
    text = json.dumps(fields | {"sha256": ""}, indent=1, sort_keys=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "manifest.json").write_text(
        json.dumps(fields | {"sha256": seal}, indent=1, sort_keys=True) + "\n"
    )
    with pytest.raises(DamageError, match=name):
        read_manifest(tmp_path, 4)


def test_a_missing_one_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path, 4)
