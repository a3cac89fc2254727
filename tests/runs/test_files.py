"""Files: whole or not at all, by however many writers; locks that end with their process."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from crfl import files
from crfl.errors import DamagedFileError, FolderBusyError
from crfl.runs.lock import folder_lock


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """The operating system refuses to write more than a few bytes, as a full disk would."""
    script = textwrap.dedent(f"""
        import resource
        from pathlib import Path
        from crfl.files import write_atomic
        path = Path({str(tmp_path)!r}) / "file"
        write_atomic(path, "old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomic(path, "new" * 1000)
        except OSError:
            print("refused")
    """)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "refused"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_many_threads_write_the_same_file(tmp_path):
    texts = [str(i) * 50_000 for i in range(8)]
    errors = []

    def write(text):
        try:
            for _ in range(10):
                files.write_atomic(tmp_path / "file", text)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (tmp_path / "file").read_text() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_partial_files_go_once_their_writer_is_dead(tmp_path):
    """A writer that waits in the middle, at a pipe that it is to write about: alive, it is left alone."""
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from crfl.files import write_atomic
        class Slow(str):
            def encode(self):
                print("begun", flush=True)
                sys.stdin.read()
                return b""
        write_atomic(Path({str(tmp_path)!r}) / "slow", Slow())
    """)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        assert process.stdout.readline() == "begun\n"
        files.write_atomic(tmp_path / "file", "whole")
        assert len(list(tmp_path.glob(".slow.*.partial"))) == 1
        process.kill()
        process.wait()
    files.write_atomic(tmp_path / "file", "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_other_files_are_no_partial_files(tmp_path):
    for name, age in ((".file.00.partial", 2 * 86_400), (".file.11.partial", 60), ("own.partial", 2 * 86_400)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    files.write_atomic(tmp_path / "file", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "own.partial"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_survive(tmp_path, dtype):
    tensors = {
        "a": torch.arange(6).reshape(2, 3).to(dtype),
        "none": torch.empty(0, 4, dtype=dtype),
        "b": torch.tensor(1),
    }
    files.write_tensors(tmp_path / "file", tensors, number=1, text="é")
    found, about = files.read_tensors(tmp_path / "file")
    assert about == {"number": 1, "text": "é"}
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == t.dtype for name, t in tensors.items())


def test_tensors_come_back_where_memory_of_their_own_would_begin():
    """Elsewhere a product has other bits on some processors, and a run that goes on another record."""
    for size in range(1, 40):
        kept = {
            "params": torch.rand(size, dtype=torch.float64),
            "more": torch.rand(3, size),
            "whole": torch.arange(size),
        }
        found, _ = files.unpack_tensors(files.pack_tensors(kept), Path("file"))
        assert [t.data_ptr() % 64 for t in found.values()] == [0, 0, 0]


def test_every_bit_of_a_tensor_file_counts(tmp_path):
    path = tmp_path / "file"
    files.write_tensors(path, {"params": torch.linspace(0, 1, 5)}, model="linear")
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedFileError, match="file: is damaged"):
            files.unpack_tensors(bytes(content), path)


def test_a_lock_ends_with_its_process(tmp_path):
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from crfl.runs.lock import folder_lock
        with folder_lock(Path({str(tmp_path)!r})):
            print("locked", flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(FolderBusyError, match=f"process {process.pid} on "), folder_lock(tmp_path):
            pass
        process.kill()
        process.wait()
    with folder_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_locks_exclude_threads_and_wait(tmp_path):
    inside, most = [], []

    def work():
        with folder_lock(tmp_path, wait=30):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert not list(tmp_path.iterdir())
