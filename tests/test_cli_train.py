"""The command line of training: mistakes, and the printed config."""

import pytest

from minip2p.cli import main


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "missing"),
        (["vae", "--recipe", "tiny"], "unknown option --recipe"),
        (["vae", "--preset", "sd15"], "for vae there are tiny"),
        (["editor", "--resume", "{tmp}/no"], "--init-from"),
        (["editor", "--resume", "{tmp}", "--init-from", "x"], "--resume continues"),
        (["vae", "--steps", "0"], "at least 1"),
        (["vae", "--out", "{tmp}/run", "--set", "train.lr=1"], "train.lr"),
        (["editor", "--out", "{tmp}/run", "--set", "train.seed=-1"], "train.seed = -1: expected at least 0"),
        (["editor", "--out", "{tmp}/run", "--init-from", "{tmp}/absent.safetensors"], "absent.safetensors"),
        (["vae", "--device", "tpu"], "unknown device"),
        (["generating"], "invalid choice"),
    ],
)
def test_a_mistake_in_train_is_one_line(words, message, tmp_path, capsys):
    assert main(["train", *(word.format(tmp=tmp_path) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("minip2p: error: ") and message in err and err.count("\n") == 1


def test_the_config_is_printed(capsys):
    assert main(["train", "editor", "--print-config", "--set", "model.unet.norm=rms", "--batch-size", "3"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert sum(line.startswith("model.unet.norm='rms'") for line in lines) == 1 and "\ntrain.batch_size=3 " in out
