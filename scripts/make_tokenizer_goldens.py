"""Writes tests/testdata/tokenizers.json and byte_tokenizers.json: tokenizers of Hugging Face folders.

The commands require transformers, sentencepiece and protobuf, but not this package; `encode` and
`golden` require transformers 5.

  python scripts/make_tokenizer_goldens.py save OUT spiece.model   # folders of T5, as this version writes them
  python scripts/make_tokenizer_goldens.py save_bytes OUT          # folders of ByT5
  python scripts/make_tokenizer_goldens.py encode OUT              # ids and texts of transformers 5
  python scripts/make_tokenizer_goldens.py golden OUT              # the files of the tests

The stored files have folders of transformers 4.30, 4.57 and 5.24, from the spiece.model of t5_mini,
whose content they omit.
"""

import json
import pathlib
import random
import re
import sys

TESTDATA = pathlib.Path(__file__).parents[1] / "tests" / "testdata" / "tokenizers.json"
BYTES_TESTDATA = TESTDATA.with_name("byte_tokenizers.json")
NUM_RANDOM_TEXTS = 6
# Vocabulary in tokenizer.json, with or without a model, or in the model only.
GOLDEN = (
    "plain_5.24_T5Tokenizer",
    "added_5.24_T5Tokenizer",
    "added_4.57_T5TokenizerFast",
    "added_4.30_T5Tokenizer",
)
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WORDS = re.split(
    " ",
    "the play was lovely dull bright song garden river Paris NASA naïve café über Straße don't it's "
    "3.14 1,000 e-mail x86_64 http://a.b/c?d=e Capital good film",
)
ODD = re.split(
    " ",
    "漢字 中文文本 日本語テスト 한국어 Привет مرحبا שלום हिन्दी ไทย 😀 👩‍👩‍👧 🇩🇪 ❤️ é e\u0301 ﬁ ﬃ ① Ⅷ ㎏ ｆｕｌｌ ½ ™ … \u00ad "
    "\u200b \u200d \ufeff \x00 \x01 \x7f \x85 ▁ ▁▁ _ < > </s> <pad> <unk> <s> <extra_id_0> <extra_id_1> "
    "<extra_id_99> <extra_id_100> <extra_id_00> <EXTRA_ID_0> <extra_id_0 extra_id_0> [SEP] newtok "
    "NewTok <sp> ﾊﾝｶｸ ß İ ı \u212b \u1e9b\u0323 \U00020000 ﷺ \ufffd ～ “q” ‘q’ – —",
)
SPACES = (
    *(" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "", ""),
    *("\u00a0", "\u3000", "\u2003"),
)
EDGES = (
    *("", " ", "  ", "\n", "\t", " x", "x ", "  x  ", "\nx\n"),
    *("a<extra_id_0>b", "(<extra_id_0>)", "▁ x"),
)
# Texts with tokens of ByT5.
MARKED = (
    "a </s> b",
    "a  <pad>\n\tb",
    "\u3000<unk>\u00a0x\x1f</s>\x85",
    "x <extra_id_0> y<extra_id_4>",
    "<extra_id_124><extra_id_12> <extra_id_1",
    "a newtok  newtokens newtokennew tok",
    "a New Tok b  <sp>  c",
    "a  [SEP]  [SEP]\n<sp> </s> <l>\n<r>\n<l>",
    "it 's , n't . good <s> <mask> end\u00e9 漢字",
)


def texts() -> list[str]:
    """Returns varied texts, the same ones in every call; MARKED comes last."""
    rng = random.Random(7)
    result = [*EDGES, *ODD]
    for _ in range(NUM_RANDOM_TEXTS):
        text = rng.choice(["", "", "", " ", "\n"])
        for _ in range(rng.choice([1, 2, 3, 4, 6, 9, 15, 30])):
            kind = rng.random()
            words = WORDS if kind < 0.5 else ODD
            text += "".join(rng.choice(words) for _ in range(1 if kind < 0.9 else 3))
            text += rng.choice(SPACES) if rng.random() < 0.7 else " "
        result.append(text if rng.random() < 0.3 else text.strip())
    return [*result, *MARKED]


def save(out: pathlib.Path, *models: str) -> None:
    """Saves tokenizers of each model: plain, and with 20 sentinels and added tokens."""
    import transformers

    classes = {
        getattr(transformers, name): name
        for name in ("T5TokenizerFast", "T5Tokenizer")
        if hasattr(transformers, name)
    }
    added = [
        (["newtok", "New Tok"], False),
        (["<sp>"], True),
        ([transformers.AddedToken("[SEP]", lstrip=True, rstrip=True)], False),
    ]
    for model in map(pathlib.Path, models):
        for kind, extra_ids, tokens in (("plain", 100, []), ("added", 20, added)):
            source = out / "sources" / f"{model.parent.name}_{model.stem}_{kind}"
            source.mkdir(parents=True, exist_ok=True)
            (source / "spiece.model").write_bytes(model.read_bytes())
            config = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids}
            (source / "tokenizer_config.json").write_text(json.dumps(config))
            for tokenizer_class, name in classes.items():
                tokenizer = tokenizer_class.from_pretrained(source, extra_ids=extra_ids)
                for group, special in tokens:
                    tokenizer.add_tokens(group, special_tokens=special)
                version = transformers.__version__.rpartition(".")[0]
                tokenizer.save_pretrained(out / "folders" / f"{source.name}_{version}_{name}")


