"""Manifests: four formats say the same, and everything that is wrong is said at once, where it is."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline_core.config import RECIPES, leaf_names
from pipeline_core.errors import ManifestError
from pipeline_core.manifest import MAX_ROWS, READERS, allowed_values, load_manifest, parse_override
from pipeline_core.spec import MAX_SEED, AssetSpec, clean_text

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)


def write(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def problems(path, **options):
    """Row, field and what is allowed of every problem."""
    with pytest.raises(ManifestError) as caught:
        load_manifest(path, **options)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{len(lines) - 1} problem{'s' * (len(lines) > 2)}"
    assert all(line.startswith(str(path)) for line in lines[1:])
    return [line.removeprefix(str(path)).removeprefix(", ") for line in lines[1:]]


texts = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=30).filter(
    lambda text: clean_text(text) == text
)
rows = st.lists(
    st.fixed_dictionaries(
        {"prompt": texts, "seed": st.integers(0, MAX_SEED)},
        optional={
            "negative_prompt": texts,
            "recipe": st.sampled_from(sorted(RECIPES)),
            "face_budget": st.integers(64, 5_000_000),
            "texture_size": st.sampled_from([64, 256, 8192]),
            "height_m": st.floats(0.01, 100),
            "geometry.steps": st.integers(0, 1_000_000),
            "geometry.densify.compactness": st.booleans(),
            "geometry.lr.means": st.floats(0.001, 1.0),
        },
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: (row["prompt"], row["seed"]),
)


@quick
@given(rows)
def test_four_formats_give_the_same_specs(tmp_path, rows):
    columns = sorted({name for row in rows for name in row})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows([{k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()} for row in rows])
    full = [{name: row.get(name) for name in columns} for row in rows]
    pq.write_table(pa.Table.from_pylist(full), tmp_path / "m.parquet")
    files = [
        write(tmp_path, "m.csv", text.getvalue()),
        write(tmp_path, "m.jsonl", "\n".join(json.dumps(row) for row in rows)),
        write(tmp_path, "m.yaml", yaml.safe_dump(rows, allow_unicode=True)),
        tmp_path / "m.parquet",
    ]
    first, *others = [load_manifest(path).specs for path in files]
    assert len(first) == len(rows)
    assert all(specs == first for specs in others)
    for spec, row in zip(first, rows):
        recipe = RECIPES[row.get("recipe", "factory")]
        assert spec.prompt == row["prompt"] and spec.seed == row["seed"]
        assert spec.face_budget == row.get("face_budget", recipe.mesh.face_budget)
        assert spec.recipe.geometry.steps == row.get("geometry.steps", recipe.geometry.steps)
        assert spec.recipe.geometry.lr.means == row.get("geometry.lr.means", recipe.geometry.lr.means)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    st.sampled_from(sorted(READERS)),
    st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")),
)
def test_any_bytes_are_read_or_refused(tmp_path, suffix, data):
    path = write(tmp_path, "any" + suffix, data)
    try:
        load_manifest(path)
    except ManifestError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("column, value", [
    ("seed", "-1"), ("seed", "1.5"), ("seed", "1e400"), ("seed", "9" * 5000), ("seed", "true"), ("seed", "nan"),
    ("height_m", "0"), ("height_m", "inf"), ("height_m", "1e9"),
    ("size_m", "1"), ("size_m", "1,2"), ("size_m", "1,2,3,4"), ("size_m", "0,6,0,4,0,5"), ("size_m", "1,0,1"),
    ("size_m", "1,-2,1"), ("size_m", "1,inf,1"), ("size_m", "1,1,1001"), ("size_m", "a,b,c"), ("size_m", "true"),
    ("size_m", "[1, [2], 1]"), ("size_m", "[1, true, 1]"), ("size_m", '{"x": 1}'),
    ("face_budget", "3"), ("texture_size", "1000"),
    ("geometry.guidance_scale", "-3"), ("geometry.guidance_scale", "NaN"), ("geometry.steps", "[1]"),
    ("geometry.t_max", "[0.5]"), ("geometry.t_max", "[0.5, 7]"), ("geometry.background", "pink"), ("recipe", "drft"),
    ("tags", "t" * 65), ("tags", ";".join(map(str, range(40)))), ("id", "../../etc/passwd"), ("id", "C:\\x"),
])  # fmt: skip
def test_absurd_values_are_refused_by_row_and_field(tmp_path, column, value):
    path = tmp_path / "m.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", column], ["a mug", ""], ["a red mug", value]])
    found = problems(path)
    assert len(found) == 1 and found[0].startswith(f"row 3, {column}, "), found
    assert len(found[0]) < 400


def test_a_size_is_three_numbers_in_every_format_and_excludes_a_height(tmp_path):
    texts = {
        "m.csv": 'prompt,size_m,height_m\na mug,"0.6, 0.4,0.5",\n',
        "m.tsv": "prompt\tsize_m\na mug\t[0.6, 0.4, 0.5]\n",
        "m.jsonl": '{"prompt": "a mug", "size_m": [0.6, 0.4, 0.5]}\n{"prompt": "a cup", "size_m": "0.6,0.4,0.5"}\n',
        "m.yaml": "- {prompt: a mug, size_m: [0.6, 0.4, 0.5]}\n",
    }
    for name, text in texts.items():
        for spec in load_manifest(write(tmp_path, name, text)).specs:
            assert spec.size_m == (0.6, 0.4, 0.5) and spec.height_m == 0.4
    both = write(tmp_path, "both.csv", 'prompt,size_m,height_m\na mug,"1,2,3",2\na cup,"1,2,3",\na jug,,2\n')
    assert problems(both) == ["row 2, size_m, '1,2,3': one of height_m and size_m; the row gives both"]
    assert [spec.size_m for spec in load_manifest(both, skip_invalid=True).specs] == [(1, 2, 3), None]


def test_every_bad_row_is_reported_and_none_hides_another(tmp_path):
    path = write(tmp_path, "m.csv", "prompt,seed,geometry.steps\n,1,\na mug,-1,x\na mug,2,\nb,3,9999999\n")
    assert [line.split(":")[0] for line in problems(path)] == [
        "row 2, prompt", "row 3, geometry.steps, 'x'", "row 3, seed, '-1'", "row 5, geometry.steps, '9999999'",
    ]  # fmt: skip


def test_unknown_columns_name_the_nearest_valid_ones(tmp_path):
    (found,) = problems(write(tmp_path, "m.csv", "promt,prompt\na,b\n"))
    assert "did you mean prompt" in found
    (found,) = problems(write(tmp_path, "m.csv", "prompt,densify_every\na,1\n"))
    assert "geometry.densify.every" in found or "unknown column" in found
    (found,) = problems(write(tmp_path, "m.csv", "prompt,steps\na,1\n"))
    assert "geometry.steps" in found and "texture.steps" in found
    (found,) = problems(write(tmp_path, "m.jsonl", '{"prompt": "a"}\n{"prompt": "b", "sed": 1}'))
    assert found.startswith("row 2, column, 'sed'") and "seed" in found


def test_duplicates_name_the_first_row_and_the_way_out(tmp_path):
    (found,) = problems(write(tmp_path, "m.csv", "prompt,seed\na mug,1\na mug,1\n"))
    assert found.startswith("row 3, id") and "row 2" in found and "another seed" in found
    (found,) = problems(write(tmp_path, "m.csv", "id,prompt\nx,a\nx,b\n"))
    assert found.startswith("row 3, id, 'x'")


def test_a_cell_of_ten_megabytes_is_one_problem_of_its_row(tmp_path):
    path = write(tmp_path, "m.csv", f'prompt,seed\na mug,1\n"{"z" * 10_000_000}",2\nb,-1\n')
    found = problems(path)
    assert [line[:12] for line in found] == ["row 3, promp", "row 4, seed,"]
    assert max(map(len, found)) < 300
    limit = csv.field_size_limit()
    assert limit == 131_072  # the module's global limit is put back


@pytest.mark.parametrize("data, said", [
    ("prompt\na mug".encode("utf-16"), "UTF-16"),
    ("prompt\na café".encode("latin-1"), "UTF-8"),
    (b"PK\x03\x04rest", "Excel"),
    (b"PAR1rest", "Parquet"),
    (b"prompt\na\0b", "binary"),
    (b"\x1f\x8b\x08rest", "gzip"),
    (b"", "no assets"),
    (b"prompt\n", "no assets"),
    (b"seed\n1\n", "prompt"),
    (b'prompt\n"a mug\n', "quotes"),
])  # fmt: skip
def test_files_that_are_no_csv_are_refused_by_what_they_are(tmp_path, data, said):
    assert said in problems(write(tmp_path, "m.csv", data))[0]
    with pytest.raises(ManifestError):  # nothing in such a file can be trusted, so nothing is skipped either
        load_manifest(tmp_path / "m.csv", skip_invalid=True)


def test_what_is_no_file_is_refused(tmp_path):
    assert "cannot be read" in problems(tmp_path / "none.csv")[0]
    (tmp_path / "folder.csv").mkdir()
    assert "not a regular file" in problems(tmp_path / "folder.csv")[0]
    assert ".jsonl" in problems(write(tmp_path, "m.xlsx", b"x"))[0]


@pytest.mark.parametrize("line, said", [
    ("[1]", "mapping"), ('{"prompt": "a", "prompt": "b"}', "more than once"), ('{"prompt": NaN}', "NaN"),
    ("{", "JSON"), ("[" * 100_000, "JSON"), ('{"prompt": true}', "text"), ('{"prompt": "a", "seed": true}', "integer"),
    ('{"prompt": "\\ud800"}', "text"), ('{"prompt": "a", "tags": {"x": ["y"]}}', "tags"[:3]),
    ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "JSON"),
])  # fmt: skip
def test_bad_lines_of_jsonl_are_refused_one_by_one(tmp_path, line, said):
    path = write(tmp_path, "m.jsonl", '{"prompt": "a mug"}\n' + line + "\n")
    (found,) = problems(path)
    assert found.startswith("row 2") and said in found
    manifest = load_manifest(path, skip_invalid=True)
    assert len(manifest.specs) == 1 and len(manifest.problems) == 1


def test_yaml_expands_a_matrix(tmp_path):
    path = write(
        tmp_path,
        "m.yaml",
        """
