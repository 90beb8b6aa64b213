"""The command: what it prints where, its exit codes, and one line for everything that a user can mend."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import CODE, Command, call, settings, start, wait_for
from PIL import Image

import configs
from benchmarks.children import fork, wait
from stages import PIPELINE, __version__
from stages.nets import backbones


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, generated: Path) -> Path:
    """A run whose seed network is trained; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "own.yaml"
    config.write_text("{}")
    words = ("seed", "train", str(config), "--run", "run", "--data", str(generated), *settings(), "-q")
    done = call(folder, *words)
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that the test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def stamps(folder: Path) -> dict[str, int]:
    """Every file of a run and when it was written, logs apart."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.parent.name != "logs"}


# --- help, status, json ---


def test_help_lists_the_commands(bas: Command):
    shown = bas("--help")
    assert shown.code == 0 and not shown.err
    for word in ("run", "status", "eval", "ablate", "seed", "refine", "segment", "data"):
        assert f"\n  {word}" in shown.out
    assert "\x1b" not in shown.out
    for words in (("run",), ("seed", "train"), ("refine", "irn"), ("segment", "predict"), ("eval",), ("status",)):
        assert bas(*words, "--help").code == 0
    words = bas("run", "--help").out.replace(",", " ").replace(".", " ").split()
    assert {*PIPELINE, *configs.names()} <= set(words)
    assert bas("--version").out == f"{__version__}\n"


PROBE = "import atexit, sys; atexit.register(lambda: sys.stderr.write(str(sorted({'torch', 'numpy'} & set(sys.modules))))); "


@pytest.mark.parametrize("words", [("--help",), ("status",), ("status", "--json"), ("eval", "--json")])
def test_quick_commands_do_not_import_torch(process: Command, run: Path, record_property, words: tuple[str, ...]):
    began = time.monotonic()
    shown = process(*words, code=PROBE + CODE, BAS_RUN=str(run))
    record_property("seconds", round(time.monotonic() - began, 3))
    assert shown.code == 0 and shown.out
    assert shown.err == "[]"


def test_status_shows_every_stage(bas: Command, run: Path):
    shown = bas("status", "--run", str(run))
    assert shown.code == 0 and not shown.err
    rows = {line.split()[0]: line for line in shown.out.splitlines()[1:]}
    assert list(rows) == list(PIPELINE)
    assert "done" in rows["seed_train"] and "train/loss/total" in rows["seed_train"]
    assert rows["irn_masks"].split()[1:] == ["missing", "not", "run", "yet"]


def test_status_as_json(bas: Command, run: Path):
    document = bas("status", "--run", str(run), "--json").json
    assert set(document) == {"run", "stages"} and document["run"] == str(run)
    assert [stage["name"] for stage in document["stages"]] == list(PIPELINE)
    for stage in document["stages"]:
        assert set(stage) == {"name", "state", "why", "metrics", "seconds", "outputs"}
    first = document["stages"][0]
    assert first["state"] == "done" and first["outputs"] == 2 and first["seconds"] > 0


def test_status_names_what_changed(bas: Command, run: Path, generated: Path, devkit: Path):
    shown = bas("seed", "train", "--run", str(run), "--set", "seed_train.lr=0.1", "--dry-run", "--json")
    assert shown.json["stages"][0]["why"] == "seed_train.lr: 0.005 → 0.1"
    image = devkit / "JPEGImages/demo_00001.png"
    Image.new("RGB", (64, 64)).save(image)
    settings = run / "config.yaml"
    settings.write_text(settings.read_text().replace(str(generated), str(devkit)))
    shown = bas("seed", "train", "--run", str(run), "--dry-run", "--json")
    assert shown.json["stages"][0]["why"] == "the images or labels of split 'train' changed"


def test_status_without_its_data_says_so(bas: Command, run: Path):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("root: /", "root: /nowhere/"))
    first = bas("status", "--run", str(run), "--json").json["stages"][0]
    assert first["state"] == "stale" and first["why"].endswith("no such folder")


def test_eval_as_json(bas: Command, run: Path):
    document = bas("eval", "--run", str(run), "--json").json
    assert set(document) == {"stages", "classes"} and document["classes"] == {}
    assert set(document["stages"]["seed_train"]) == {f"train/loss/{name}" for name in ("mcls", "frg", "ac", "bas", "total")}
    shown = bas("eval", "--run", str(run)).out.splitlines()
    assert shown[0] == "losses at the end of training" and shown[2].startswith("seed_train  mcls ")


def test_eval_can_score_again(bas: Command, run: Path):
    assert bas("seed", "infer", "--run", str(run), "-q").code == 0
    kept, again = (bas("eval", "--run", str(run), "--json", *more).json for more in ((), ("--recompute", "-q")))
    assert kept == again and kept["stages"]["seed_infer"]["train/bas/oracle/mIoU"] > 0
    chosen = ("--run", str(run), "--set", "eval.subset={few: [0, 1]}")
    said = bas("seed", "infer", *chosen).err.splitlines()
    assert "fresh, kept" in said[-2]  # a subset decides no result
    assert said[-1] == f"pictures in {run}: seed_infer/seeds.png"
    told = "warning: eval.subset was another when seed_infer were scored: `bas eval --recompute` scores again\n"
    late, few = (bas("eval", "--run", str(run), "--json", *more) for more in ((), ("--recompute", "-q")))
    assert late.err == told and late.json == kept and not few.err
    assert few.json["stages"]["seed_infer"]["train/bas/oracle/few"] > 0
    assert bas("seed", "infer", "--run", str(run), "--set", "eval.subset=null", "-q").code == 0
    manifest = run / "seed_infer/manifest.json"
    spoilt = json.loads(manifest.read_text())
    spoilt["metrics"] = {}
    manifest.write_text(json.dumps(spoilt))
    assert bas("eval", "--run", str(run), "--json", "--recompute", "-q").json == kept


# --- which run ---


def test_the_run_is_the_one_named_else_bas_run_else_the_last(bas: Command, run: Path, tmp_path: Path):
    assert bas("status").error.startswith("No run is named: neither --run nor $BAS_RUN nor an earlier run here")
    assert bas("status", "--json", BAS_RUN=str(run)).json["run"] == str(run)
    assert bas("seed", "train", "--run", str(run), "-q").code == 0  # fresh; but now it is the last one used
    assert bas("status", "--json").json["run"] == str(run)
    assert bas("status", BAS_RUN=str(tmp_path / "other")).error.startswith(f"No run in {tmp_path / 'other'}")


def test_what_is_refused_is_not_the_last_run(bas: Command, run: Path, config: Path, tmp_path: Path):
    assert bas("seed", "train", "--run", str(run), "-q").code == 0
    kept = (run / "config.yaml").read_text()
    assert bas("seed", "train", "--run", str(run), "--weights", "imagenet").error
    assert (run / "config.yaml").read_text() == kept
    (tmp_path / "empty").mkdir()
    for words in (
        ("seed", "train", str(config), "--run", "r", "--set", "seed_train.crop=96"),
        ("seed", "train", str(config), "--run", "r", "--weights", "imagenet"),
        ("seed", "infer", str(config), "--run", "r"),
        ("seed", "import", "empty", str(config), "--name", "x", "--run", "r"),
    ):
        assert bas(*words).error and bas("status", "--json").json["run"] == str(run), words
    assert bas("seed", "train", str(config), "--run", "r", "-q").code == 0
    assert bas("status", "--json").json["run"] == "r" or bas("status", "--json").json["run"] == str(tmp_path / "r")


def test_the_demo_is_not_generated_for_a_stage_that_lacks_its_input(bas: Command, tmp_path: Path):
    few = ("--set", "data.generate.train=4", "--set", "data.generate.val=2")
    assert bas("refine", "irn", "demo", *few).error.startswith("Cannot run irn_labels: its input seed_infer is not there")
    assert not (tmp_path / "runs/demo/data").exists() and not (tmp_path / "runs/.last").exists()


def test_a_run_remembers_files_of_weights(bas: Command, config: Path, tmp_path: Path):
    """Without them every stage would be stale; a configuration or an option that names weights is meant."""
    values = json.loads(config.read_text())
    del values["seed_train"]["weights"]
    config.write_text(json.dumps(values))
    torch.save(backbones.build("tiny").state_dict(), tmp_path / "mine.pth")
    call = ("seed", "train", str(config), "--run", "r")
    assert bas(*call, "-q", "--weights", "mine.pth").code == 0
    assert "fresh, kept" in bas(*call).err
    shown = bas(*call, "--dry-run", "--json", "--weights", "none").json["stages"][0]
    assert shown["why"] == "the initial weights changed"
    config.write_text(json.dumps(values | {"seed_train": values["seed_train"] | {"weights": "none"}}))
    assert bas(*call, "--dry-run", "--json").json["stages"][0]["why"] == "the initial weights changed"


def test_a_setting_goes_before_what_is_remembered(bas: Command, run: Path, config: Path):
    call = ("seed", "train", str(config), "--run", str(run), "--set", "data.root=/nowhere")
    assert bas(*call).error.startswith("Cannot use data /nowhere: no such folder")


def test_a_run_remembers_its_data(bas: Command, run: Path, config: Path):
    """A later command of the same configuration need not say --data again."""
    values = json.loads(config.read_text())
    del values["data"]["root"]
    config.write_text(json.dumps(values))
    assert bas("seed", "train", str(config), "--run", str(run), "--dry-run", "--json").json["stages"][0]["state"] == "done"


# --- nothing is done twice, or without being asked ---


def test_a_second_call_changes_nothing(bas: Command, run: Path):
    before = stamps(run)
    again = bas("seed", "train", "--run", str(run))
    assert again.code == 0 and "fresh, kept" in again.err and not again.out
    assert stamps(run) == before
    forced = bas("seed", "train", "--run", str(run), "--force", "--json")
    assert forced.json["stages"][0]["state"] == "done" and "done in" in forced.err
    assert stamps(run)[str(run / "seed_train/network.safetensors")] > before[str(run / "seed_train/network.safetensors")]


def test_a_stage_behind_stale_inputs_is_kept_or_made_with_a_word(bas: Command, run: Path):
    """seed_infer is up to date with the seed network that is there, but that one is not what its settings ask for."""
    assert bas("seed", "infer", "--run", str(run), "-q").code == 0
    changed = ("--run", str(run), "--set", "seed_train.lr=0.1")
    stale = "stale: seed_train.lr: 0.005 → 0.1"
    kept = bas("seed", "infer", *changed)
    assert kept.code == 0 and "kept, but stale: its input seed_train is stale. `bas run` makes both anew" in kept.err
    made = bas("run", "--from", "seed_infer", "--until", "seed_infer", *changed, "--set", "seed_infer.thresholds=5")
    assert made.code == 0 and f"warning: seed_infer reads seed_train, which is {stale}. `bas run` makes both anew" in made.err


def test_a_dry_run_does_nothing(bas: Command, config: Path, tmp_path: Path):
    for dataset in (str(config), "demo"):
        shown = bas("run", dataset, "--dry-run")
        assert shown.code == 0 and len(shown.out.splitlines()) == 2 + len(PIPELINE) and "not run yet" in shown.out
    shown = bas("run", "demo", "--until", "irn_labels", "--dry-run", "--json")
    assert [stage["name"] for stage in shown.json["stages"]] == ["seed_train", "seed_infer", "irn_labels"]
    assert not (tmp_path / "runs").exists()


# --- bad input: one line, exit code 2 ---


def test_bad_usage(bas: Command):
    fault = bas("run", "--colour").error
    assert fault.startswith("No such option") and "--colour" in fault and fault.endswith("See `bas run --help`.")
    assert bas("seeds").error.startswith("No such command 'seeds'. Did you mean 'seed'?")
    fault = "Unknown stage '{}': none of the pipeline. Did you mean '{}'? Stages: seed_train, "
    assert bas("run", "demo", "--from", "masks").error.startswith(fault.format("masks", "irn_masks"))
    assert bas("run", "demo", "--until", "seed_infr").error.startswith(fault.format("seed_infr", "seed_infer"))
    assert "lies after" in bas("run", "demo", "--from", "irn_masks", "--until", "irn_labels").error
    assert bas("run", "dmo").error.startswith(
        "Unknown dataset 'dmo': neither a shipped configuration nor a YAML file. Did you mean 'demo'?"
    )
    assert bas("run", "absent.yaml").error.startswith("Cannot read configuration absent.yaml: no such file. Give a YAML file")
    assert bas("run", "photographs/absent").error == "No dataset at photographs/absent: no such file or folder. Check the path"
    fault = bas("run", "demo", "--set", "irn_train.weights=none", "--dry-run").error
    assert fault.startswith("irn_train.weights cannot be none")  # said before hours of training, not after


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (("--set", "seed_train.epoch=3"), "Unknown setting 'seed_train.epoch': no such key. Did you mean 'epochs'?"),
        (("--set", "seed_trian.epochs=3"), "Unknown setting 'seed_trian': no such key. Did you mean 'seed_train'?"),
        (("--set", "seed_train.epochs=few"), "Bad value for seed_train.epochs: must be a whole number, got 'few'. It is: Passes"),
        (("--set", "epochs=3"), "Cannot read --set epochs=3"),
        (("--set", "seed_train.crop=96"), "Bad value for seed_train.crop: 96: images are warped to seed_train.resize = 64"),
        (("--set", "seed_train.backbone=vgg"), "Bad value for seed_train.backbone: must be one of resnet18, resnet50"),
        (("--set", "eval.subset={mIoU-9: [0, 9]}"), "Bad value for eval.subset 'mIoU-9': [9] in a dataset of 5 classes"),
        (("--device", "tpu"), "Bad value for runtime.device: must be one of auto, cpu, cuda, got 'tpu'"),
        (("--precision", "16-mixed"), "Cannot use --precision 16-mixed: a CPU has no mixed float16"),
        (("--data", "/nowhere"), "Cannot use data /nowhere: no such folder"),
        (("--labels", "/nowhere.npy"), "Cannot read /nowhere.npy: no such file"),
        (("--weights", "/nowhere.pth"), "Cannot read weights /nowhere.pth: no such file"),
        (("--weights", "imagenet"), "No imagenet weights for backbone 'tiny'"),
    ],
)
def test_bad_settings(bas: Command, config: Path, words: tuple[str, ...], start: str):
    assert bas("seed", "train", str(config), "--run", "r", "-q", *words).error.startswith(start)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_an_absent_gpu(bas: Command, config: Path, run: Path):
    fault = "Cannot use --device cuda: torch sees no CUDA GPU here. Use --device auto or cpu"
    assert bas("seed", "train", str(config), "--run", "r", "--device", "cuda").error.startswith(fault)
    assert bas("seed", "train", "--run", str(run), "--device", "cuda").code == 0  # it is done: nothing to compute


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_dry_run_refuses_what_the_run_would(bas: Command, config: Path, run: Path, tmp_path: Path):
    torch.save(backbones.build("resnet18").state_dict(), tmp_path / "other.pth")
    call = ("seed", "train", str(config), "--run", "r")
    for words in (("--device", "cuda"), ("--precision", "16-mixed"), ("--weights", "imagenet"), ("--weights", "other.pth")):
        assert bas(*call, *words, "--dry-run").error == bas(*call, *words).error
    assert bas("seed", "train", "--run", str(run), "--device", "cuda", "--dry-run").code == 0  # it is done


def spoil_image(data: Path) -> None:
    image = data / "JPEGImages/demo_00005.png"
    image.write_bytes(image.read_bytes()[:500])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_image, "Cannot read image {data}/JPEGImages/demo_00005.png: "),
        (lambda data: (data / "JPEGImages/demo_00005.png").unlink(), "List 'train' names absent images: 1 of 8 are not in"),
        (lambda data: (data / "image_labels.txt").write_text(""), "No image of list 'train' has a label: 8 of 8 have none"),
        (
            lambda data: (data / "image_labels.txt").write_text("demo_00000 unicorn"),
            "Unknown class 'unicorn' in {data}/image_labels.txt",
        ),
        (lambda data: (data / "ImageSets/Segmentation/train.txt").unlink(), "No image list 'train' in {data}"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data(bas: Command, config: Path, devkit: Path, spoil, words: str, workers: int):
    spoil(devkit)
    call = ("seed", "train", str(config), "--run", "r", "--data", str(devkit), "--set", f"runtime.workers={workers}")
    assert bas(*call).error.startswith(words.format(data=devkit))


def test_an_image_that_spoils_later_loses_nothing(bas: Command, config: Path, devkit: Path, tmp_path: Path):
    call = ("infer", str(config), "--run", "r", "--data", str(devkit))
    assert bas("seed", "train", *call[1:], "-q").code == 0
    image = devkit / "JPEGImages/demo_00005.png"
    whole, status = image.read_bytes(), image.stat()
    image.write_bytes(whole[:500] + b"\xff" * (len(whole) - 500))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk would
    assert bas("seed", *call).error.startswith(f"Cannot read image {image}")
    assert len(list((tmp_path / "r/seed_infer/seeds").iterdir())) == 5
    image.write_bytes(whole)
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    kept = stamps(tmp_path / "r/seed_infer/seeds")
    assert bas("seed", *call, "-q").code == 0
    assert kept.items() < stamps(tmp_path / "r/seed_infer/seeds").items()


def test_weights_of_another_network(bas: Command, config: Path, tmp_path: Path):
    torch.save(backbones.build("resnet18").state_dict(), tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    call = ("seed", "train", str(config), "--run", "r", "--weights")
    assert bas(*call, "other.pth").error.startswith(f"Weights {tmp_path}/other.pth are of another network: ")
    assert bas(*call, "text.pth").error.startswith(f"Cannot read weights {tmp_path}/text.pth: not a weights-only file")


def test_a_run_of_another_dataset(bas: Command, run: Path, config: Path, devkit: Path):
    moved = bas("seed", "train", str(config), "--run", str(run), "--data", str(devkit))
    assert moved.code == 0 and "fresh, kept" in moved.err  # the same images elsewhere are the same dataset
    Image.new("RGB", (64, 64)).save(devkit / "JPEGImages/demo_00001.png")
    other = devkit.rename(devkit.parent / "other")
    before = stamps(run)
    fault = bas("seed", "train", str(config), "--run", str(run), "--data", str(other)).error
    assert fault.startswith(f"Run folder {run} belongs to another dataset: it holds a run on ")
    assert bas("run", "demo", "--run", str(run)).error.startswith(f"Run folder {run} belongs to another dataset")
    assert {path: stamp for path, stamp in stamps(run).items() if path in before} == before


def test_a_stage_before_its_inputs(bas: Command, config: Path, run: Path):
    for words, need in (
        (("seed", "infer"), "seed_train"),
        (("refine", "irn"), "seed_infer"),
        (("refine", "choose"), "seed_train"),
        (("segment", "train"), "mask_choice"),
    ):
        fault = bas(*words, str(config), "--run", "r").error
        assert f"its input {need} is not there" in fault and f"--until {need}`" in fault
    assert bas("segment", "predict", "--run", str(run)).error.startswith("Cannot run segment_predict: its input segment_train")


def test_images_without_a_label_are_warned_of(bas: Command, config: Path, devkit: Path, tmp_path: Path):
    lines = (devkit / "image_labels.txt").read_text().splitlines()
    (devkit / "image_labels.txt").write_text("\n".join(lines[1:]))
    done = bas("seed", "train", str(config), "--run", "r", "--data", str(devkit))
    assert done.code == 0
    assert "warning: 1 images without a label are left out of training, first 'demo_00000'" in done.err
    notes = json.loads((tmp_path / "r/seed_train/manifest.json").read_text())["notes"]
    assert (notes["images"], notes["unlabelled"], notes["labels"]) == (7, 1, "image_labels.txt")


def test_a_damaged_configuration(bas: Command, run: Path):
    (run / "config.yaml").write_text("data: [")
    assert bas("status", "--run", str(run)).error.startswith(f"Cannot read configuration {run}/config.yaml: ")


# --- full disks and interrupts ---

LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); {CODE}"


def test_a_file_that_cannot_grow(process: Command, config: Path, tmp_path: Path):
    """The network has more bytes than a file may have here: as on a full disk, but without one."""
    call = ("seed", "train", str(config), "--run", "r", "-q")
    assert process(*call, code=LIMITED).error.startswith("Cannot use the disk: File too large. Raise the limit")
    assert not (tmp_path / "r/seed_train/manifest.json").exists()
    assert not list((tmp_path / "r").rglob("*.tmp*"))


FULL = """
import subprocess, sys
from pathlib import Path
from bas_cli import app

