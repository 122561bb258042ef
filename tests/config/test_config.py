"""Experiments from YAML: the shipped files, what is refused, and how it is told."""

import copy
import functools
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_jax import config
from fer_jax.batch.plan import RECIPES
from fer_jax.config.settings import ELSEWHERE
from fer_jax.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASELINE = {
    "name": "baseline",
    "training.epochs": 30,
    "training.lr": 3e-4,
    "training.batch_size": 128,
    "training.patience": 7,
    "training.weight_decay": 0.05,
    "training.clip_norm": 0,
    "training.pct_start": 0.3,
    "training.seed": 42,
    "loss.type": "ce",
    "loss.use_class_weights": True,
    "loss.label_smoothing": 0.1,
    "data.channels": 1,
    "data.weighted_sampler": False,
    "augmentation.mixup_alpha": 0.2,
    "augmentation.random_erasing": 0.1,
    "augmentation.horizontal_flip": True,
    "model.dropout": 0.3,
}
# What each experiment asks, as the keys that differ from the baseline.
EXPERIMENTS = {
    "baseline": {},
    "lr_low": {"training.lr": 1e-4},
    "lr_high": {"training.lr": 1e-3},
    "epochs_10": {"training.epochs": 10},
    "epochs_50": {"training.epochs": 50, "training.patience": 10},
    "batch_64": {"training.batch_size": 64},
    "batch_256": {"training.batch_size": 256},
    "loss_focal": {"loss.type": "focal"},
    "aug_none": {"augmentation.mixup_alpha": 0.0, "augmentation.random_erasing": 0.0},
    "aug_heavy": {"augmentation.mixup_alpha": 0.4, "augmentation.random_erasing": 0.3},
    "balance_no_weights": {"loss.use_class_weights": False},
    "balance_weighted_sampler": {"data.weighted_sampler": True},
}


@functools.cache
def shipped(name):
    return config.load(CONFIGS / f"{name}.yaml")