defaults: {recipe: draft, tags: [set=props]}
assets:
  - prompt: a {colour} {prop}
    id: "{prop}-{colour}-{seed}"
    tags: ["colour={colour}"]
    matrix: {colour: [red, blue], prop: [mug, gem], seed: [1, 2]}
  - prompt: a grey stone well
""",
    )
    specs = load_manifest(path).specs
    assert len(specs) == 9 and specs[0].asset_id == "mug-red-1" and specs[0].tags == {"colour": "red"}
    assert {spec.prompt for spec in specs[:8]} == {f"a {c} {p}" for c in ("red", "blue") for p in ("mug", "gem")}
    assert specs[8].tags == {"set": "props"} and all(spec.recipe.name == "draft" for spec in specs)


@pytest.mark.parametrize("text, said", [
    ("- {prompt: a mug, matrix: {colour: [red]}}", "{colour}"),
    ("- {prompt: a mug, matrix: {seed: 3}}", "lists"),
    ("- {prompt: a mug, matrix: {seed: []}}", "lists"),
    ("- prompt: a {x}{y}{z}\n  matrix: {x: &l [" + "1," * 99 + "1], y: *l, z: *l}", str(MAX_ROWS)),
    ("- {prompt: a, prompt: b}", "more than once"),
    ("- !!python/object/apply:os.system [true]", "tag"),
    ("[" * 100, "deep"),
    ("- &a [*a]", "mapping"),
    ("- {prompt: yes}", "text"),
    ("- {prompt: 2024-01-01}", "text"),
    ("just text", "list"),
    ("assets: []\nother: 1", "top level"),
    ("a: b: c", "YAML"),
    ("- {prompt: a, geometry: {steps: 3}}", "geometry.steps"),
])  # fmt: skip
def test_bad_yaml_is_refused(tmp_path, text, said):
    assert any(said in found for found in problems(write(tmp_path, "m.yaml", text)))


def test_a_format_string_reaches_nothing(tmp_path):
    path = write(tmp_path, "m.yaml", "- {prompt: 'a {c.__class__} {c}', matrix: {c: [red]}}")
    assert load_manifest(path).specs[0].prompt == "a {c.__class__} red"


def test_skip_invalid_keeps_good_rows_and_tells_the_bad_ones(tmp_path):
    path = write(tmp_path, "m.csv", "prompt,seed\na mug,1\n,2\nb,x\n")
    manifest = load_manifest(path, skip_invalid=True)
    assert [spec.prompt for spec in manifest.specs] == ["a mug"]
    assert [problem.row for problem in manifest.problems] == [3, 4]
    all_bad = write(tmp_path, "bad.csv", "prompt\n\n,\n")
    with pytest.raises(ManifestError):
        load_manifest(all_bad, skip_invalid=True)


def test_semicolons_tabs_and_a_byte_order_mark(tmp_path):
    for text in ("prompt;seed\r\na mug;3\r\n\r\n", "prompt\tseed\na mug\t3\n", "\ufeffprompt,seed\na mug,3\n"):
        (spec,) = load_manifest(write(tmp_path, "m.csv", text)).specs
        assert spec.prompt == "a mug" and spec.seed == 3


def test_the_first_line_of_excel_names_the_separator(tmp_path):
    for text in ("sep=;\r\nid;prompt;seed\r\na;a red mug;1\r\n", "SEP=|\nid|prompt|seed\na|a red mug|1\n"):
        (spec,) = load_manifest(write(tmp_path, "m.csv", text)).specs
        assert (spec.asset_id, spec.prompt, spec.seed) == ("a", "a red mug", 1)
    said = problems(write(tmp_path, "m.csv", "sep=;\nid;prompt;seed\na;a mug;1\nb;a mug;x\n"))
    assert said == ["row 3, seed, 'x': an integer from 0 to 4294967295"]  # as Excel counts: it hides the line


def test_columns_without_name_and_content_are_passed_over(tmp_path):
    text = "id,prompt,,seed,,\r\na,a red mug,,1,,\r\nb,a cup,,2,,\r\n"
    assert [(s.asset_id, s.seed) for s in load_manifest(write(tmp_path, "m.csv", text)).specs] == [("a", 1), ("b", 2)]
    said = problems(write(tmp_path, "m.csv", "id,prompt,,\na,a red mug,,\nb,a cup,, blue\n"))
    assert said == ["row 3, column 4, ' blue': a name in the header, or empty cells"]


def test_a_decimal_comma_is_told(tmp_path):
    text = "id;prompt;height_m;geometry.lr.means;tags\na;a mug;0,6;0,01;1,5\nb;a mug;x;1;1,5\n"
    assert problems(write(tmp_path, "m.csv", text)) == [
        "row 2, geometry.lr.means, '0,01': a number above 0; the comma in it is a decimal comma: write 0.01",
        "row 2, height_m, '0,6': a number from 0.001 to 1000; the comma in it is a decimal comma: write 0.6",
        "row 3, height_m, 'x': a number from 0.001 to 1000",
    ]


def test_prompts_that_look_the_same_are_the_same(tmp_path):
    rows = ["a caf\u00e9 table", "a cafe\u0301 table", "a\u200b caf\u00e9 \ufefftable\u202e"]
    said = problems(write(tmp_path, "m.csv", "prompt\n" + "\n".join(rows)))
    assert [line.split(",")[0] for line in said] == ["row 3", "row 4"]
    assert all("row 2 has the same (same prompt and seed" in line for line in said)


def test_overrides_have_the_last_word(tmp_path):
    path = write(tmp_path, "m.csv", "prompt,geometry.steps\na mug,7\n")
    name, value = parse_override("geometry.steps=9")
    assert load_manifest(path, overrides={name: value}).specs[0].recipe.geometry.steps == 9
    assert parse_override("face_budget=500") == ("mesh.face_budget", 500)
    for text, said in (
        ("steps=3", "geometry.steps"),
        ("geometry.steps=x", "integer"),
        ("geometry.steps", "name=value"),
    ):
        with pytest.raises(ManifestError, match=said):
            parse_override(text)


def test_what_an_entry_says_takes_the_place_of_a_default_that_says_the_same_in_another_column(tmp_path):
    text = (
        "defaults: {height_m: 2, face_budget: 300}\nassets:\n"
        "- {prompt: a mug, size_m: [1, 2, 3], mesh.face_budget: 400}\n- {prompt: a cup, size_m: null}\n"
        "- {prompt: a jug, matrix: {seed: [1], size_m: [[1, 2, 3]]}}\n"
        "- {prompt: a pot, size_m: [1, 2, 3], height_m: 2}\n"
    )
    path = write(tmp_path, "m.yaml", text)
    assert problems(path) == ["row 4, size_m, [1, 2, 3]: one of height_m and size_m; the row gives both"]
    mug, cup, jug = load_manifest(path, skip_invalid=True).specs
    assert (mug.size_m, mug.recipe.mesh.face_budget) == ((1, 2, 3), 400)
    assert (cup.height_m, cup.size_m, cup.recipe.mesh.face_budget) == (2, None, 300)
    assert jug.size_m == (1, 2, 3)


def test_one_target_given_twice_is_refused(tmp_path):
    found = problems(write(tmp_path, "m.csv", "prompt,face_budget,mesh.face_budget\na,100,200\n"))
    assert "face_budget sets the same recipe field" in found[0]


@pytest.mark.parametrize("leaf", leaf_names())
def test_what_is_allowed_can_be_said_of_every_recipe_field(leaf):
    words = allowed_values(leaf)
    assert words and "{" not in words and "None" not in words and not words.startswith("array"), words


def test_loras_in_every_kind_of_manifest(tmp_path):
    entries = [{"path": "clay.safetensors", "scale": 0.8}, "ink.safetensors"]
    text = json.dumps(entries)
    files = {
        "a.csv": 'prompt,image_lora\na mug,"' + text.replace('"', '""') + '"\na jug,clay.safetensors\n',
        "a.jsonl": "\n".join(
            json.dumps({"prompt": p, "image_lora": v}) for p, v in (("a mug", entries), ("a jug", "clay.safetensors"))
        ),
        "a.yaml": f"- {{prompt: a mug, image_lora: {text}}}\n- {{prompt: a jug, image_lora: clay.safetensors}}\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        mug, jug = (spec.recipe.image_lora for spec in load_manifest(tmp_path / name).specs)
        assert [(lora.path, lora.scale) for lora in mug] == [("clay.safetensors", 0.8), ("ink.safetensors", 1.0)], name
        assert [(lora.path, lora.scale) for lora in jug] == [("clay.safetensors", 1.0)], name
    assert parse_override(f"image_lora={text}") == ("image_lora", entries)
    with pytest.raises(
        ManifestError, match=r"a list of entries with path \(text\) and scale \(a number from -10 to 10\)"
    ):
        parse_override('image_lora=[{"path": "a", "scale": 99}]')


# --- rows with an image ----------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A manifest's folder with a picture of a red square, and files that are none."""
    monkeypatch.setenv("SPLATMILL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    square = Image.new("RGBA", (80, 60))
    square.paste((200, 30, 40, 255), (20, 10, 60, 50))
    square.save(folder / "red_mug-02.png")
    square.save(folder / "other.webp", lossless=True)
    (folder / "torn.png").write_bytes((folder / "red_mug-02.png").read_bytes()[:90])
    (folder / "words.jpg").write_text("a red mug")
    Image.new("RGB", (64, 64), "white").save(folder / "blank.png")
    return folder


def image_rows(pictures, *rows):
    path = pictures / "props.jsonl"
    path.write_text("\n".join(json.dumps({"recipe": "dreamgaussian-image"} | row) for row in rows))
    return path


def test_a_row_may_give_an_image_and_is_called_by_its_name_where_it_gives_no_prompt(pictures):
    rows = [{"image": "red_mug-02.png", "image_elevation": 20}, {"image": "other.webp", "prompt": "a red mug"}]
    first, second = load_manifest(image_rows(pictures, *rows)).specs
    assert (first.prompt, second.prompt) == ("red mug 02", "a red mug") and first.image_elevation == 20.0
    assert first.asset_id.startswith("red-mug-02-") and AssetSpec.from_json(first.to_json()) == first
    assert first.image.name == "red_mug-02.png" and first.files == {"image": first.image}
    assert second.asset_id != AssetSpec(prompt="a red mug").asset_id  # another picture is another asset


def test_a_table_of_images_needs_no_column_of_prompts(pictures):
    (pictures / "props.csv").write_text("image,recipe\nred_mug-02.png,dreamgaussian-image\n")
    assert [spec.prompt for spec in load_manifest(pictures / "props.csv").specs] == ["red mug 02"]
    (pictures / "props.csv").write_text("seed,recipe\n1,dreamgaussian-image\n")
    with pytest.raises(ManifestError, match="column, 'prompt': required, but not in the header"):
        load_manifest(pictures / "props.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "torn.png"}, "image, 'torn.png': is damaged "),
        ({"image": "words.jpg"}, "image, 'words.jpg': is no image in PNG, JPEG or WebP; save it as a PNG"),
        ({"image": "blank.png"}, "image, 'blank.png': has no transparency, and 0.0% of it stands out"),
        ({"image": "mug.gif"}, "image, 'mug.gif': the path of a .png or .jpg or .jpeg or .webp file, relative to"),
        ({"image": "gone.png"}, "image, 'gone.png': a file that is there; there is none"),
        ({"image": "../x.png"}, "image, '../x.png': a file "),
        ({"image": "other.webp", "image_elevation": 95}, "image_elevation, 95: a number from -80 to 80: degrees above"),
        ({"image": "other.webp", "image_elevation": True}, "image_elevation, True: a number from -80 to 80"),
        ({"prompt": "a mug", "image_elevation": 20}, "image_elevation is given without an image; give one, or leave"),
        ({"image": "other.webp", "init.start": "prior"}, "prompt: needed beside an image where init.start is prior"),
    ],
)
def test_an_image_that_is_none_is_refused_by_row_field_and_file(pictures, row, said):
    with pytest.raises(ManifestError) as refused:
        load_manifest(image_rows(pictures, {"image": "red_mug-02.png"}, row))
    one, _, problem = str(refused.value).partition("props.jsonl, row 2")
    assert one.startswith("1 problem\n") and problem[2:].startswith(said)


