//! Style rules that a machine can check. Each states its reason.

use std::{
    fs,
    path::{Path, PathBuf},
};

use twinbox_layering::{array, files, judge, members, metadata, root, text};

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

/// A target is compiled a second time, and linked, for its unit tests. One without any says so in its manifest; one with some must
/// not, or they never run.
#[test]
fn only_targets_with_unit_tests_are_built_for_them() {
    let metadata = metadata(&["--no-deps"]);
    let (sources, mut complaints) = (texts(&[".rs"]), Vec::new());
    for package in array(&metadata["packages"]) {
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root()).ok()).expect("below the root");
        let mut own = sources.iter().filter(|(file, _)| file.starts_with(folder.join("src")));
        let has_tests = own.any(|(_, text)| text.contains("cfg(test)"));
        let mut targets = array(&package["targets"])
            .iter()
            .filter(|target| array(&target["kind"]).iter().any(|kind| kind == "lib" || kind == "bin"));
        if targets.any(|target| target["test"] != has_tests) {
            complaints.push(format!(
                "{}: {} `test = false`",
                manifest.display(),
                if has_tests { "no" } else { "add" }
            ));
        }
    }
    judge("unit tests of libraries and programs", &complaints);
}

/// Names that were replaced by terms of the trade, because they were riddles, had several meanings, or had no subject.
#[test]
fn the_old_names_stay_out() {
    const OLD: [&str; 58] = [
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
        "Outcome",
        "Step",
        "Service",
        "Verdict",
        "Settings",
        "Policy",
        "Waiting",
        "Held",
        "Place",
        "Exchange",
        "Lease",
    ];
    let complaints = lines(&sources(), |_, line| {
        declared(line).filter(|name| OLD.contains(name)).map(|name| format!("{name} is an old name"))
    });
    judge("old names", &complaints);
}

/// The README is for users: they read one page, and the rest is in `docs/`.
#[test]
fn the_readme_has_at_most_150_lines() {
    let text = fs::read_to_string(root().join("README.md")).expect("README.md");
    let length = text.lines().count();
    assert!(length <= 150, "README.md: {length} lines, at most 150; figures belong to docs/figures.md");
}

/// Those of the old names that no sentence has by chance.
#[test]
fn the_documents_name_no_old_names() {
    const OLD: [&str; 12] = [
        "Doors",
        "Knocker",
        "Lamps",
        "LightSender",
        "Warden",
        "Tending",
        "LookingBack",
        "Steward",
        "Porter",
        "LastWords",
        "newcomer",
        "newcomers",
    ];
    let mut complaints = Vec::new();
    for (file, text) in texts(&[".md"]) {
        for (number, line) in text.lines().enumerate() {
            for name in OLD.iter().filter(|name| says(line, name)) {
                complaints.push(format!("{}:{}: {name} is an old name", file.display(), number + 1));
            }
        }
    }
    judge("old names in documents", &complaints);
}

/// Words that hide the actor of a sentence.
const NO_ACTOR: [&str; 4] = ["whoever", "nobody", "somebody", "anew"];

/// Words that read as a riddle in a comment, and what a replacement of names has left of another word.
const RIDDLES: [&str; 4] = ["so many", "again and again", "further and further", "aftermonitors"];

/// Question words that leave the noun of a sentence to the reader. "When" and "where" may begin a condition, which a docstring
/// does not have.
const QUESTIONS: [&str; 8] = ["What", "Who", "Whose", "Whom", "Whoever", "How", "Which", "Why"];

/// The text of a line that is only a comment, and whether it is a docstring.
fn comment(line: &str) -> Option<(bool, &str)> {
    let text = line.trim_start().strip_prefix("//")?;
    let doc = text.strip_prefix(['/', '!']);
    Some((doc.is_some(), doc.unwrap_or(text).trim()))
}

/// The text in lower case, without its parts between backticks.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Whether the text has these words as whole words.
fn says(text: &str, words: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric();
    text.match_indices(words)
        .any(|(at, _)| !text[..at].ends_with(in_word) && !text[at + words.len()..].starts_with(in_word))
}

/// The name of the type that a line declares.
fn declared(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let is_kind = |word: &str| matches!(word, "struct" | "enum" | "trait" | "type");
    words.windows(2).find_map(|pair| match pair {
        [kind, name] if is_kind(kind) => Some(*name),
        _ => None,
    })
}

