import argparse

import pytest

from fer_jax.batch import cli as batch
from fer_jax.batch.arguments import parse
from fer_jax.batch.slurm import options as slurm_options
from fer_jax.errors import run_command


def test_options_have_submitits_names_and_types():
    given = ["--cpus-per-task=4", "mem=16G", "exclusive=true", "qos=a=b", "nodes=2"]
    assert slurm_options.parse_options(given) == {
        "cpus_per_task": 4,
        "mem": "16G",
        "exclusive": True,
        "qos": "a=b",
        "nodes": 2,
    }


def parsed(*flags):
    return parse(["--executor", "slurm", *flags])


def parameters(*flags, has_gpus=False):
    return slurm_options.job_parameters(parsed(*flags), has_gpus=has_gpus)


def test_what_submitit_does_not_know_goes_to_sbatch():
    found = parameters("--slurm", "nice=7", "--slurm", "account=us", "--jobs", "3")
    assert found["additional_parameters"] == {
        "requeue": True,
        "time": "60",
        "nice": "7",
        "account": "us",
    }
    assert found["array_parallelism"] == 3
    assert "srun_args" not in found


def test_without_jobs_there_is_no_limit():
    assert parameters()["array_parallelism"] > 10**5


def test_a_failing_process_ends_those_of_its_run():
    two = parameters("--slurm", "nodes=2", "--partition", "wide")
    assert two["srun_args"] == ["--kill-on-bad-exit=1"]
    assert two["additional_parameters"]["partition"] == "wide"


def test_gpus_are_one_a_process_where_there_are_any():
    assert "gpus_per_node" not in parameters()
    assert parameters(has_gpus=True)["gpus_per_node"] == 1
    assert "gpus_per_node" not in parameters("--gpus_per_job", "0", has_gpus=True)
    assert parameters("--gpus_per_job", "2")["gpus_per_node"] == 2
    wide = ("--slurm", "nodes=2", "--slurm", "ntasks_per_node=4")
    assert parameters(*wide, has_gpus=True)["gpus_per_node"] == 4
    assert parameters(*wide, "--gpus_per_job", "16")["gpus_per_node"] == 8
    own = parameters("--slurm", "gres=gpu:a100:1", has_gpus=True)
    assert own["additional_parameters"]["gres"] == "gpu:a100:1"
    assert "gpus_per_node" not in own


def test_jobs_find_this_package(monkeypatch):
    setup = parameters("--slurm", "setup=module load cuda")["setup"]
    assert setup[0] == "module load cuda"
    assert setup[1].startswith("export PYTHONPATH=/")
    assert parameters("--slurm", "setup=true")["setup"][0] == "true"  # a command


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--budget=5"], "--budget applies to runs on this machine"),
        (["--jobs=0"], "--jobs is 0; expected 1 or more"),
        (["--pack=0"], "--pack is 0; expected 1 to 10,000"),
        (["--retries=-1"], "--retries is -1; expected 0 to 100"),
        (["--slurm=mem"], "--slurm is 'mem'; expected KEY=VALUE"),
        (["--slurm=mem="], "--slurm is 'mem='; expected KEY=VALUE"),
        (["--slurm=nodes=many"], "--slurm nodes is many; expected a whole number"),
        (["--slurm=nodes=0"], "--slurm nodes is 0; expected 1 or more"),
        (["--slurm=mem=1", "--slurm=mem=2"], "--slurm mem= is given twice"),
        (["--slurm=time=5"], "--slurm time= cannot be given: use --time"),
        (["--slurm=array=1-3"], "--slurm array= cannot be given"),
        (["--slurm=wait=true"], "--slurm wait= cannot be given"),
        (["--slurm=export=NONE"], "--slurm export= cannot be given"),
        (["--slurm=clusters=b"], "--slurm clusters= cannot be given"),
        (["--slurm=a b=2"], "--slurm is 'a b=2'; expected KEY=VALUE"),
        (
            ["--slurm=comment=a\n#SBATCH -a 1"],
            r"comment is 'a\n#SBATCH -a 1'; expected",
        ),
        (["--slurm=open-mode=truncate"], "--slurm open_mode= cannot be given"),
        (["--gpus_per_job=-1"], "--gpus_per_job is -1; expected 0 or more"),
        (["--gpus_per_job=1", "--slurm=gres=gpu:2"], "both request GPUs; give one"),
        (["--gpus_per_job=3", "--slurm=nodes=2"], "expected a multiple of 2"),
        (["--pack=2", "--slurm=nodes=2"], "--pack is 2, and each run has 2 processes"),
    ],
)
def test_wrong_flags_are_one_sentence(flags, told, capsys):
    assert run_command(lambda: batch.main(["--executor", "slurm", *flags])) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["pack=2", "time=5", "partition=a", "retries=1"])
def test_flags_for_a_cluster_are_refused_without_one(flag, capsys):
    assert run_command(lambda: batch.main([f"--{flag}"])) == 2
    name = flag.split("=")[0]
    told = f"error: --{name} is an option of --executor slurm; add that, or leave"
    assert told in capsys.readouterr().err


def test_a_machine_without_slurm_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_command(lambda: batch.main(["--executor", "slurm"])) == 2
    assert (
        "--executor slurm needs sbatch, which is not installed"
        in capsys.readouterr().err
    )


def test_the_parser_keeps_slurms_flags_apart():
    assert isinstance(parsed(), argparse.Namespace)
    local = parse([])
    assert (local.jobs, local.executor, local.retries) == (1, "local", None)
    slurm = parsed()
    assert (slurm.jobs, slurm.pack, slurm.retries, slurm.time) == (None, 1, 2, "60")
