"""The self-test's verdict, the files it writes for trtexec, and what results.json says of a bundle."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apt_edge.errors import AptEdgeError, GateError, ModelError
from apt_edge.runtime.agreement import agreement, failures
from apt_edge.runtime.bundle import load_bundle, write_sums
from apt_edge.runtime.model_dir import ModelDir
from apt_edge.runtime.results import collect, complain
from apt_edge.runtime.selftest import engine_selftest, golden, judge, session_selftest, write_inputs
from apt_edge.runtime.sessions import open_session
from tests.export.bundle.models import PROMPT, make_model

TOLERANCE = {"max_abs": 1e-2, "top1_agreement": 1.0, "kl": 1e-3}
REFERENCE = np.array([[4.0, 1.0, 0.0], [0.0, 2.0, 1.9]], np.float32)


@pytest.mark.parametrize(
    ("change", "complaints"),
    [
        ([[0, 0, 0], [0, 0, 0]], []),
        ([[0.03, 0, 0], [0, 0, 0]], []),  # the bound grows with the largest logit
        ([[0, 0, 0.05], [0, 0, 0]], ["max"]),
        ([[0, 0, 0], [0, 0, 0.2]], ["max", "first label", "divergence"]),
        ([[0, 0, 0], [np.nan, 0, 0]], ["not finite"]),
        ([[np.inf, 0, 0], [0, 0, 0]], ["not finite"]),
    ],
)
def test_verdicts(change, complaints):
    report = agreement(REFERENCE, REFERENCE + np.array(change, np.float32))
    found = failures(report, TOLERANCE)
    assert len(found) == len(complaints)
    assert all(word in text for word, text in zip(complaints, found, strict=True))
    json.dumps(report, allow_nan=False)


def test_an_agreement_is_in_logits_and_nats():
    moved = REFERENCE + np.array([[0, 0, 0], [0, 0, 0.3]], np.float32)
    report = agreement(REFERENCE, moved)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (REFERENCE, moved))
    assert report["kl"] == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)
    assert (report["max_abs"], report["mean_abs"]) == (pytest.approx(0.3), pytest.approx(0.05))
    assert (report["top1_agreement"], report["max_logit"], report["clips"]) == (0.5, 4.0, 2)


def test_a_failed_selftest_is_reported_before_it_is_raised(tmp_path):
    model = ModelDir.load(make_model(tmp_path / "m", "onnxruntime-cpu"))
    logits = golden(model)[1]
    assert session_selftest(model)["passed"]
    with pytest.raises(GateError, match=r"max \|logit difference\| is 1"):
        judge(model, logits + 1, "test")
    assert not json.loads((model.path / "selftest.json").read_text())["passed"]
    (model.path / "selftest.json").unlink()
    with pytest.raises(GateError, match=r"shape \[2, 4\]"):
        judge(model, logits[:, :4], "test")
    report = json.loads((model.path / "selftest.json").read_text())
    assert (report["passed"], report["max_abs"]) == (False, None)
    assert "shape [2, 4]" in report["failures"][0]


def test_a_selftest_that_breaks_off_leaves_no_verdict(tmp_path):
    model = ModelDir.load(make_model(tmp_path / "m", "onnxruntime-cpu"))
    report = model.path / "selftest.json"
    outputs = [{"name": "other", "dimensions": "1x5", "values": [0, 0, 0, 0, 0]}]
    for index in range(2):
        (tmp_path / "in" / str(index)).mkdir(parents=True)
        (tmp_path / "in" / str(index) / "output.json").write_text(json.dumps(outputs))
    (tmp_path / "empty").mkdir()
    for step, message in (
        (lambda: engine_selftest(model, tmp_path / "in"), "has no output logits"),
        (lambda: engine_selftest(model, tmp_path / "empty"), "is missing"),
        (lambda: write_inputs(model, tmp_path / "in"), ""),
    ):
        assert session_selftest(model)["passed"]
        if message:
            with pytest.raises(ModelError, match=message):
                step()
        else:
            step()
        assert not report.exists()
    session_selftest(model)
    (model.path / "golden.npz").write_bytes(b"")
    with pytest.raises(ModelError, match=r"golden\.npz cannot be read"):
        session_selftest(model)
    assert not report.exists()


@pytest.mark.parametrize("foreign", ["0/photo.jpg", "1/clip.bin/photo.jpg", "2019/photo.jpg"])
def test_writing_inputs_removes_nothing_but_its_own(tmp_path, foreign):
    model = ModelDir.load(make_model(tmp_path / "m", "jetson-jp72"))
    folder = tmp_path / "home"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "thesis.tex").write_text("years")
    write_inputs(model, folder)
    (folder / "0" / "output.json").write_text("old")
    write_inputs(model, folder)
    assert not (folder / "0" / "output.json").exists()
    assert (folder / "work" / "thesis.tex").read_text() == "years"
    path = folder / foreign
    if path.parent.is_file():
        path.parent.unlink()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(AptEdgeError, match="is not of an earlier self-test"):
        write_inputs(model, folder)
    assert path.read_bytes() == b"x"
    assert (folder / "1" / "clip.bin").exists()


def test_trtexec_gets_every_input_raw(tmp_path):
    model = ModelDir.load(make_model(tmp_path / "m", "jetson-jp72", bound=True))
    (tmp_path / "in" / "7").mkdir(parents=True)  # of an earlier run
    write_inputs(model, tmp_path / "in")
    frames = golden(model)[0]
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["0", "1"]
    for index in range(2):
        assert (tmp_path / "in" / str(index) / "clip.bin").read_bytes() == frames[index].tobytes()
        prompt = np.fromfile(tmp_path / "in" / str(index) / f"{PROMPT}.bin", np.float32)
        assert np.array_equal(prompt.reshape(1, 2, 3), model.prompts[PROMPT])


def test_a_model_whose_engine_was_not_built_has_no_session(tmp_path):
    with pytest.raises(ModelError, match=r"has no model\.engine[\s\S]*build\.sh"):
        open_session(ModelDir.load(make_model(tmp_path / "m", "jetson-jp72")))


def test_results_name_what_was_not_run(tmp_path):
    bundle = make_model(tmp_path / "m", "onnxruntime-cpu")
    with pytest.raises(ModelError, match="is not a bundle"):
        collect(bundle)
    write_sums(bundle)
    results = collect(bundle)
    assert results == json.loads((bundle / "results.json").read_text())
    assert [entry["step"] for entry in results["failed"]] == ["selftest", "inference"]
    assert (results["parity"], results["times"]["inference"], results["layers"]) == (None, None, None)
    with pytest.raises(AptEdgeError, match="not everything is in order") as caught:
        complain(results)
    assert caught.value.exit_code == 1


def test_a_damaged_list_of_hashes_is_no_traceback(tmp_path):
    bundle = make_model(tmp_path / "m", "onnxruntime-cpu")
    write_sums(bundle)
    load_bundle(bundle)
    lines = (bundle / "SHA256SUMS").read_text().splitlines()
    for text in ("nonsense\n", "\n".join(line for line in lines if "golden" not in line)):
        (bundle / "SHA256SUMS").write_text(text)
        with pytest.raises(ModelError, match="is not the bundle that was packed"):
            load_bundle(bundle)
