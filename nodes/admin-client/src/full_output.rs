//! The end of a command whose standard output takes no more.

use std::{io::Write, panic, process};

/// Text with which `print!` panics when it cannot write, before the reason.
const PRINT_FAILED: &str = "failed printing to stdout: ";

/// From now on a command that cannot write its output, for example to a file on a full disk, ends with one line and the
/// exit code of a failure, instead of a panic.
pub fn end_on_full_output() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        let Some(failure) = failure(text) else { return usual(info) };
        // Standard error may be the same full disk.
        let _ = writeln!(std::io::stderr(), "{failure}");
        process::exit(1);
    }));
}

/// The line for the administrator, if a panic with this text is a failure of `print!`.
fn failure(text: &str) -> Option<String> {
    Some(format!("cannot write the output: {}", text.strip_prefix(PRINT_FAILED)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_to_print_is_no_panic() {
        let full = failure("failed printing to stdout: No space left on device (os error 28)");
        assert_eq!(full.as_deref(), Some("cannot write the output: No space left on device (os error 28)"));
        assert_eq!(failure("index out of bounds"), None);
    }
}