def flat(loaded):
    return config.flatten(loaded.model_dump())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a baseline, for files that extend it."""
    path = tmp_path_factory.mktemp("configs")
    shutil.copy(CONFIGS / "baseline.yaml", path)
    return path


@pytest.fixture
def write(folder):
    def to_file(content, name="own.yaml"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def refusal(path, *overrides):
    """The one line with which a config is refused."""
    with pytest.raises(UserError) as refused:
        config.load(path, overrides)
    message = str(refused.value)
    assert len(message.splitlines()) == 1, message
    return message


# --- the shipped files


def test_the_baseline_is_the_agreed_one():
    found = flat(shipped("baseline"))
    assert {key: found[key] for key in BASELINE} == BASELINE


def test_every_file_is_in_the_table_or_a_recipe():
    found = {path.stem for path in CONFIGS.iterdir()}
    assert found - set(RECIPES) == set(EXPERIMENTS) and set(RECIPES) <= found
    assert all(shipped(name).name == name for name in RECIPES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_differs_from_the_baseline_as_said_and_in_nothing_else(name):
    base, found = flat(shipped("baseline")), flat(shipped(name))
    assert found["name"] == name and found["description"]
    assert found.keys() == base.keys()
    changed = {
        key: value
        for key, value in found.items()
        if value != base[key] and key in config.compared_settings(base)
    }
    assert changed == EXPERIMENTS[name]
    # What the file repeats of the baseline is part of its question.
    if name == "loss_focal":
        assert found["loss.focal_gamma"] == 2.0
    if name == "balance_no_weights":
        assert found["data.weighted_sampler"] is False


def test_descriptions_are_questions_of_one_line():
    texts = [shipped(name).description for name in EXPERIMENTS]
    assert len(set(texts)) == len(texts)
    assert all(text.endswith("?") and "\n" not in text for text in texts)


# --- values


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "1E-3", "+1e-3", "0.001", "1.e-3"])
def test_a_number_with_an_exponent_is_a_number(write, text):
    path = write(f"extends: baseline.yaml\ntraining:\n  lr: {text}\n")
    assert config.load(path).training.lr == 0.001
    assert config.load(path, [f"training.lr={text}"]).training.lr == 0.001


def test_a_whole_number_serves_where_a_fraction_may_stand(write):
    path = write("extends: baseline.yaml\naugmentation: {rotation: 15}\n")
    found = config.load(path).augmentation.rotation
    assert found == 15.0 and type(found) is float


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("training.epochs=true", "training.epochs is True"),
        ('training.epochs="30"', "training.epochs is '30'"),
        ("training.epochs=3.0", "training.epochs is 3.0"),
        ("training.epochs=", "training.epochs is None"),
        ("training.epochs=[3]", "training.epochs is [3]"),
        ("training.epochs=0", "greater than or equal to 1"),
        ("training.epochs=-3", "training.epochs is -3"),
        ("training.batch_size=0", "training.batch_size is 0"),
        ("training.eval_batch_size=0", "training.eval_batch_size is 0"),
        ("training.lr=.nan", "training.lr is nan; expected a finite number"),
        ("training.lr=.inf", "training.lr is inf; expected a finite number"),
        ("training.lr=1e999", "training.lr is inf"),
        ("training.lr=true", "training.lr is True"),
        ("training.lr=0", "training.lr is 0"),
        ("training.lr=-1e-3", "training.lr is -0.001"),
        ("training.weight_decay=-0.1", "training.weight_decay is -0.1"),
        ("training.pct_start=0", "training.pct_start is 0"),
        ("training.pct_start=1", "training.pct_start is 1"),
        ("training.patience=-1", "training.patience is -1"),
        ("training.seed=-1", "training.seed is -1"),
        ("training.seed=2147483648", "training.seed is 2147483648"),
        ("training.precision=float16", "'auto', 'float32' or 'bfloat16'"),
        ("model.dropout=1", "model.dropout is 1"),
        ("model.dropout=-0.1", "model.dropout is -0.1"),
        ("model.arch=7", "model.arch is 7"),
        ("loss.type=hinge", "'ce' or 'focal'"),
        ("loss.label_smoothing=1", "loss.label_smoothing is 1"),
        ("loss.focal_gamma=-1", "loss.focal_gamma is -1"),
        ("loss.use_class_weights=1", "loss.use_class_weights is 1"),
        ("augmentation.horizontal_flip='no'", "augmentation.horizontal_flip is 'no'"),
        ("augmentation.random_erasing=1.1", "augmentation.random_erasing is 1.1"),
        ("augmentation.mixup_alpha=-0.2", "augmentation.mixup_alpha is -0.2"),
        ("augmentation.rotation=181", "augmentation.rotation is 181"),
        ("augmentation.shift=0.6", "augmentation.shift is 0.6"),
        ("augmentation.scale=0.6", "augmentation.scale is 0.6"),
        ("data.image_size=15", "data.image_size is 15"),
        ("data.image_size=513", "data.image_size is 513"),
        ("data.channels=2", "data.channels is 2; expected 1 or 3"),
        ("data.weighted_sampler=2", "data.weighted_sampler is 2"),
        ("name=../elsewhere", "as it names a folder"),
        ("name=", "name is None"),
        ("name=''", "name is ''"),
        ('name="a\\n"', "name is 'a\\n'"),
        ("description=3", "description is 3"),
        ("training=5", "training is 5; expected a section with the keys epochs"),
        ("training=", "training is None; expected a section"),
    ],
)
def test_a_wrong_value_is_refused_by_flag_key_and_value(item, says):
    message = refusal(CONFIGS / "baseline.yaml", item)
    assert message.startswith("--set ") and says in message
    assert item.partition("=")[0] in message


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("training.batch_sise=64", "did you mean training.batch_size?"),
        ("training.learning_rate=1", "did you mean training.lr?"),
        ("lr=1e-3", "did you mean training.lr?"),
        ("trainig.lr=1e-3", "did you mean training?"),
        ("loss.weighted_sampler=true", "did you mean data.weighted_sampler?"),
        ("extends=baseline.yaml", "extends is not a known key"),
        ("training..lr=1", "is not a known key"),
        ("training.lr.x=1", "training.lr is {'x': 1}"),
    ],
)
def test_an_unknown_key_is_refused_with_the_close_match(item, says):
    message = refusal(CONFIGS / "baseline.yaml", item)
    assert says in message and item.partition("=")[0] in message


@pytest.mark.parametrize("item", ["", "=", "=5", " =5", "training", "training.lr"])
def test_an_override_that_is_not_key_and_value_is_refused_with_an_example(item):
    message = refusal(CONFIGS / "baseline.yaml", item)
    assert repr(item) in message and "--set training.lr=1e-3" in message


def test_an_override_that_is_not_yaml_is_refused():
    assert "--set name=[" in refusal(CONFIGS / "baseline.yaml", "name=[")


def test_overrides_apply_in_order_and_values_may_hold_equals_signs():
    found = config.load(
        CONFIGS / "lr_low.yaml",
        ["training.lr=1e-2", "training.lr=2e-2", "description=a=b", "training.seed=7"],
    )
    assert found.training.lr == 0.02 and found.training.seed == 7
    assert found.description == "a=b" and found.name == "lr_low"


def test_an_override_may_be_a_part_of_a_section():
    found = config.load(CONFIGS / "baseline.yaml", ["training={lr: 1e-2, epochs: 3}"])
    assert (found.training.lr, found.training.epochs) == (0.01, 3)
    assert found.training.batch_size == 128


def test_more_errors_than_the_first_are_counted(write):
    path = write("extends: baseline.yaml\ntraining: {epochs: 0, lr: 0}\nx: 1\n")
    assert refusal(path).endswith("(and 2 more)")


# --- files


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "contains nothing"),
        ("# only a comment\n", "contains nothing"),
        ("just text", "contains str"),
        ("- a\n- b\n", "contains list"),
        ("42", "contains int"),
        ("a: [1,", "not valid YAML"),
        ("a:\n\tb: 1\n", "line 2"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("name: a\nname: b\n", "the key 'name' appears twice"),
        (
            "training:\n  lr: 1.0\n  epochs: 3\n  lr: 2.0\n",
            "line 4: not valid YAML: the key 'lr' appears twice",
        ),
        ("training: {lr: 1, 'lr': 2}\n", "the key 'lr' appears twice"),
        ("a: &x 1\nb: *x\n", "aliases (*name) are not supported"),
        ("a: &a [*a]\n", "aliases (*name) are not supported"),
        ("a: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("a: !own 1\n", "not valid YAML"),
        ("name: lonely\n", "description is missing"),
        (bytes(range(128, 256)), "is not a text file in UTF-8"),
        ("training: 1\n".encode("utf-16"), "is not a text file in UTF-8"),
        ("a" * 10_000_000, "is larger than 64 KiB"),
        (b"\xff" * 10_000_000, "is larger than 64 KiB"),
        ("[" * 5000, "not valid YAML"),
        ("a: 2001-99-99\n", "not valid YAML"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_file_that_is_no_config_is_refused_by_name(write, content, says):
    message = refusal(write(content))
    assert "own.yaml" in message and says in message


# PyYAML meets these with exceptions of Python's own, or with two lines.
@pytest.mark.parametrize(
    "content",
    [
        "? [a]\n: 1\n",
        "? {a: 1}\n: 1\n",
        "a: !!map [x]\n",
        "a: !!set [x]\n",
        "a: !!timestamp x\n",
        "a: !!bool x\n",
        "a: !!int ''\n",
        "a: !!float ''\n",
        'a: "\\Uffffffff"\n',
        f"a: {'1:' * 600}1.5\n",
        f"extends: baseline.yaml\ntraining: {{epochs: 0x{'f' * 5000}}}\n",
        f"extends: baseline.yaml\ntraining: {{lr: 0x{'f' * 5000}}}\n",
        f"extends: baseline.yaml\ntraining: {{epochs: 1{':1' * 5000}}}\n",
        f"extends: {'a' * 300}\n",
        'extends: "a\\0b"\n',
        'extends: "\\ud800"\n',
        "a: \x07\n",
        "\x00\x01\x02",
        'extends: baseline.yaml\n"a\\nb": 1\n',
        "extends: baseline.yaml\n1: 2\n",
    ],
    ids=lambda text: repr(text)[:50],
)
def test_odd_yaml_is_refused_in_one_line_as_well(write, content):
    assert "own.yaml" in refusal(write(content))


def test_an_override_with_line_breaks_is_refused_in_one_line():
    refusal(CONFIGS / "baseline.yaml", "training.lr=a\n\nb")
    refusal(CONFIGS / "baseline.yaml", "a\nb=1")


@pytest.mark.parametrize("key", ["name", "description", "arch"])
def test_text_that_no_file_can_hold_is_refused(write, key):
    # A lone surrogate would fail only when the run writes its config.
    line = f'{key}: "\\ud800"'
    line = f"model: {{{line}}}" if key == "arch" else line
    refusal(write(f"extends: baseline.yaml\n{line}\n"))


def test_a_missing_file_and_a_directory_are_refused_by_name(folder):
    missing = refusal(folder / "nowhere.yaml")
    assert "nowhere.yaml" in missing and "No such file" in missing
    assert str(folder) in refusal(folder) and "directory" in refusal(folder)


@pytest.mark.parametrize("prefix", ["\ufeff", "%YAML 1.1\n---\n", "\r\n"])
def test_files_of_other_editors_load(write, prefix):
    path = write(f"{prefix}extends: baseline.yaml\r\nname: other\r\n")
    assert config.load(path).name == "other"


# --- extends


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("nowhere.yaml", "which does not exist"),
        ("''", "which does not exist"),
        (".", "which does not exist"),
        ("../baseline.yaml", "leads out of the folder"),
        ("/etc/passwd", "leads out of the folder"),
        ("sub/../../baseline.yaml", "leads out of the folder"),
        ("own.yaml", "in a circle: own.yaml -> own.yaml"),
        ("3", "extends is 3; expected a file name"),
        ("", "extends is None; expected a file name"),
        ("[baseline.yaml]", "extends is ['baseline.yaml']"),
    ],
)
def test_extends_of_no_file_of_the_folder_is_refused(write, base, says):
    message = refusal(write(f"extends: {base}\nname: x\n"))
    assert "own.yaml" in message and says in message


def test_a_long_circle_is_refused_with_its_files(write):
    write("extends: b.yaml\n", "a.yaml")
    write("extends: c.yaml\n", "b.yaml")
    path = write("extends: a.yaml\n", "c.yaml")
    assert "c.yaml -> a.yaml -> b.yaml -> c.yaml" in refusal(path)


def test_a_link_may_not_lead_out_of_the_folder(write, folder, tmp_path):
    shutil.copy(CONFIGS / "baseline.yaml", tmp_path / "outside.yaml")
    (folder / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    assert "leads out" in refusal(write("extends: link.yaml\n"))


def test_a_linked_config_extends_what_lies_beside_the_file_itself(folder, tmp_path):
    shutil.copy(CONFIGS / "lr_low.yaml", folder)
    (tmp_path / "linked.yaml").symlink_to(folder / "lr_low.yaml")
    assert config.load(tmp_path / "linked.yaml") == config.load(folder / "lr_low.yaml")


def test_a_chain_of_files_merges_section_by_section(write):
    write("extends: baseline.yaml\ntraining: {lr: 1e-2, epochs: 3}\n", "a.yaml")
    write("extends: a.yaml\nname: b\ntraining: {epochs: 4}\n", "b.yaml")
    found = config.load(write("extends: b.yaml\nloss: {type: focal}\n"))
    assert (found.name, found.loss.type) == ("b", "focal")
    assert (found.training.lr, found.training.epochs) == (0.01, 4)
    assert found.training.batch_size == 128


def test_a_file_below_the_folder_may_be_extended(write):
    write("name: x\n", "sub/part.yaml")
    assert "part.yaml" not in refusal(write("extends: sub/part.yaml\n"))


def test_an_error_names_the_file_that_set_the_value(write):
    write("extends: baseline.yaml\ntraining: {epochs: 0}\n", "a.yaml")
    path = write("extends: a.yaml\nname: b\n", "b.yaml")
    message = refusal(path)
    assert "a.yaml: training.epochs is 0" in message and "b.yaml" not in message
    path = write("extends: a.yaml\ntraining: {epochs: -1}\n", "b.yaml")
    assert "b.yaml: training.epochs is -1" in refusal(path)
    assert refusal(path, "training.epochs=-2").startswith("--set training.epochs=-2: ")
    assert config.load(path, ["training.epochs=2"]).training.epochs == 2


# --- dump


@pytest.fixture(scope="module")
def again(folder):
    def dump_and_load(loaded):
        path = folder / "dumped.yaml"
        path.write_text(config.dump(loaded), encoding="utf-8")
        return config.load(path)

    return dump_and_load


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_dump_loads_as_the_same_config(again, name):
    loaded = shipped(name)
    assert again(loaded) == loaded
    assert list(yaml.safe_load(config.dump(loaded))) == list(config.Config.model_fields)


@pytest.mark.parametrize(
    "name", ["1e5", "1e-3", "12", "0x1F", "1.5", "1_000", "no", "null", "2001-01-01"]
)
def test_a_dump_keeps_names_that_look_like_other_things(again, name):
    loaded = config.load(CONFIGS / "baseline.yaml", [f"name='{name}'"])
    assert again(loaded) == loaded


@given(text=st.text(max_size=60), lr=st.floats(1e-300, 100), seed=st.integers(0, 9999))
@example(text="1e5", lr=1e-5, seed=0)
@example(text="a\nb: *c\r\x85\u2028 \t", lr=5e-324, seed=0)
@example(text="\x85", lr=1.0, seed=0)
@example(text="ein Gesicht 🙂 ", lr=1e-7, seed=0)
@settings(max_examples=60, deadline=None)
def test_a_dump_keeps_any_text_and_number(again, text, lr, seed):
    values = shipped("baseline").model_dump() | {"description": text}
    values["training"] = values["training"] | {"lr": lr, "seed": seed}
    loaded = config.validate(values, "x.yaml")
    assert again(loaded) == loaded


# --- whatever comes

NAMES = sorted(
    {part for key in flat(shipped("baseline")) for part in key.split(".")} | {"extends"}
)
KEYS = st.one_of(st.sampled_from(NAMES), st.text(max_size=8))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, 0.5, 30, "auto", "focal", "fernet", "1e-3"]),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)
CHANGES = st.dictionaries(KEYS, VALUES, max_size=4)


@given(changes=CHANGES, section=st.sampled_from(["", *NAMES]), bare=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_mapping_is_loaded_or_refused_in_one_line(changes, section, bare):
    values = {} if bare else shipped("baseline").model_dump()
    if isinstance(values.get(section), dict):
        values[section] = values[section] | changes
    else:
        values |= changes
    try:
        found = config.validate(values, "x.yaml")
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and "x.yaml" in str(error)
    else:
        assert config.validate(found.model_dump(), "x.yaml") == found


TOKENS = st.one_of(
    st.sampled_from([f"{name}: " for name in NAMES]),
    st.sampled_from(["\n", "\n  ", "? ", ": ", "- ", "[", "]", "{", "}", ", ", "# "]),
    st.sampled_from(["&a ", "*a ", "<<: ", "!!int ", "!!bool ", "!!set ", "!x "]),
    st.sampled_from(["'", '"', "\\", "|\n", ">-\n", "---\n", "%YAML 1.1\n", "\t"]),
    st.sampled_from(["baseline.yaml", "1e-3", "0x1f", "-1", ".nan", "2001-01-01"]),
    st.text(max_size=5),
)


@given(
    head=st.sampled_from(["", "extends: baseline.yaml\n"]),
    tokens=st.lists(TOKENS, max_size=12),
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_loaded_or_refused_in_one_line(folder, head, tokens):
    text = head + "".join(tokens)
    path = folder / "any.yaml"
    path.write_bytes(text.encode("utf-8"))
    for arguments in ((path,), (CONFIGS / "baseline.yaml", [text])):
        try:
            config.load(*arguments)
        except UserError as error:
            assert len(str(error).splitlines()) == 1, str(error)


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_loaded_or_refused_in_one_line(folder, content):
    path = folder / "bytes.yaml"
    path.write_bytes(content)
    try:
        config.load(path)
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["data.crop_size=60"], "data.crop_size is 60; expected 0 or 16 to data.image"),
        (["data.crop_size=8"], "data.crop_size is 8; expected 0 or 16"),
        (["training.start_size=50"], "training.start_size is 50; expected 0 or 16 to"),
        (["data.crop_size=40", "training.start_size=44"], "sees at full size, 40"),
    ],
)
def test_sizes_that_contradict_one_another_are_refused(items, says):
    assert says in refusal(CONFIGS / "baseline.yaml", *items)


# --- other names


@pytest.mark.parametrize(
    ("items", "current"),
    [
        (["loss.type=cross_entropy"], ["loss.type=ce"]),
        (["loss.self_targets=0.2"], ["loss.bootstrap=0.2"]),
        (["data.train_images=500"], ["data.train_subset=500"]),
        (["evaluation.views=one"], ["evaluation.tta=none"]),
        (["evaluation.views=flip"], ["evaluation.tta=flip"]),
        (["evaluation={views: ten_crop}"], ["evaluation.tta=ten_crop"]),
    ],
)
def test_old_names_of_keys_and_values_still_work(write, items, current):
    new = config.load(CONFIGS / "baseline.yaml", current)
    assert config.load(CONFIGS / "baseline.yaml", items) == new
    section, _, rest = items[0].partition(".")
    if rest:
        key, _, value = rest.partition("=")
        text = (
            f"extends: baseline.yaml\nname: baseline\n{section}: {{{key}: {value}}}\n"
        )
        loaded = config.load(write(text)).model_dump()
        assert loaded == new.model_dump() | {"description": loaded["description"]}


def test_a_key_under_its_old_and_its_new_name_is_refused(write):
    path = write("extends: baseline.yaml\nevaluation: {views: flip, tta: none}\n")
    message = refusal(path)
    assert "own.yaml: evaluation.views is the old name of evaluation.tta" in message
    # Over a file that it extends, the old name wins like any key.
    path = write("extends: baseline.yaml\nevaluation: {views: flip}\n")
    assert config.load(path).evaluation.tta == "flip"


# --- what is asked, and what is compared


def test_a_config_says_which_scores_answer_its_question(write):
    asked = {}
    for path in CONFIGS.glob("*.yaml"):
        asks = config.load(path).asks
        asked[path.stem] = (asks.metrics, asks.emotions)
    usual = (["macro_f1"], [])
    assert asked.pop("loss_focal") == (["macro_f1"], ["fear", "disgust"])
    for name in ("balance_no_weights", "balance_weighted_sampler"):
        assert asked.pop(name) == (["macro_f1"], ["rare"])
    for name in ("batch_256", "best", "speedrun", "teacher"):
        assert asked.pop(name) == (["accuracy"], [])
    assert set(map(str, asked.values())) == {str(usual)}
    # A complete config of an older version has no such key.
    values = config.load(CONFIGS / "baseline.yaml").model_dump()
    del values["asks"]
    assert config.validate(values, "old.yaml").asks == config.Asks()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{metrics: [f1]}", "asks.metrics.0 is 'f1'; expected 'accuracy', 'macro_f1'"),
        ("{emotions: [fear, disgut]}", "asks.emotions.1 is 'disgut'; expected 'disg"),
        ("{emotion: fear}", "asks.emotion is not a known key; did you mean asks.emo"),
        ("{emotions: fear}", "asks.emotions is 'fear'; expected a list"),
    ],
)
def test_an_unknown_score_is_refused(write, text, problem):
    path = write(f"extends: baseline.yaml\nasks: {text}\n")
    assert problem in refusal(path)


def test_emotions_of_class_folders_may_have_any_name(write):
    asks = "{emotions: [boredom, Happiness, rare, confused]}"
    path = write(f"extends: baseline.yaml\nasks: {asks}\n")
    assert len(config.load(path).asks.emotions) == 4


def test_the_same_experiment_is_one_whose_compared_settings_are_equal():
    values = config.load(CONFIGS / "baseline.yaml").model_dump()
    other = copy.deepcopy(values)
    other |= {"name": "b", "description": "?", "device": 2}
    other["asks"] = {"metrics": ["accuracy"], "emotions": []}
    other["data"]["stream"] = "never"
    same = config.compared_settings(values, seed=True)
    assert config.compared_settings(other, seed=True) == same
    assert config.compared_settings(config.flatten(other), seed=True) == same
    other["training"]["seed"] = 7
    assert config.compared_settings(other) == config.compared_settings(values)
    found = [config.compared_settings(each, seed=True) for each in (values, other)]
    assert config.differing_keys(found) == ["training.seed"]
    other["training"]["lr"] = 1.0
    found = [config.compared_settings(each) for each in (values, other)]
    assert config.differing_keys(found) == ["training.lr"]


def test_flatten_and_differing_keys():
    nested = {"a": {"b": {"c": 1}, "d": [1]}, "e": {}}
    assert config.flatten(nested) == {"a.b.c": 1, "a.d": [1], "e": {}}
    configs = [{"x": 1, "y": 2}, {"x": 1.0, "y": 3}, {"x": 1, "y": 2, "z": None}]
    assert config.differing_keys(configs) == ["y"]  # absent is None


# --- shipped configs, by name


def test_a_name_without_a_file_is_that_of_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load("loss_focal") == config.load(CONFIGS / "loss_focal.yaml")
    (tmp_path / "mine.yaml").write_text(
        "extends: loss_focal.yaml\nname: mine\nloss: {focal_gamma: 3}\n"
    )
    mine = config.load("mine.yaml")
    assert (mine.loss.type, mine.loss.focal_gamma) == ("focal", 3)
    assert "did you mean baseline?" in refusal("configs/baseline.yaml")
    assert "did you mean mine.yaml?" in refusal("mnie.yaml")


@pytest.mark.parametrize(
    ("overrides", "question"),
    [
        (["training.lr=0.5"], "How accurate is plain training?"),
        (["name=baseline"], "How accurate is plain training?"),
        (["name=x", "training.lr=0.5"], "What does training.lr=0.5 change?"),
        (["name=x"], "Is baseline reproducible?"),
        (["name=x", "description=Why?"], "Why?"),
    ],
)
def test_another_name_does_not_inherit_the_question(overrides, question):
    found = config.load(CONFIGS / "baseline.yaml", overrides)
    assert found.description == question


@pytest.mark.parametrize(
    ("item", "meant"),
    [
        ("model.name=x", "model.arch"),
        ("training.max_epochs=3", "training.epochs"),
        ("augmentation.mixup=1", "augmentation.mixup_alpha"),
        ("optimizer=sgd", "training.optimizer"),
    ],
)
def test_names_from_other_libraries_are_understood(item, meant):
    assert f"did you mean {meant}?" in refusal(CONFIGS / "baseline.yaml", item)


def test_every_hint_names_a_key_that_exists():
    keys = config.flatten(config.load("baseline").model_dump())
    assert set(ELSEWHERE.values()) <= set(keys)
    assert not set(ELSEWHERE) & {key.partition(".")[2] for key in keys}