def test_a_picture_is_looked_at_once_whatever_it_is_called(pictures, monkeypatch):
    from pipeline_core import picture

    read, looked = picture.read_picture, []
    monkeypatch.setattr(picture, "read_picture", lambda path: looked.append(path.name) or read(path))
    (pictures / "same.png").write_bytes((pictures / "red_mug-02.png").read_bytes())
    rows = [{"image": "red_mug-02.png", "seed": seed} for seed in range(3)] + [{"image": "same.png", "id": "same"}]
    for _ in range(2):
        assert len(load_manifest(image_rows(pictures, *rows)).specs) == 4
    assert looked == ["red_mug-02.png"]
    for _ in range(2):  # what is none stays none
        with pytest.raises(ManifestError, match=r"image, 'blank\.png': has no transparency"):
            load_manifest(image_rows(pictures, {"image": "blank.png"}))
    assert looked == ["red_mug-02.png", "blank.png"]


def test_an_axis_of_a_matrix_may_fill_the_name_of_an_image(pictures):
    (pictures / "props.yaml").write_text(
        "- {image: '{name}', recipe: dreamgaussian-image, matrix: {name: [red_mug-02.png, other.webp]}}\n"
    )
    names = [spec.image.name for spec in load_manifest(pictures / "props.yaml").specs]
    assert names == ["red_mug-02.png", "other.webp"]


