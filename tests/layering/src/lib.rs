//! Common code of the repository's tests about itself: its root, the output of `cargo metadata`, its text files.
//!
//! The tests: `graph` (dependencies between crates), `tidy` (style that a machine can check), `licences` (licences and
//! bans, without a network).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(Path::parent).expect("tests/layering lies two folders below the root").to_path_buf()
}

/// The output of `cargo metadata --offline`; `extra` are further arguments such as `--no-deps`.
pub fn metadata(extra: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1"])
        .args(extra)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata failed (run `cargo fetch --locked` once, with a network):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// A crate of the workspace and the dependencies in its manifest.
#[derive(Debug, Clone)]
pub struct Member {
    /// The crate's name.
    pub name: String,
    /// Folder of its manifest.
    pub folder: PathBuf,
    /// Dependencies for building and running.
    pub names: BTreeSet<String>,
    /// Dependencies only for its tests.
    pub names_for_tests: BTreeSet<String>,
}

/// All crates of the workspace, by name.
pub fn members() -> Vec<Member> {
    let metadata = metadata(&["--no-deps"]);
    let mut members: Vec<Member> = array(&metadata["packages"])
        .iter()
        .map(|package| {
            let (tests, names): (Vec<_>, Vec<_>) =
                array(&package["dependencies"]).iter().partition(|d| d["kind"] == "dev");
            let set = |d: Vec<&Value>| d.iter().map(|d| text(&d["name"])).collect();
            Member {
                name: text(&package["name"]),
                folder: Path::new(&text(&package["manifest_path"])).parent().map(PathBuf::from).unwrap_or_default(),
                names: set(names),
                names_for_tests: set(tests),
            }
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

/// All files of the repository that the tidy rules cover: not `target`, not the names that git ignores. Paths are
/// relative to the root, sorted.
pub fn files() -> Vec<PathBuf> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
        const NOT_OURS: [&str; 4] = ["target", ".git", "twinbox-demo", "node_modules"];
        for entry in fs::read_dir(folder).expect("a folder of the repository is readable").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if NOT_OURS.iter().any(|n| name == *n) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(root, &path, found),
                Ok(kind) if kind.is_file() => {
                    found.push(path.strip_prefix(root).expect("walked from the root").to_path_buf());
                }
                _ => {}
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root, &root, &mut found);
    found.sort();
    found
}

/// A TOML file of this crate.
pub fn table(name: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The list of tables under `key`; empty when there is none.
pub fn tables<'a>(table: &'a toml::Table, key: &str) -> Vec<&'a toml::Table> {
    table.get(key).and_then(toml::Value::as_array).map_or_else(Vec::new, |list| {
        list.iter().map(|entry| entry.as_table().unwrap_or_else(|| panic!("[[{key}]] holds tables"))).collect()
    })
}

/// The strings under `key`.
pub fn strings(table: &toml::Table, key: &str) -> Vec<String> {
    let list = table.get(key).and_then(toml::Value::as_array).unwrap_or_else(|| panic!("{key} = [...] is missing"));
    list.iter().map(|v| v.as_str().unwrap_or_else(|| panic!("{key} holds strings")).to_owned()).collect()
}

/// The string under `key`.
pub fn string(table: &toml::Table, key: &str) -> String {
    table.get(key).and_then(toml::Value::as_str).unwrap_or_else(|| panic!("{key} = \"...\" is missing")).to_owned()
}

/// A JSON array, or nothing.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A JSON string, or the empty one.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Fails with all complaints together, or passes when there are none.
pub fn judge(what: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{what}: {} complaints\n  {}", complaints.len(), complaints.join("\n  "));
}