app.leave = sys.exit  # this process calls the command more than once
disk, words = Path(sys.argv[1]), sys.argv[2:]
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", str(disk)], capture_output=True).returncode:
    sys.exit(77)

def call(stage):
    sys.argv = ["bas", "seed", stage, *words]
    try:
        app.main()
    except SystemExit as leaving:
        print(stage, leaving.code, flush=True)

def fill(free):
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        size = filler.stat().st_size - free
        with filler.open("r+b") as file:
            file.truncate(size)
    return filler

filler = fill(free=200_000)
call("train")
filler.unlink()
call("train")
filler = fill(free=0)
call("infer")
filler.unlink()
call("infer")
"""


def test_a_full_disk(config: Path, tmp_path: Path):
    """A small disk of its own (tmpfs in a mount namespace), full in training and in inference, then freed: both take 7.2 MB."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not here to mount a small disk")
    (tmp_path / "disk").mkdir()
    words = (str(tmp_path / "disk"), str(config), "--run", str(tmp_path / "disk/r"), "-q")
    command = ["unshare", "--mount", "--map-root-user", sys.executable, "-c", FULL, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip("no disk can be mounted here")
    assert done.stdout.split() == ["train", "2", "train", "0", "infer", "2", "infer", "0"], done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and "Traceback" not in done.stderr
    for line in lines:
        assert line.startswith("error: Cannot use ") and "No space left on device. Free some space" in line


def test_a_run_folder_is_for_one_process_and_free_again_when_that_is_killed(bas: Command, config: Path, tmp_path: Path):
    child = fork(tmp_path, "seed", "train", str(config), "--run", "r", "--set", "seed_train.epochs=5000")
    wait_for(child, tmp_path / "r/seed_train/curves.jsonl", text=True)
    try:
        line = bas("seed", "train", str(config), "--run", "r").error
        told = "Run folder r is in use: another process is at work in it. Wait for it to end, or choose another with --run DIR"
        assert line == told
        shown = bas("status", "--run", "r", "--json")
        first, second = shown.json["stages"][:2]
        assert not shown.err and first["state"] == "partial" and re.match("running since 2.*:", first["why"])
        assert second["why"] == "not run yet"
        assert bas("seed", "train", str(config), "--run", "r").error == told  # a look at the lock has not let it go
    finally:
        os.kill(child, signal.SIGKILL)
        wait(child)
    assert bas("status", "--run", "r", "--json").json["stages"][0]["why"].startswith("interrupted")
    assert bas("seed", "train", str(config), "--run", "r").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_done(config: Path, tmp_path: Path, number: signal.Signals):
    child = fork(tmp_path, "seed", "train", str(config), "--run", "r", "--set", "seed_train.epochs=5000")
    wait_for(child, tmp_path / "r/seed_train/curves.jsonl", text=True)
    os.kill(child, number)
    assert wait(child) == 130
    err = (tmp_path / "stderr.txt").read_text()
    assert err.splitlines()[-1] == "error: Interrupted: all finished work is kept. Run the same command again to go on."
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_all_processes_leaves_one_line(config: Path, tmp_path: Path, number: signal.Signals):
    """As Ctrl-C, `timeout` and schedulers send it: to the loader processes too."""
    words = ("seed", "train", str(config), "--run", "r", "-q", "--set", "seed_train.epochs=5000", "--set", "runtime.workers=2")
    child = start(tmp_path, *words, start_new_session=True)
    curves = tmp_path / "r/seed_train/curves.jsonl"
    while not (curves.exists() and curves.stat().st_size):
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and not out
    assert err.startswith("error: Interrupted: ") and len(err.splitlines()) == 1


def test_an_interrupt_of_a_process_that_is_leaving_ends_it(tmp_path: Path):
    leaving = """
import os, signal, time
from stages.core import interrupt

signal.signal(signal.SIGINT, interrupt.handle)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", leaving], capture_output=True, text=True, timeout=50)
    assert done.returncode == 130
    told = "error: Interrupted: all finished work is kept, a training up to its last half minute."
    assert done.stderr == f"\n{told} Run the same command again to go on.\n"


def test_the_end_of_a_process_does_what_was_registered_and_takes_nothing_down():
    code = """
import atexit, sys
from bas_cli import app

class Large:
    def __del__(self):
        print("taken down")

large, sys.modules["torch"] = Large(), sys
atexit.register(print, "registered")
app.leave(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (3, "registered\n", "")


def test_an_interrupt_that_a_destructor_swallows_is_heard_at_the_next_step(config: Path, tmp_path: Path):
    """Python drops what is raised in a destructor, and would print it; the signal comes in the middle of one here."""
    lost = """
import os, signal, sys
from bas_cli.app import main
from stages.core import training

class Fragile:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))

add = training.Curves.add
def interrupted(*values):
    Fragile()
    return add(*values)

training.Curves.add = interrupted
sys.argv[0] = "bas"
main()
"""
    child = start(tmp_path, "seed", "train", str(config), "--run", "r", "-q", "--set", "seed_train.epochs=5000", code=lost)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 130 and not out
    assert err.startswith("error: Interrupted: ") and len(err.splitlines()) == 1


def test_a_run_folder_that_cannot_be_is_not_remembered_as_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from bas_cli import app, options

    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr("sys.argv", ["bas", "run", "demo", "--run", "file"])
    monkeypatch.setattr(app, "leave", sys.exit)
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    assert "Choose a folder, not a file" in capsys.readouterr().err
    assert not options.LAST.exists()


def test_a_last_run_that_is_gone_is_answered_with_what_to_do(bas: Command, tmp_path: Path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.last").write_text(str(tmp_path / "gone"))
    line = bas("status").error
    assert line.startswith(f"No run in {tmp_path / 'gone'}: no such folder. Name a run's folder with --run DIR")