def test_many_problems_of_a_kind_are_told_as_one(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("id,prompt,seed,height_m\n" + "".join(f"a{i},mug {i},x{i},{-i}\n" for i in range(5000)))
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "10000 problems" and len(lines) < 30
    assert f"{path}, rows 12 to 5001, seed: 4990 more like it" in lines


def test_too_many_rows_are_refused_before_any_of_them_is_looked_at(tmp_path):
    for name, line in (("m.csv", "x,-1\n"), ("m.jsonl", "{}\n")):
        path = tmp_path / name
        path.write_text("prompt,seed\n" * (name == "m.csv") + line * (MAX_ROWS + 1))
        with pytest.raises(ManifestError) as caught:
            load_manifest(path)
        assert str(caught.value) == f"{path}, {MAX_ROWS + 1} rows: at most {MAX_ROWS} assets; split the manifest"


def test_row_numbers_that_pandas_wrote_are_passed_over(tmp_path):
    for name in ("", "Unnamed: 0", "index"):
        path = tmp_path / "frame.csv"
        path.write_text(f"{name},prompt\n0,a mug\n1,a cup\n")
        assert [spec.prompt for spec in load_manifest(path).specs] == ["a mug", "a cup"]
        path.write_text(f"{name},prompt\n0,a mug\n7,a cup\n")
        with pytest.raises(ManifestError, match="column"):
            load_manifest(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("geometry.stepz=3", "a recipe has no field 'geometry.stepz'; did you mean geometry.steps"),
        ("seed=3", "seed is no field of a recipe; the column seed of the manifest sets it"),
        ("recipe=draft", "the command's --recipe"),
    ],
)
def test_what_set_does_not_know_is_told_in_its_own_words(text, says):
    with pytest.raises(ManifestError, match=f"--set {text}: .*{says}"):
        parse_override(text)


