//! Style rules that a machine can check. Each states its reason.

use std::{
    fs,
    path::{Path, PathBuf},
};

use twinbox_layering::{files, judge, members, root};

/// Every file of the repository with one of these endings, as (path from the root, text).
fn texts(endings: &[&str]) -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter(|f| endings.iter().any(|e| f.to_string_lossy().ends_with(e)))
        .map(|f| {
            let text = fs::read_to_string(root().join(&f)).unwrap_or_else(|e| panic!("{}: {e}", f.display()));
            (f, text)
        })
        .collect()
}

/// Rust sources except this crate's, which contain the forbidden words themselves.
fn sources() -> Vec<(PathBuf, String)> {
    texts(&[".rs"]).into_iter().filter(|(f, _)| !f.starts_with("tests/layering")).collect()
}

/// Whether the line is only a comment.
fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Complains about every line (except comments) in which `bad` finds a problem.
fn lines(sources: &[(PathBuf, String)], bad: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (file, text) in sources {
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !is_comment(l)) {
            if let Some(why) = bad(file, line) {
                complaints.push(format!("{}:{}: {why}", file.display(), number + 1));
            }
        }
    }
    complaints
}

/// A file that is too long to remember holds more than one idea.
#[test]
fn no_source_file_is_longer_than_500_lines() {
    let complaints: Vec<String> = texts(&[".rs"])
        .iter()
        .map(|(f, text)| (f, text.lines().count()))
        .filter(|(_, length)| *length > 500)
        .map(|(f, length)| format!("{}: {length} lines, at most 500", f.display()))
        .collect();
    judge("long files", &complaints);
}

/// A crate that is too large to read in a day holds more than one subject. A composition root that is longer than this holds
/// parts, which belong into crates of their own.
#[test]
fn no_crate_has_more_than_6000_lines_and_the_composition_root_1500() {
    let complaints: Vec<String> = members()
        .iter()
        .filter_map(|member| {
            let folder = member.folder.strip_prefix(root()).ok()?;
            let most = if member.name == "twinbox-app" { 1_500 } else { 6_000 };
            let sources = texts(&[".rs"]);
            let ours = sources.iter().filter(|(f, _)| f.starts_with(folder.join("src")));
            let length: usize = ours.map(|(_, text)| text.lines().count()).sum();
            (length > most).then(|| format!("{}: {length} lines, at most {most}", folder.display()))
        })
        .collect();
    judge("large crates", &complaints);
}

/// Names that were replaced by terms of the trade, because they were riddles or had several meanings.
#[test]
fn the_old_names_stay_out() {
    const OLD: [&str; 47] = [
        "Door",
        "Doors",
        "Knocker",
        "Shows",
        "Lamps",
        "LightSender",
        "Lights",
        "Ward",
        "Warden",
        "Bell",
        "Keeper",
        "Tending",
        "Standing",
        "Anew",
        "Rivals",
        "LookingBack",
        "Steward",
        "Care",
        "Todo",
        "Judge",
        "Aside",
        "Arrival",
        "Word",
        "Speaker",
        "Saying",
        "Leg",
        "Far",
        "Visitors",
        "Porter",
        "Appointment",
        "Happened",
        "Course",
        "Why",
        "Speaks",
        "Lives",
        "Inheritance",
        "How",
        "LastWords",
        "Now",
        "Known",
        "Said",
        "Told",
        "Seen",
        "Heard",
        "Learned",
        "Asked",
        "Tally",
    ];
    let complaints = lines(&sources(), |_, line| {
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let declares = |pair: &[&str]| matches!(pair, [kind, name] if matches!(*kind, "struct" | "enum" | "trait" | "type") && OLD.contains(name));
        words.windows(2).find(|pair| declares(pair)).map(|pair| format!("{} is an old name", pair[1]))
    });
    judge("old names", &complaints);
}

/// A docstring states what a thing is. One that begins with a question word leaves the noun to the reader, and "whoever"
/// hides the actor.
#[test]
fn docstrings_begin_with_a_noun_and_sentences_name_their_actor() {
    const QUESTIONS: [&str; 9] = ["What", "Who", "Whose", "Whom", "Whoever", "How", "Where", "Which", "When"];
    fn doc(line: &str) -> Option<&str> {
        let line = line.trim_start();
        line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim_start)
    }
    let mut complaints = Vec::new();
    for (file, text) in texts(&[".rs", ".md", ".toml"]) {
        if file.starts_with("tests/layering") {
            continue;
        }
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            let at = format!("{}:{}", file.display(), number + 1);
            let begins = doc(line).filter(|_| doc(before).is_none());
            if let Some(word) = begins.and_then(|doc| doc.split(' ').next()).filter(|word| QUESTIONS.contains(word))
            {
                complaints.push(format!("{at}: begins with {word:?}"));
            }
            if line.to_lowercase().contains("whoever") {
                complaints.push(format!("{at}: name the actor instead of \"whoever\""));
            }
            before = line;
        }
    }
    judge("words", &complaints);
}

