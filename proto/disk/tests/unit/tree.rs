//! Errors of sled.

use super::*;

#[test]
fn errors_of_the_system_are_no_damage_also_as_sled_copies_them() {
    let of_system = |code| sled::Error::Io(io::Error::from_raw_os_error(code));
    let dir = tempfile::tempdir().expect("a directory");
    // No space, no quota, a device that fails.
    for code in [28, 122, 5] {
        for error in [of_system(code), of_system(code).clone(), of_system(code).clone().clone()] {
            let found = index_error(dir.path(), &error);
            assert!(!found.is_damage(), "{code}: {found}");
        }
    }
    let damage = sled::Error::Io(io::Error::from(io::ErrorKind::UnexpectedEof));
    assert!(index_error(dir.path(), &damage).is_damage());
    assert!(index_error(dir.path(), &damage.clone()).is_damage());
}