PARTS_YAML = """
- id: reading-table-{colour}
  prompt: a {colour} book on a brown table
  matrix: {colour: [red, blue]}
  parts:
    - {prompt: a brown table, size: [1, 0.7, 0.7]}
    - {prompt: "  a {colour}\u200b cafe\u0301 ", position: [0, 0.7, 0], size: 0.4, rotation: [0, 20, 0]}
"""


def test_a_row_is_put_together_from_parts_in_every_format(tmp_path):
    red, blue = load_manifest(write(tmp_path, "m.yaml", PARTS_YAML)).specs
    assert [part.prompt for part in blue.parts] == ["a brown table", "a blue caf\u00e9"]  # as a prompt is cleaned
    assert red.parts[1].position == (0, 0.7, 0) and red.parts[0].size == (1, 0.7, 0.7)
    assert AssetSpec.from_json(red.to_json()) == red and "parts" not in AssetSpec(prompt="a mug").to_json()
    parts = [{"prompt": "a table"}, {"prompt": "a book", "size": 0.4}]
    table = pa.table({"prompt": ["x"], "parts": [parts]})
    pq.write_table(table, tmp_path / "m.parquet")
    with (tmp_path / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "parts"], ["x", json.dumps(parts)]])
    write(tmp_path, "m.jsonl", json.dumps({"prompt": "x", "parts": parts}))
    specs = [load_manifest(tmp_path / f"m.{kind}").specs[0] for kind in ("parquet", "csv", "jsonl")]
    assert specs[0] == specs[1] == specs[2] and specs[0].parts[1].size == 0.4
    assert specs[0].asset_id != AssetSpec(prompt="x").asset_id  # the same words, and another thing