/// The sources contain no unfinished work.
#[test]
fn nothing_is_left_undone() {
    let complaints = lines(&sources(), |_, line| {
        let marks = ["todo!", "unimplemented!", "dbg!(", "allow(dead_code)", "FIXME", "XXX:"];
        marks.iter().find(|m| line.contains(*m)).map(|m| (*m).to_owned())
    });
    judge("left undone", &complaints);
}

/// The first line of a crate states its purpose.
#[test]
fn every_crate_says_what_it_is() {
    let mut complaints = Vec::new();
    for member in members() {
        let heads = ["src/lib.rs", "src/main.rs"].map(|f| member.folder.join(f));
        for head in heads.iter().filter(|f| f.exists()) {
            let text = fs::read_to_string(head).unwrap_or_default();
            if !text.starts_with("//! ") || text.starts_with("//! skeleton") {
                complaints.push(format!("{}: begins without //! that says what the crate is", head.display()));
            }
        }
    }
    judge("crate headers", &complaints);
}

/// Differences show changes, not whitespace.
#[test]
fn text_files_end_cleanly() {
    let mut complaints = Vec::new();
    let endings = [".rs", ".toml", ".md", ".proto", ".sh", ".xml", ".txt", ".json", "/run", ".service"];
    for (file, text) in texts(&endings) {
        for (number, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if line.ends_with([' ', '\t']) {
                complaints.push(format!("{}:{}: trailing space", file.display(), number + 1));
            }
            if line.contains('\t') && file.extension().is_some_and(|e| e == "rs") {
                complaints.push(format!("{}:{}: tab", file.display(), number + 1));
            }
        }
        if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
            complaints.push(format!("{}: does not end with one newline", file.display()));
        }
    }
    judge("spaces", &complaints);
}

/// The macro call that begins at `start` (its name, then `!(` or `(`), up to its closing bracket.
fn call_at(text: &str, start: usize) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0_i32, false, false);
    for (i, c) in text[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return &text[start..start + i + c.len_utf8()];
                }
            }
            _ => {}
        }
    }
    &text[start..]
}

/// A caller's number, a name or a PIN that is revealed inside a log macro would be in the log.
#[test]
fn nothing_private_is_revealed_in_a_log_macro() {
    const LOGS: [&str; 13] = [
        "trace!(",
        "debug!(",
        "info!(",
        "warn!(",
        "error!(",
        "event!(",
        "span!(",
        "trace_span!(",
        "debug_span!(",
        "info_span!(",
        "warn_span!(",
        "error_span!(",
        "instrument(",
    ];
    let mut complaints = Vec::new();
    for (file, text) in sources() {
        for log in LOGS {
            for (start, _) in text.match_indices(log) {
                let call = call_at(&text, start);
                if ["reveal()", "into_revealed()"].iter().any(|r| call.contains(r)) {
                    let line = text[..start].lines().count();
                    complaints.push(format!("{}:{line}: {}", file.display(), call.replace('\n', " ")));
                }
            }
        }
    }
    judge("private data in logs", &complaints);
}

/// Every disabled lint states a reason.
#[test]
fn every_allow_has_a_reason() {
    let complaints = lines(&sources(), |_, line| {
        let off = line.contains("#[allow(") || line.contains("#![allow(");
        (off && !line.contains("reason") && !line.contains("// ")).then(|| "say why, or use #[expect]".to_owned())
    });
    judge("lints switched off", &complaints);
}

/// `unsafe` states why it is sound, on the line before or above.
#[test]
fn every_unsafe_says_why_it_is_sound() {
    let mut complaints = Vec::new();
    for (file, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate().filter(|(_, l)| !is_comment(l)) {
            let block = line.contains("unsafe {") || line.contains("unsafe impl");
            if block && !lines[n.saturating_sub(8)..=n].iter().any(|l| l.contains("SAFETY")) {
                complaints.push(format!("{}:{}: unsafe without // SAFETY:", file.display(), n + 1));
            }
        }
    }
    judge("unsafe", &complaints);
}

#[test]
fn the_end_of_a_macro_call_is_found() {
    let text = r#"info!(a = %f(b[1]), ") not here \" (", c); reveal()"#;
    assert_eq!(call_at(text, 0), r#"info!(a = %f(b[1]), ") not here \" (", c)"#);
}