/// Whether a docstring begins with the name of its own type, of several words: a replacement of names did that to the noun.
fn begins_with_own_name(first: &str, after: &[&str]) -> bool {
    let several = first.chars().skip(1).any(char::is_uppercase) && first.contains(char::is_lowercase);
    let item =
        after.iter().map(|line| line.trim_start()).find(|line| !line.starts_with("//") && !line.starts_with("#["));
    several && item.and_then(declared) == Some(first)
}

/// Complaints about the comments of a Rust file, each with the number of its line.
fn about_comments(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    let mut before: Option<(bool, &str)> = None;
    for (n, line) in lines.iter().enumerate() {
        let mut complain = |why: String| complaints.push((n + 1, why));
        let Some((is_doc, text)) = comment(line) else {
            before = None;
            continue;
        };
        let first = text.split(' ').next().unwrap_or_default();
        let begins = before.is_none_or(|(was_doc, _)| was_doc != is_doc);
        if begins {
            if QUESTIONS.contains(&first) || (is_doc && ["Where", "When"].contains(&first)) {
                complain(format!("begins with {first:?}"));
            }
            if text.starts_with('…') {
                complain("begins in the middle of a sentence".to_owned());
            }
            if is_doc && begins_with_own_name(first, &lines[n + 1..]) {
                complain(format!("begins with the name {first} instead of a noun"));
            }
        }
        let follows = !begins && before.is_some_and(|(_, text)| text.ends_with('.'));
        let later = text.split(". ").skip(1).filter_map(|sentence| sentence.split(' ').next());
        let mut sentences = follows.then_some(first).into_iter().chain(later);
        if let Some(word) = sentences.find(|word| QUESTIONS.contains(word)) {
            complain(format!("a sentence begins with {word:?}"));
        }
        let plain = without_code(text);
        for words in NO_ACTOR.iter().chain(&RIDDLES).filter(|words| says(&plain, words)) {
            complain(format!("say it without {words:?}"));
        }
        before = Some((is_doc, text));
    }
    complaints
}

/// A comment states what a thing is or why it is done. One that begins with a question word leaves the noun to the reader, and
/// "whoever" hides the actor.
#[test]
fn comments_begin_with_a_noun_and_sentences_name_their_actor() {
    let mut complaints = Vec::new();
    for (file, text) in sources() {
        let about = about_comments(&text).into_iter();
        complaints.extend(about.map(|(line, why)| format!("{}:{line}: {why}", file.display())));
    }
    complaints.extend(lines(&sources(), |_, line| {
        line.to_lowercase().contains("whoever").then(|| "name the actor instead of \"whoever\"".to_owned())
    }));
    for (file, text) in texts(&[".md", ".toml"]).iter().filter(|(file, _)| !file.starts_with("tests/layering")) {
        for (number, line) in text.lines().enumerate() {
            let plain = without_code(line);
            for word in NO_ACTOR.iter().filter(|word| says(&plain, word)) {
                complaints.push(format!("{}:{}: name the actor instead of {word:?}", file.display(), number + 1));
            }
        }
    }
    judge("words", &complaints);
}

#[test]
fn riddles_in_comments_are_found() {
    for (text, found) in [
        ("/// What it is.\nfn f() {}", 1),
        ("/// When it is due.\nfn f() {}", 1),
        ("// When it is due, it is sent.", 0),
        ("// What is left is sent.", 1),
        ("// The rest is sent. What is left stays.", 1),
        ("// The rest is sent.\n// What is left stays.", 1),
        ("// The rest is sent,\n// which nothing needs.", 0),
        ("/// Lower bound.\nconst A: u8 = 1;\n/// … and upper one.\nconst B: u8 = 2;", 1),
        ("/// KeyPath by which a key arrived.\n#[derive(Debug)]\npub(super) enum KeyPath {", 1),
        ("/// Path by which a key arrived.\nenum KeyPath {", 0),
        ("/// Trunk of a call.\nstruct Trunk;", 0),
        ("// At most so many bytes.", 1),
        ("// User and group: `nobody`.", 0),
        ("// Nobody waits for it.", 1),
        ("let what = 1; // What is not checked: it follows code.", 0),
    ] {
        assert_eq!(about_comments(text).len(), found, "{text}: {:?}", about_comments(text));
    }
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
