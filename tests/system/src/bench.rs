//! Runs commands of the benchmarks (`tests/bench`), which fail when what must hold does not, and reads their figures.
//!
//! `TWINBOX_BENCH` names another `twinbox-bench` than the one of this build, with the program under test next to it;
//! `TWINBOX_BENCH_DIR` is the folder for its files.

use std::{env, fs, path::PathBuf, process::Command};

use serde_json::Value;
use tempfile::TempDir;

/// The figures of one command.
#[derive(Debug)]
pub struct Figures(Value);

/// Runs a command to its end, prints its tables, and returns the figures.
pub fn measure(arguments: &[&str]) -> Figures {
    let folder = TempDir::new().expect("a folder");
    let json = folder.path().join("figures.json");
    let other = env::var_os("TWINBOX_BENCH").map(PathBuf::from);
    let bench = other.clone().unwrap_or_else(|| {
        let this = env::current_exe().expect("this test");
        this.ancestors().nth(2).expect("the build's folder").join("twinbox-bench")
    });
    let mut command = Command::new(&bench);
    command.args(arguments).arg("--json").arg(&json);
    if let Some(other) = other {
        command.env("TWINBOX_BIN", other.with_file_name("twinbox"));
    }
    if let Some(dir) = env::var_os("TWINBOX_BENCH_DIR") {
        command.env("TMPDIR", dir);
    }
    let ran = command
        .output()
        .unwrap_or_else(|error| panic!("{}, which `cargo build --workspace` makes: {error}", bench.display()));
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    println!("{said}");
    Figures(serde_json::from_slice(&fs::read(&json).expect("figures")).expect("JSON"))
}

impl Figures {
    /// The rows of the last table.
    pub fn rows(&self) -> &[Value] {
        let tables = self.0["figures"].as_array().and_then(|tables| tables.last());
        tables.and_then(|table| table["rows"].as_array()).unwrap_or_else(|| panic!("no rows in {:#}", self.0))
    }

    /// The figures of those rows whose column `what` begins with these words, sorted; at least one.
    pub fn of(&self, what: &str) -> Vec<f64> {
        let of = |row: &&Value| row["what"].as_str().is_some_and(|text| text.trim().starts_with(what));
        let mut found: Vec<f64> = self.rows().iter().filter(of).filter_map(|row| row["figure"].as_f64()).collect();
        assert!(!found.is_empty(), "no figure '{what}' in {:#}", self.0);
        found.sort_by(f64::total_cmp);
        found
    }

    /// Checks the highest figure of those rows.
    pub fn assert_at_most(&self, what: &str, most: f64) {
        let found = self.of(what);
        assert!(found.iter().all(|figure| *figure <= most), "{what}: {found:?}, at most {most}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_those_of_the_rows_that_begin_with_the_words() {
        let row = |figure: f64, what: &str| json!({ "figure": figure, "what": format!(" {what}") });
        let rows = [row(3.0, "memory of a"), row(1.0, "memory of b"), row(9.0, "most memory")];
        let figures = Figures(json!({ "figures": [{ "rows": [] }, { "rows": rows }] }));
        assert_eq!((figures.rows().len(), figures.of("memory")), (3, vec![1.0, 3.0]));
        figures.assert_at_most("memory", 3.0);
    }
}