def test_the_starter_is_shown_parts_alone_unless_a_row_says_otherwise(tmp_path):
    parts = "parts: [{prompt: x}, {prompt: y}]"
    rows = ["id: a", "id: b, geometry.part_views: 0.5", "id: c, image_prior: other/model"]
    text = "- {id: none, prompt: x}\n" + "".join(f"- {{prompt: x, {row}, {parts}}}\n" for row in rows)
    specs = load_manifest(write(tmp_path, "m.yaml", text)).specs
    shares = [(spec.recipe.geometry.part_views, spec.recipe.appearance.part_views) for spec in specs]
    assert shares == [(0.5, 0.5), (1, 1), (0.5, 1), (0.5, 0.5)] and specs[0].recipe == RECIPES["factory"]
    again = load_manifest(tmp_path / "m.yaml", overrides={"geometry.part_views": 0.25}).specs[1]
    assert again.recipe.geometry.part_views == 0.25


def test_colours_by_view_are_refused_where_the_splat_is_drawn_on_the_mesh(tmp_path):
    path = write(tmp_path, "m.csv", "prompt,init.sh_degree,dress.splat\na mug,2,\na cup,2,optimised\na jug,0,mesh\n")
    (told,) = problems(path)
    assert told.startswith("row 2, init.sh_degree, 2: 0, or dress.splat=optimised beside it: ")
    assert load_manifest(path, overrides={"dress.splat": "optimised"}).specs[0].recipe.init.sh_degree == 2
    assert problems(write(tmp_path, "n.csv", "prompt\na mug\n"), overrides={"init.sh_degree": 1})


