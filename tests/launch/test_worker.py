"""What a rank says."""

import json
import warnings
from pathlib import Path

import torch

import r1pipe.data.sources
from r1pipe.launch.worker import OWN_FOLDER, _show_warning


def test_what_our_code_warns_of_is_shown_whatever_it_points_at(tmp_path: Path) -> None:
    """Decoding without CUDA graphs was in the log alone: the warning pointed at torch, whose decorator called us."""

    @torch.no_grad()
    def ours() -> None:
        warnings.warn("ours", stacklevel=2)

    theirs = "import warnings\nwarnings.warn('theirs')\nwarnings.warn('our use of theirs', stacklevel=2)"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _show_warning(tmp_path / "notes.jsonl", (str(Path(__file__).parent),))
        ours()
        exec(compile(theirs, "/site-packages/theirs.py", "exec"))
        warnings.warn("old", FutureWarning, stacklevel=1)
    notes = [json.loads(line)["note"] for line in (tmp_path / "notes.jsonl").read_text().splitlines()]
    assert notes == ["ours", "our use of theirs"]


def test_warnings_of_every_package_of_ours_are_shown() -> None:
    assert Path(r1pipe.data.sources.__file__).is_relative_to(OWN_FOLDER)
