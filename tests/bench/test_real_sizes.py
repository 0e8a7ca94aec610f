"""The benchmark of the real sizes, tried on tiny ones: the same code, without what a GPU machine lacks."""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from bench import real_sizes
from bench.cases import CASES, Case, tiny
from bench.real_sizes import Bench
from bench.report import Row, line, markdown
from models.errors import DeviceLost, OutOfMemory, TuningError
from models.tuning import Tuning
from testbed.random_engine import RandomModel

pytestmark = pytest.mark.slow

ABSENT = ("ray", "pydantic", "fastapi", "sqlalchemy", "httpx")
RUN = ("1.3b-480p", "decode-480p", "1.3b-480p-4-steps", "14b-480p-flash3", "14b-480p-fp8")


@cache
def output() -> list[str]:
    """Return the benchmark's output where those packages are not installed."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
from bench.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    arguments = ["real_sizes", "--scale", "tiny", "--json", "--markdown", "--repeats", "1", "--cases", *RUN]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output()[-1])
    return found


@pytest.mark.parametrize("name", ["1.3b-480p", "decode-480p", "1.3b-480p-4-steps"])
def test_a_case_is_measured_beside_diffusers(name: str) -> None:
    case = results()["cases"][name]
    assert case["note"] == ""
    assert case["ours_s"] > 0
    assert case["ratio"] == case["diffusers_s"] / case["ours_s"]
    assert case["tflops"] > 0
    assert case["said_bytes"] / case["peak_bytes"] == pytest.approx(1.1, abs=0.4)


@pytest.mark.parametrize("name", ["14b-480p-flash3", "14b-480p-fp8"])
def test_a_case_that_cannot_run_here_is_left_out_with_a_reason(name: str) -> None:
    case = results()["cases"][name]
    assert case["ours_s"] is None
    assert case["note"]


def test_the_markdown_has_the_date_the_machine_the_command_and_a_row_for_each_case() -> None:
    text = "\n".join(output())
    assert re.search(r"\d{4}-\d\d-\d\d: .*torch .*; `python -m bench real_sizes --scale tiny", text)
    for name in RUN:
        assert re.search(rf"^\| {re.escape(name)} \|", text, re.MULTILINE)


@pytest.mark.parametrize("error", [TypeError("no such option\nmore"), DeviceLost("no such option")])
def test_a_case_that_breaks_costs_no_other(tmp_path: Path, error: Exception) -> None:
    class Breaking(Bench):
        def _row(self, case: Case) -> Row:
            if case is CASES[0]:
                raise error
            return Row(case, ours_s=1.0)

    options = argparse.Namespace(device="cpu", limit_s=60.0, repeats=1, text_encoder=False)
    bench = Breaking(options, tmp_path)
    broken, whole = bench.rows(list(CASES[:2]))
    assert broken.note == "failed: no such option"
    assert bench.failed == [CASES[0].name]
    assert whole.ours_s == 1.0


def test_a_case_that_there_is_not_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        real_sizes.main(["--scale", "tiny", "--cases", "14b-408p"])
    assert ended.value.code == 2
    assert "there is no case 14b-408p" in capsys.readouterr().err


def test_names_of_cases_are_distinct() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_a_row_says_what_it_is_short_of() -> None:
    case = CASES[0]
    assert line(Row(case, note="no time left")).endswith("no time left")
    row = Row(case, ours_s=2.0, diffusers_s=5.0, flops=10**15, peak_tflops=1000.0, peak_bytes=3 * 10**9)
    assert row.ratio == 2.5
    assert "| 2.50 | 500 | 50% | 3.0 |" in markdown([row], "machine", 1000.0, None, [])


def test_random_weights_have_the_types_that_loading_gives_them() -> None:
    variant = tiny(CASES[0]).variant
    model = RandomModel(variant, torch.device("cpu"), torch.bfloat16)
    transformer: WanTransformer3DModel = model.transformer
    types = {name: parameter.dtype for name, parameter in transformer.named_parameters()}
    assert types["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert types["blocks.0.scale_shift_table"] == torch.float32
    assert types["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert all(bool(parameter.isfinite().all()) for parameter in transformer.parameters())
    assert not transformer.rope.freqs_cos.is_meta


def test_a_model_that_does_not_fit_is_not_made() -> None:
    huge = replace(tiny(CASES[0]).variant, ffn_dim=10**9, heads=10**4)
    with pytest.raises(OutOfMemory, match=r"needs \d+ GB of \d+ GB"):
        RandomModel(huge, torch.device("cpu"), torch.float32)


def test_settings_that_are_not_built_in_are_no_silent_defaults() -> None:
    model = RandomModel(tiny(CASES[0]).variant, torch.device("cpu"), torch.float32)
    with pytest.raises(TuningError):
        model.engine(Tuning(fp8=True))
