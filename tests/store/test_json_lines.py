"""Files of JSON lines whose writer was killed."""

from pathlib import Path

from w2s_ray.store.json_lines import append_line, open_for_appending, whole_lines


def test_an_incomplete_last_line_is_skipped_by_readers_and_removed_by_writers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert whole_lines(path) == ['{"a": 1}', '{"a": 2}']
    append_line(path, {"a": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'


def test_a_file_with_only_an_incomplete_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a"')
    open_for_appending(path).close()
    assert path.read_bytes() == b""


def test_a_line_that_an_older_version_ended_with_a_line_break_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a\n{"a": 2}\n')
    assert whole_lines(path) == ['{"a": 1}', '{"a": 2}']


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert whole_lines(tmp_path / "none.jsonl") == []