@pytest.mark.parametrize("parts, found", [
    ("[{prompt: x, size: -1}, {prompt: '', position: [1, 2]}]", [
        "parts[0].size, -1: a number from 0.001 to 1000", "parts[1].prompt: 1 to 2000 characters",
        "parts[1].position, [1, 2]: three numbers from -1000 to 1000",
    ]),
    ("[{prompt: x, siz: 1}, 3, {prompt: y, size: true}]", [
        "parts[0].siz, 1: unknown; a part has prompt, position, size, rotation; did you mean size?",
        "parts[1], 3: a mapping with a prompt", "parts[2].size, True: a number",
    ]),
    ("[{prompt: x, size: [0, 2, 1]}, {position: '1,2,3'}, {prompt: y, rotation: [0, 0, 400]}]", [
        "parts[0].size, [0, 2, 1]:", "parts[1].prompt: ", "parts[1].position, '1,2,3': ",
        "parts[2].rotation, [0, 0, 400]: three numbers from -360 to 360",
    ]),
    ("[{prompt: x, size: '0,3'}, {prompt: y, 7: 1}]", ["parts[0].size, '0,3': a number", "parts[1].7"]),
    ("[{prompt: x}]", ["parts has one part"]),
    ("red", ["parts, 'red': a list of 2 to 16 mappings"]),
    ("{a: 1}", ["parts, {'a': 1}: a list of 2 to 16"]),
    ("[" + "{prompt: x}," * 17 + "]", ["parts, [{'prompt': 'x'}"]),
])  # fmt: skip
def test_what_is_wrong_with_parts_is_told_by_part_and_field(tmp_path, parts, found):
    told = problems(write(tmp_path, "m.yaml", f"- {{prompt: a mug, parts: {parts}}}\n- {{prompt: a cup}}\n"))
    assert len(told) == len(found)
    for line, start in zip(told, found, strict=True):
        assert line.removeprefix("row 1, ").removeprefix("row 1: ").startswith(start), line
        assert len(line) < 400


def test_parts_are_made_from_prompts_alone_and_a_csv_cell_says_how_to_write_them(tmp_path, pictures):
    (told,) = problems(write(tmp_path, "m.csv", "prompt,parts\na mug,a red book; a table\n"))
    assert told.endswith("in a CSV cell the same as JSON")
    two = "parts: [{prompt: x}, {prompt: y}]"
    text = f"- {{prompt: a, image: red_mug-02.png, recipe: dreamgaussian-image, {two}}}\n"
    (told,) = problems(write(pictures, "m.yaml", text))
    assert told == "row 1: parts are made from their prompts, and image is given; leave one of them out"
