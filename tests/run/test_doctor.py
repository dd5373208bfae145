"""`r1pipe doctor`: what it finds, and that a finding has its remedy."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine import r1pipe

from r1pipe.run import doctor


def of(found, about: str) -> list[doctor.Observation]:
    return [finding for finding in found if finding.about == about]


def test_a_library_that_is_missing_is_an_error_and_another_version_a_warning(monkeypatch: pytest.MonkeyPatch):
    well = {finding.level for finding in of(doctor._versions(), "libraries")}
    assert well == {"ok"}, "this environment is the tested one"

    def installed(name: str) -> str:
        if name == "trl":
            raise metadata.PackageNotFoundError
        return "99.0" if name == "transformers" else {"vllm": "0.23"}.get(name, "2.12")

    monkeypatch.setattr(metadata, "version", installed)
    found = list(doctor._versions())
    (missing,) = [finding for finding in found if finding.level == "error"]
    assert missing.what == "trl is not installed" and missing.fix.startswith("pip install 'trl<1.17,>=1.16")
    assert any(f.level == "warning" and f.what.startswith("transformers is 99.0, tested with") for f in found)
    assert doctor.Observation("ok", "extras", "vllm 0.23") in found


@pytest.mark.parametrize(("free", "level"), [(1.0, "error"), (50.0, "ok")])
def test_disk(free: float, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 2**30))
    (found,) = doctor._disk(tmp_path / "not" / "yet" / "runs")
    assert found.level == level and str(tmp_path) in found.what and bool(found.fix) == (level == "error")


def test_memory_is_there():
    (found,) = doctor._memory()
    assert "GiB of memory are free" in found.what


def test_gpus_are_listed_and_a_torch_for_cpus_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, NVIDIA H200, 580.159.04, 143771 MiB, 143767 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor, "is_build_for_cpus", lambda: True)
    first, reach, how, second = doctor._gpus()
    assert "140 GiB reach" in reach.what and "SFT with LoRA: Qwen2.5-32B" in reach.what
    assert "r1pipe plan" in how.what
    assert first.what == "0: NVIDIA H200, 143767 MiB of 143771 MiB free, driver 580.159.04"
    assert second.level == "warning" and "no GPU is used" in second.what
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because of the driver'\nexit 9\n")
    (broken,) = doctor._gpus()
    assert broken.level == "warning" and "has failed" in broken.what


def test_secrets_are_counted_and_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    found = doctor._tokens()
    assert "HF_TOKEN is set, WANDB_API_KEY is not set" in found.what and "hunter2" not in str(found)


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "from the cache alone" in doctor._network().what


@pytest.mark.slow
def test_a_device_that_fails_is_an_error_with_its_reason():
    found = doctor._training_step("no-such-device", has_company=False)
    assert found.level == "error" and "no-such-device" in found.what and "trial_step" in found.fix


@pytest.mark.slow
def test_the_command(tmp_path: Path):
    done = r1pipe(tmp_path, "doctor", "--json", timeout=300, HF_HUB_OFFLINE="1")
    found = json.loads(done.stdout)
    assert done.returncode == int(any(finding["level"] == "error" for finding in found))
    (training,) = [finding for finding in found if finding["about"] == "training"]
    assert training["level"] == "ok" and "training steps work" in training["what"]
    plain = r1pipe(tmp_path, "doctor", timeout=300, HF_HUB_OFFLINE="1")
    assert plain.stdout.count("\n") >= len(found) and "ok      python        Python 3" in plain.stdout