def save_bytes(out: pathlib.Path) -> None:
    """Saves tokenizers of ByT5, as this transformers and other versions write them."""
    import transformers

    for name, files in _byte_folders().items():
        folder = out / "folders" / f"byt5_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content))
    tokenizer = transformers.ByT5Tokenizer(extra_ids=5)
    tokenizer.add_tokens(["newtok", "New Tok", "new", "newtokens"])
    tokenizer.add_tokens(["<sp>"], special_tokens=True)
    for content, lstrip, rstrip in (
        ("[SEP]", True, True),
        ("<l>", True, False),
        ("<r>", False, True),
    ):
        tokenizer.add_tokens(transformers.AddedToken(content, lstrip=lstrip, rstrip=rstrip))
    version = transformers.__version__.rpartition(".")[0]
    tokenizer.save_pretrained(out / "folders" / f"byt5_saved_{version}")


def _byte_folders() -> dict[str, dict]:
    """{folder: {file: content}} of ByT5's tokenizers in other versions of transformers."""
    of_class = {"tokenizer_class": "ByT5Tokenizer"}
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    roles = {
        f"{role}_token": {"content": content} | plain
        for role, content in (("eos", "</s>"), ("unk", "<unk>"), ("pad", "<pad>"))
    }
    typed = {role: token | {"__type": "AddedToken"} for role, token in roles.items()}
    sentinels = {"additional_special_tokens": [f"<extra_id_{i}>" for i in range(125)]}
    few = {"extra_ids": 5}
    return {
        "bare": {"tokenizer_config.json": of_class},
        "public": {
            "tokenizer_config.json": of_class | typed | sentinels | {"extra_ids": 125},
            "special_tokens_map.json": roles | sentinels,
        },
        "added_json": {
            "tokenizer_config.json": of_class | {"extra_ids": 0},
            "added_tokens.json": {"newtok": 259, "<sp>": 260},
            "special_tokens_map.json": roles | {"additional_special_tokens": ["<sp>", "[SEP]"]},
        },
        "roles": {
            "tokenizer_config.json": of_class
            | few
            | {"mask_token": "<mask>", "other_token": "new"},
            "special_tokens_map.json": {
                "bos_token": {"content": "<s>"} | plain,
                "eos_token": "end",
            },
        },
        "named": {
            "tokenizer_config.json": of_class
            | few
            | {"extra_special_tokens": {"a_token": "newtok"}},
            "tokenizer.json": {"added_tokens": [{"id": 259, "content": "<l>", "lstrip": True}]},
        },
        "split": {
            "tokenizer_config.json": of_class
            | few
            | {"split_special_tokens": True, "clean_up_tokenization_spaces": True}
        },
    }


def encode(out: pathlib.Path) -> None:
    """Writes ids and decoded texts of transformers 5 for every folder."""
    import transformers

    for folder in sorted((out / "folders").iterdir()):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts()]
        decoded = [
            tokenizer.decode([i for i in row[: ([*row, 1]).index(1)] if i != 0]) for row in ids
        ]
        expected = {"size": len(tokenizer), "ids": ids, "decoded": decoded}
        (folder / "expected.json").write_text(json.dumps(expected))


def golden(out: pathlib.Path) -> None:
    """Writes folders without their vocabulary, and the ids and decoded texts of some texts."""
    folders = {}
    for name in GOLDEN:
        folder = out / "folders" / f"t5_mini_spiece_{name}"
        content = _read_folder(folder, texts()[: -len(MARKED)])
        if stored := content["files"].get("tokenizer.json"):
            vocab = stored["model"]["vocab"]
            num_sentinels = sum("<extra_id_" in token for token, _ in vocab)
            stored["model"]["vocab"] = vocab[len(vocab) - num_sentinels :]
            _blank_charsmap(stored["normalizer"])
        folders[name] = {"has_model": (folder / "spiece.model").exists(), **content}
    _write(TESTDATA, texts()[: -len(MARKED)], folders)
    byte_texts = [*EDGES, *ODD, *MARKED]
    folders = {
        folder.name.removeprefix("byt5_"): _read_folder(folder, byte_texts)
        for folder in sorted((out / "folders").glob("byt5_*"))
    }
    _write(BYTES_TESTDATA, byte_texts, folders)


def _read_folder(folder: pathlib.Path, chosen: list[str]) -> dict:
    """Returns the files of a folder, with the ids and decoded texts of the chosen texts."""
    expected = json.loads((folder / "expected.json").read_text())
    rows = [texts().index(text) for text in chosen]
    files = [file for file in map(folder.joinpath, FILES) if file.exists()]
    return {
        "files": {file.name: json.loads(file.read_text()) for file in files},
        "size": expected["size"],
        "ids": [expected["ids"][i] for i in rows],
        "decoded": [expected["decoded"][i] for i in rows],
    }


def _write(path: pathlib.Path, chosen: list[str], folders: dict) -> None:
    content = {"texts": chosen, "folders": folders}
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def _blank_charsmap(normalizer: dict) -> None:
    for step in normalizer.get("normalizers", [normalizer]):
        if step["type"] == "Precompiled":
            step["precompiled_charsmap"] = ""


if __name__ == "__main__":
    command, out, *models = sys.argv[1:]
    functions = {x.__name__: x for x in (save, save_bytes, encode, golden)}
    functions[command](pathlib.Path(out), *models)
