"""No two workers write into one folder, and a worker that starts again finds its own work."""

from __future__ import annotations

from pathlib import Path

from service.jobs.job_folders import JobFolders


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".lock")


def test_an_attempt_goes_on_with_what_the_one_before_left_on_this_host(tmp_path: Path) -> None:
    folders = JobFolders(tmp_path)
    with folders.opened("job", 1) as first:
        (first / "half.npz").touch()
    with folders.opened("job", 2) as second:
        assert _names(second) == ["half.npz"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["job.2"]


def test_files_of_an_attempt_that_still_runs_are_left_to_it(tmp_path: Path) -> None:
    with JobFolders(tmp_path).opened("job", 1) as first:
        (first / "half.npz").touch()
        with JobFolders(tmp_path).opened("job", 2) as second:
            assert _names(second) == []
        JobFolders(tmp_path).drop("job")
        assert _names(first) == ["half.npz"]
        assert not second.exists()


def test_files_from_before_another_hosts_attempt_are_not_taken_for_that_ones(tmp_path: Path) -> None:
    folders = JobFolders(tmp_path)
    with folders.opened("job", 1) as first:
        (first / "plan.json").touch()
    # Attempt 2 ran elsewhere.
    with folders.opened("job", 3) as third:
        assert _names(third) == []
    assert folders.jobs() == {"job"}
    folders.drop("job")
    assert folders.jobs() == set()


def test_a_folder_that_was_never_made_holds_no_jobs(tmp_path: Path) -> None:
    folders = JobFolders(tmp_path / "missing")
    assert folders.jobs() == set()
    folders.drop("job")
