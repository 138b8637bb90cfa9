"""ALDM's objectives, its latents on disk, and its three trainings one after another."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser

from common.data.subjects import read_subjects
from common.description import write
from common.training.adversary import Adversary, SequenceDiscriminators
from mri_aldm import stages
from mri_aldm.autoencoder import Reconstruction
from mri_aldm.inference import OneSourceInferer
from mri_aldm.latents import CropLatents, LatentDataset
from mri_aldm.memory import MemoryEstimate
from mri_aldm.network import ALDM
from mri_aldm.objectives import AutoencoderObjective, DiffusionObjective, TranslationObjective, random_pairs

CONFIGS = Path(__file__).parents[2] / "bundles" / "mri_aldm" / "configs"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network(tiny_network) -> ALDM:
    return tiny_network("mri_aldm")


def test_random_pairs_are_of_two_sequences_that_are_there():
    available = torch.tensor([[True, True, False, True], [False, True, True, False], [True, False, False, False]])
    subject, source, target = random_pairs(available, 0)
    assert len(subject) == 8 and (source != target).all()
    assert available[subject, source].all() and available[subject, target].all()
    subject, *_ = random_pairs(available, 3)
    assert torch.bincount(subject).tolist() == [3, 2]
    with pytest.raises(ValueError, match="No pair to train on"):
        random_pairs(available[2:], 1)


def test_air_costs_nothing_and_the_adversary_begins_when_it_shall():
    images = torch.rand(2, 1, 8, 8, 8)
    images[..., :4] = 0
    made = Reconstruction(torch.full_like(images, 0.5), torch.zeros(2, 3, 4, 4, 4), torch.tensor([1.0, 3.0]))
    adversary = Adversary(SequenceDiscriminators(1, 3, 1, channels=2), CPU)
    options = {"l1_weight": 2.0, "vq_weight": 0.5, "adversary": adversary, "adversarial_start": 3}
    objective = AutoencoderObjective(**options)
    terms, samples = objective.terms(made, images)
    inside = (0.5 - (2 * images[..., 4:] - 1)).abs().mean() / 2
    assert terms["l1"] == pytest.approx(2 * inside.item()) and terms["regularisation"] == 1.0
    assert not samples and "adversarial" not in terms
    objective.iteration = 3
    images = torch.rand(1, 1, 32, 32, 32)
    made = Reconstruction(torch.rand_like(images).requires_grad_(), made.latent, made.loss)
    terms, samples = objective.terms(made, images)
    assert terms["adversarial"] > 0 and samples.keys() == {"real", "real_sequence", "fake", "fake_sequence"}
    assert adversary.backward(**samples)[0] > 0


def test_the_codebook_learns(tiny_network):
    network = tiny_network("mri_aldm")
    image = torch.rand(1, 4, 16, 16, 16)
    terms, _ = AutoencoderObjective(images_per_step=0)(network, {"image": image})
    sum(terms.values()).backward()
    assert network.autoencoder.quantiser.codebook.grad.abs().max() > 0


def test_translation_alone_and_jointly(tiny_network):
    network = tiny_network("mri_aldm")
    available = torch.ones(1, 4, dtype=torch.bool)
    latent = torch.randn(1, 4, 3, 8, 8, 8)
    terms, _ = TranslationObjective(4)(network, {"available": available, "latent": latent})
    assert terms.keys() == {"translation", "cycle"}
    terms, _ = TranslationObjective(4, cycle_weight=0)(network, {"available": available, "latent": latent})
    assert terms.keys() == {"translation"}  # the way back is not taken at all
    batch = {"available": available, "image": torch.rand(1, 4, 16, 16, 16)}
    terms, _ = TranslationObjective(4, joint=AutoencoderObjective())(network, batch)
    assert terms.keys() == {"l1", "regularisation", "translation", "cycle"}
    sum(terms.values()).backward()
    assert network.autoencoder.encoder.blocks[0].conv.weight.grad.abs().max() > 0
    assert network.translator.first.weight.grad.abs().max() > 0


def test_a_subject_s_latents_are_cropped_alike():
    latent = torch.arange(8 * 8 * 8.0).view(1, 1, 8, 8, 8).expand(4, 3, -1, -1, -1)
    crop = CropLatents((8, 16, 64), factor=4)
    crop.set_random_state(0)
    made = [crop({"latent": latent, "like": latent[None] + 1, "subject": "a"}) for _ in range(9)]
    assert all(each["latent"].shape == (4, 3, 2, 4, 8) and each["subject"] == "a" for each in made)
    assert all(torch.equal(each["like"][0], each["latent"] + 1) for each in made)
    assert len({each["latent"].flatten()[0].item() for each in made}) > 3


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
def test_diffusion_learns_the_noise_or_the_way(sampler: str, network: ALDM):
    process = type(network.process)(sampler)
    shown = {}

    def answer(noisy: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        shown.update(inputs, noisy=noisy)
        return torch.zeros_like(noisy)

    latent, like = torch.randn(1, 4, 3, 8, 8, 8), torch.randn(1, 4, 4, 3, 8, 8, 8)
    batch = {"available": torch.ones(1, 4, dtype=torch.bool), "latent": latent, "like": like}
    terms, _ = DiffusionObjective(4, process, lambda z: z, pairs_per_subject=12)(answer, batch)
    expected = 2 if sampler == "flow" else 1  # the variance of a difference, or of the noise
    assert terms["diffusion"].item() == pytest.approx(expected, abs=0.1)
    assert len(shown["noisy"]) == 12 and shown["timesteps"].max() > 500


def test_validation_goes_from_one_sequence_to_the_next(network: ALDM):
    image = torch.rand(1, 4, 16, 16, 16)
    image[:, 2] = -1
    network.eval()
    with torch.no_grad():
        made = OneSourceInferer(1)(image, network)
        itself = OneSourceInferer(0)(image, network)
        expected = network.translate(image, [3], [0])[:, 0]
    assert torch.equal(made[:, 0], expected) and not made[:, 2].any()
    assert not torch.equal(itself[:, 0], made[:, 0])


def test_memory_is_estimated_and_the_way_out_named(network: ALDM, caplog, monkeypatch):
    monkeypatch.setattr("mri_aldm.memory.free_bytes", lambda device: 1000)
    MemoryEstimate(network, [16, 16, 16], 1, CPU)(None)
    assert "needs about" in caplog.text and "To lower it: --checkpointing true, --amp bf16" in caplog.text


def message(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def test_a_training_without_those_before_it_names_their_command(workflow, phantom_dir: Path, tmp_path: Path):
    lacking = {"autoencoder_weights": tmp_path / "a.pt", "translation_weights": tmp_path / "t.pt"}
    settings = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path, **lacking}
    for config, stage, option in (
        ("train.json", "train_translation", "translation_weights"),
        ("train_translation.json", "train_autoencoder", "autoencoder_weights"),
    ):
        with pytest.raises(RuntimeError) as error:
            workflow("mri_aldm", config, **settings).run()
        assert f"run training --config_file configs/{stage}.json" in message(error.value)
        assert f"--{option} FILE" in message(error.value)
    assert not list(tmp_path.iterdir())


def test_a_later_training_is_begun_with_the_options_of_those_before_it(workflow, phantom_dir: Path, tmp_path: Path):
    """And refuses others with both values. What is its own, as its UNet, it does not take from them."""
    folders = {"dataset_dir": phantom_dir, "output_dir": tmp_path / "eval", "epochs": 1, "val_interval": 1}
    first = {"network_def#codes": 8, "network_def#channels": [4, 4], "normalisation": "percentile"}
    autoencoder = tmp_path / "autoencoder"
    workflow("mri_aldm", "train_autoencoder.json", ckpt_dir=autoencoder, **folders, **first).run()
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "train_translation.json"))
    parser.update({"autoencoder_weights": str(autoencoder / "model.pt"), "ckpt_dir": str(tmp_path / "translation")})
    network = parser.get_parsed_content("network_def")
    assert network.options["codes"] == 8 and network.options["channels"] == [4, 4] and network.method == "spade"
    assert parser.get_parsed_content("normalisation") == "percentile"
    assert parser.get_parsed_content("roi_size") == [16, 16, 16]
    assert network.options["unet_channels"] == (128, 256, 512), "which the first training was told, but does not have"
    with pytest.raises(RuntimeError) as error:
        other = {
            "autoencoder_weights": autoencoder / "model.pt",
            "network_def#codes": 16,
            "network_def#channels": [4, 4],
        }
        workflow("mri_aldm", "train_translation.json", ckpt_dir=tmp_path / "t", **folders, **other).run()
    assert "trained with network_def#codes 8, now 16" in message(error.value)


def test_two_splits_never_share_a_subject(phantom_dir: Path, workflow, tmp_path: Path):
    subjects = read_subjects(phantom_dir)
    subjects["test"].append(subjects["training"][0])
    (tmp_path / "leak.json").write_text(json.dumps(subjects))
    settings = {"dataset_dir": phantom_dir, "subject_list": tmp_path / "leak.json", "ckpt_dir": tmp_path / "x"}
    with pytest.raises(RuntimeError) as error:
        workflow("mri_aldm", "train_autoencoder.json", output_dir=tmp_path / "x", **settings).run()
    assert "keep it in one split" in message(error.value)


@pytest.mark.parametrize("options", [{"regularisation": "kl"}, {"joint": "true"}], ids=["KL", "joint"])
def test_three_trainings_one_after_another(workflow, phantom_dir: Path, tmp_path: Path, options: dict, caplog):
    """Each takes up what the one before it left, the latents are computed once, and their scale is stored."""
    paths = {f"{name}_weights": tmp_path / name / "model.pt" for name in ("autoencoder", "translation")}
    for stage, config in stages.TRAININGS.items():
        if stage == "autoencoder" and "joint" in options:
            continue
        folder = tmp_path / stage
        more = {**options, **(paths if stage != "autoencoder" else {}), "learning_rate": 1e-3, "val_interval": 2}
        settings = {"dataset_dir": phantom_dir, "ckpt_dir": folder, "output_dir": tmp_path / "eval", **more}
        workflow("mri_aldm", f"{config}.json", **settings).run()
    weights = {path.parent.name: torch.load(path, weights_only=True) for path in tmp_path.glob("*/model.pt")}
    first = "translation" if "joint" in options else "autoencoder"
    for name, value in weights[first].items():
        if name.startswith("autoencoder."):
            assert torch.equal(value, weights["diffusion"][name]), name
    for name, value in weights["translation"].items():
        assert torch.equal(value, weights["diffusion"][name]) or name.startswith("reference_")
    for name in ("reference_scale", "reference_spread"):
        torch.testing.assert_close(weights["diffusion"][name], weights["translation"][name])
    cached = list((tmp_path / "diffusion" / "latents").glob("*/*.pt"))
    assert len(cached) == 2, "a file per training subject"
    items = [torch.load(path, weights_only=True) for path in cached]
    z = torch.stack([item["latent"] for item in items]).movedim(2, 0).flatten(1)
    mean, deviation = weights["diffusion"]["latent_scale"]
    torch.testing.assert_close(mean, z.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(deviation, z.std(1), rtol=1e-3, atol=1e-4)
    assert items[0]["like"].shape[:2] == (4, 4) and "image" not in items[0]
    cached[0].write_bytes(cached[0].read_bytes()[:1000])  # as a full disk leaves it
    workflow("mri_aldm", f"{config}.json", **settings, epochs=3).run()
    assert torch.equal(torch.load(cached[0], weights_only=True)["latent"], items[0]["latent"])


def test_one_command_runs_all_and_passes_over_what_is_finished(tmp_path: Path, monkeypatch):
    lines, epochs = [], 500

    class Done:
        returncode = 0

    def run(line: list[str], cwd: Path) -> Done:
        lines.append(line)
        folder = Path(line[line.index("--ckpt_dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"progress": {"epoch": epochs}}, folder / "last.pt")
        return Done()

    monkeypatch.setattr("mri_aldm.stages.subprocess.run", run)
    monkeypatch.chdir(Path(stages.__file__).parents[1])
    options = {"ckpt_dir": str(tmp_path / "models"), "overlay": "small", "method": "no_palette"}
    stages.train_all("DIR", **options)
    first = [Path(line[6].split("'")[1]).relative_to(stages.ROOT).as_posix() for line in lines]
    assert first == [f"configs/{name}.json" for name in stages.TRAININGS.values()]
    assert all("configs/small.json" in line[6] for line in lines)
    assert [("--method" in line) for line in lines] == [False, False, True]
    translation = lines[2][lines[2].index("--translation_weights") + 1]
    assert translation == str(tmp_path / "models" / "translation" / "model.pt")
    stages.train_all("DIR", **options)
    assert len(lines) == 3
    stages.train_all("DIR", **options, translation_epochs=501)
    assert len(lines) == 4 and "configs/train_translation.json" in lines[3][6]
    stages.train_all("DIR", ckpt_dir=str(tmp_path / "joint"), overlay="small", joint="true")
    assert ["train_autoencoder" in line[6] for line in lines[4:]] == [False, False]
    assert ["--autoencoder_weights" in line for line in lines[:3]] == [False, True, True], "those that each knows"
    with pytest.raises(ValueError, match=r"no option --diffusion_epoch .* did you mean --diffusion_epochs"):
        stages.train_all("DIR", ckpt_dir=str(tmp_path / "other"), diffusion_epoch=3)
    assert len(lines) == 6, "before the first of them"
    for code, end in ((1, "1"), (-9, "`the training 'autoencoder'` was ended by SIGKILL")):
        Done.returncode = code
        with pytest.raises(SystemExit, match=end):
            stages.train_all("DIR", ckpt_dir=str(tmp_path / f"other{code}"))


def test_stages_take_up_how_the_autoencoder_sees_images(tiny_network, tmp_path: Path):
    """As it was trained; weights from before the options were there are as their defaults."""
    network, file = tiny_network("mri_aldm", method="autoencoder"), tmp_path / "model.pt"
    torch.save(network.state_dict(), file)
    known = {name: value for name, value in network.options.items() if name in stages.AUTOENCODER}
    described = {**network.options, **known, "norm": "none", "usual": [0.3, 0.1]}
    write(file, SimpleNamespace(options=described))
    taken = stages.Begun(tmp_path / "x", [file]).network
    assert (taken["norm"], taken["usual"]) == ("none", [0.3, 0.1])
    older = {name: value for name, value in described.items() if name not in ("norm", "usual")}
    write(file, SimpleNamespace(options=older))
    stages.begin_translation(tiny_network("mri_aldm", method="spade"), str(file))
    with pytest.raises(ValueError, match=r"usual.*0\.5.*0\.28"):
        stages.begin_translation(tiny_network("mri_aldm", method="spade", usual=[0.28, 0.08]), str(file))


def test_cached_latents_are_known_by_what_the_options_say_not_by_their_type(tiny_network):
    digests = set()
    for usual in ((0.3, 0.1), [0.3, 0.1], [0.3, 0.2]):
        dataset = object.__new__(LatentDataset)
        dataset.settings = {"roi_size": [16, 16, 16]}
        digests.add(dataset.digest(tiny_network("mri_aldm", method="spade", usual=usual)))
    digests.add(dataset.digest(tiny_network("mri_aldm", method="diffusion")))  # whose items have "like", too
    assert len(digests) == 3
