//! The copy of an index in its place.

use super::*;

#[test]
fn start_finds_one_index_whatever_ended_the_replacement() {
    for (folders, content) in [
        (vec!["index"], "index"),
        (vec!["index", "index.next"], "index"),
        (vec!["index.next", "index.old"], "index.next"),
        (vec!["index", "index.old"], "index"),
        (vec![], ""),
        // Only a person removes the index alone: the rest shows that.
        (vec!["index.next"], ""),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        for folder in &folders {
            fs::create_dir(dir.path().join(folder)).expect("a folder");
            fs::write(dir.path().join(folder).join("db"), folder).expect("a file");
        }
        settle(dir.path()).expect("it settles");
        let found = fs::read_to_string(index(dir.path()).join("db")).unwrap_or_default();
        assert_eq!(found, content, "{folders:?}");
        assert!(!next(dir.path()).exists() && !old(dir.path()).exists(), "{folders:?}");
    }
}
