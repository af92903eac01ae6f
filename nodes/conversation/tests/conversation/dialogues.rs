//! The golden dialogues: `tests/dialogues/*.txt`, calls as plain text. `>` is an input, `<` an output of the
//! conversation, `=` its state; README.md there describes the format.
//!
//! `UPDATE=1 cargo test` rewrites the `<` and `=` lines; check the difference before a commit.

use std::{collections::BTreeSet, fs, path::Path};

use twinbox_conversation::{
    Answer, Caller, Conversation, Entry, GreetingKind, Input, MailboxView, Mark, Output, Prompt, Purpose, Question,
    RecordingEnd, Start,
    keymap::{KEYPAD, KeyMap},
};
use twinbox_ids::{BlobHash, Timestamp};

use crate::common::{GREETING_HASH, GREETINGS, NOW, mailbox, message, settings};

/// All states in which a caller can press a key, with the maps that have them.
const STATES: [(&str, &[&str]); 33] = [
    ("leave/greeting", &BOTH),
    ("leave/tone", &BOTH),
    ("leave/full", &BOTH),
    ("leave/recording", &BOTH),
    ("leave/stopping", &BOTH),
    ("leave/filing", &BOTH),
    ("leave/transferring", &BOTH),
    ("sign-in/number", &BOTH),
    ("sign-in/finding", &BOTH),
    ("sign-in/pin", &BOTH),
    ("sign-in/checking", &BOTH),
    ("new-pin/first", &BOTH),
    ("new-pin/again", &BOTH),
    ("new-pin/setting", &BOTH),
    ("menu/listing", &BOTH),
    ("menu/main", &BOTH),
    ("menu/folders", &["asterisk"]),
    ("menu/setup", &BOTH),
    ("menu/greetings", &["unity"]),
    ("menu/personal", &["unity"]),
    ("menu/temporary", &BOTH),
    ("menu/removing", &BOTH),
    ("message/envelope", &BOTH),
    ("message/audio", &BOTH),
    ("message/played", &BOTH),
    ("message/advanced", &["asterisk"]),
    ("message/marking", &BOTH),
    ("greeting/prompt", &BOTH),
    ("greeting/recording", &BOTH),
    ("greeting/stopping", &BOTH),
    ("greeting/review", &BOTH),
    ("greeting/keeping", &BOTH),
    ("last-words", &BOTH),
];

const BOTH: [&str; 2] = ["asterisk", "unity"];

/// States in which every key was pressed: (map, state).
type Pressed = BTreeSet<(&'static str, &'static str)>;

#[test]
fn dialogues() {
    let update = std::env::var_os("UPDATE").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("the dialogues").map(|entry| entry.expect("a file").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let mut pressed = Pressed::new();
    let mut failures = String::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a dialogue");
        let played = perform(&text, &mut pressed).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if played == text {
            continue;
        }
        if update {
            fs::write(file, played).expect("a dialogue is written");
        } else {
            failures += &format!("--- {}\n{}", file.display(), difference(&text, &played));
        }
    }
    assert!(failures.is_empty(), "dialogues differ (- as written, + as it goes):\n{failures}");

    let wanted = STATES.iter().flat_map(|(state, maps)| maps.iter().map(move |map| (*map, *state)));
    let wanted: Pressed = wanted.collect();
    let missing: Vec<_> = wanted.difference(&pressed).collect();
    assert!(missing.is_empty(), "no dialogue presses each key in {missing:?}");
    let unknown: Vec<_> = pressed.difference(&wanted).collect();
    assert!(unknown.is_empty(), "the list of places lacks {unknown:?}");
}

/// Runs a dialogue; returns its text with the actual outputs.
fn perform(text: &str, pressed: &mut Pressed) -> Result<String, String> {
    let mut result = String::new();
    // One conversation for each map; their outputs must be equal.
    let mut calls: Vec<(&'static str, Conversation)> = Vec::new();
    let mut now = NOW;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with(['<', '=', ' ']) {
            continue;
        }
        result += line;
        result.push('\n');
        let Some(event) = line.strip_prefix("> ") else {
            continue;
        };
        let error = |error: String| format!("line {}: '{line}': {error}", number + 1);
        let words: Vec<_> = event.split_whitespace().collect();
        let mut versions = Vec::new();
        match words[..] {
            ["start", ..] => {
                now = NOW;
                calls.clear();
                for map in KeyMap::all() {
                    if words.iter().any(|w| w.starts_with("map=") && *w != format!("map={}", map.name)) {
                        continue;
                    }
                    let (call, outputs) = Conversation::start(start(&words[1..], map.name).map_err(error)?);
                    versions.push(written(&outputs, &call));
                    calls.push((map.name, call));
                }
            }
            ["each", "key"] => {
                for (map, call) in &calls {
                    pressed.insert((map, call.state_name()));
                    versions.push(each_key(call, now));
                }
            }
            ["later", seconds] => now.0 += seconds.parse::<u64>().map_err(|e| error(e.to_string()))? * 1_000,
            _ => {
                let inputs = inputs(&words).map_err(error)?;
                for (_, call) in &mut calls {
                    let outputs: Vec<_> = inputs.iter().flat_map(|input| call.handle(input.clone(), now)).collect();
                    versions.push(written(&outputs, call));
                }
            }
        }
        if versions.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(error(format!("the maps differ, say map=… at the start:\n{}", versions.join("and\n"))));
        }
        result += versions.first().map_or("", String::as_str);
    }
    Ok(result)
}

/// Effect of each key, tried on a copy of the call; keys with the same effect share a line.
fn each_key(call: &Conversation, now: Timestamp) -> String {
    let mut outcomes: Vec<(String, String)> = Vec::new();
    for key in KEYPAD {
        let outcome = one_key(call, key, now);
        match outcomes.iter_mut().find(|(_, known)| *known == outcome) {
            Some((keys, _)) => keys.push(key),
            None => outcomes.push((key.to_string(), outcome)),
        }
    }
    outcomes.iter().map(|(keys, outcome)| format!("  {keys}  {outcome}\n")).collect()
}

fn one_key(call: &Conversation, key: char, now: Timestamp) -> String {
    let mut copy = call.clone();
    let outputs = copy.handle(Input::Digit(key), now);
    let outputs: Vec<_> = outputs.iter().map(output).collect();
    let outputs = if outputs.is_empty() { "-".to_owned() } else { outputs.join("; ") };
    let state =
        if copy.state_name() == call.state_name() { String::new() } else { format!("  = {}", copy.state_name()) };
    outputs + &state
}

fn written(outputs: &[Output], call: &Conversation) -> String {
    let mut text: String = outputs.iter().map(|o| format!("< {}\n", output(o))).collect();
    text += &format!("= {}\n", call.state_name());
    text
}

fn output(output: &Output) -> String {
    let seconds = |ms: &u64| format!("{}s", *ms as f64 / 1_000.0);
    match output {
        Output::Play(prompts) => format!("play {}", prompts.iter().map(prompt).collect::<Vec<_>>().join(" ")),
        Output::StopPlay => "stop-play".to_owned(),
        Output::SetTimer(ms) => format!("timer {}", seconds(ms)),
        Output::CancelTimer => "cancel-timer".to_owned(),
        Output::Record { purpose, max_ms, end_silence_ms } => {
            let what = match purpose {
                Purpose::Message(mailbox) => format!("message {}", mailbox.0),
                Purpose::Greeting(mailbox, kind) => format!("greeting {} {}", mailbox.0, greeting_name(*kind)),
            };
            format!("record {what} max={} silence={}", seconds(max_ms), seconds(end_silence_ms))
        }
        Output::StopRecording => "stop-recording".to_owned(),
        Output::DiscardRecording => "discard-recording".to_owned(),
        Output::Ask(question) => format!("ask {}", asked(question)),
        Output::Transfer(to) => format!("transfer {to}"),
        Output::HangUp => "hang-up".to_owned(),
    }
}

fn asked(question: &Question) -> String {
    match question {
        Question::FindMailbox(number) => format!("find-mailbox {number}"),
        Question::CheckPin(mailbox, pin) => format!("check-pin {} {}", mailbox.0, pin.reveal()),
        Question::CheckPinOfNumber(number, pin) => format!("check-pin-of-number {number} {}", pin.reveal()),
        Question::SetPin(mailbox, pin) => format!("set-pin {} {}", mailbox.0, pin.reveal()),
        Question::ListMessages(mailbox) => format!("list-messages {}", mailbox.0),
        Question::Mark(mailbox, message, mark) => {
            let mark = match mark {
                Mark::Heard => "heard",
                Mark::Saved => "saved",
                Mark::Deleted => "deleted",
                Mark::Undeleted => "undeleted",
            };
            format!("mark {} message-{} {mark}", mailbox.0, message.0)
        }
        Question::FileMessage(mailbox) => format!("file-message {}", mailbox.0),
        Question::KeepGreeting(mailbox, kind) => format!("keep-greeting {} {}", mailbox.0, greeting_name(*kind)),
        Question::RemoveGreeting(mailbox, kind) => {
            format!("remove-greeting {} {}", mailbox.0, greeting_name(*kind))
        }
    }
}

fn prompt(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Named(name) => name.clone(),
        Prompt::Audio(hash) if hash.0[0] >= GREETING_HASH => {
            format!("[greeting-{}]", GREETINGS[usize::from(hash.0[0] - GREETING_HASH)].1)
        }
        Prompt::Audio(hash) => format!("[message-{}]", hash.0[0]),
        Prompt::LastTake => "[last-take]".to_owned(),
        Prompt::Beep => "beep".to_owned(),
        Prompt::Silence(ms) => format!("silence-{ms}"),
    }
}

fn greeting_name(kind: GreetingKind) -> &'static str {
    GREETINGS.iter().find(|(k, _)| *k == kind).map_or("?", |(_, name)| name)
}

fn greeting_kind(name: &str) -> Option<GreetingKind> {
    GREETINGS.iter().find(|(_, n)| *n == name).map(|(kind, _)| *kind)
}

fn start(words: &[&str], map: &str) -> Result<Start, String> {
    let (kind, words) = words.split_first().ok_or("start what?")?;
    let number = words.first().filter(|w| w.starts_with(|c: char| c.is_ascii_digit()));
    let view = number.map(|number| view(number, &words[1..])).transpose()?;
    let entry = match (*kind, view) {
        ("leave", Some(mailbox)) => {
            let greeting = words.iter().find_map(|w| greeting_kind(w)).unwrap_or(GreetingKind::Standard);
            Entry::Leave { mailbox, greeting }
        }
        ("sign-in", mailbox) => Entry::SignIn { mailbox },
        ("ask-mailbox", None) => Entry::AskMailbox,
        ("apology", None) => Entry::Apology,
        _ => return Err("start leave NUMBER, sign-in [NUMBER], ask-mailbox or apology".to_owned()),
    };
    Ok(Start { entry, caller: Caller::default(), settings: settings(map), now: NOW })
}

fn view(number: &str, words: &[&str]) -> Result<MailboxView, String> {
    let mut view = mailbox(number);
    for word in words {
        match word.split_once('=') {
            None if *word == "full" => view.full = true,
            None if *word == "unavailable" => view.unavailable = true,
            None if greeting_kind(word).is_some() => {}
            Some(("operator", to)) => view.operator = Some(to.to_owned()),
            Some(("has", list)) => {
                for name in list.split(',') {
                    let place = GREETINGS.iter().position(|(_, n)| *n == name).ok_or("has= which greeting?")?;
                    let hash = BlobHash([GREETING_HASH + place as u8; 32]);
                    view.greetings.push((GREETINGS[place].0, hash));
                }
            }
            Some(("map", _)) => {}
            _ => return Err(format!("what is '{word}'?")),
        }
    }
    Ok(view)
}

fn inputs(words: &[&str]) -> Result<Vec<Input>, String> {
    Ok(match words {
        ["keys", keys] => keys.chars().map(Input::Digit).collect(),
        ["played"] => vec![Input::PlayFinished],
        ["missing"] => vec![Input::AudioMissing],
        ["timer"] => vec![Input::TimerFired],
        ["transfer-failed"] => vec![Input::TransferFailed],
        ["hang-up"] => vec![Input::HungUp],
        ["recorded", end, ms] => {
            let end = match *end {
                "stopped" => RecordingEnd::Stopped,
                "silence" => RecordingEnd::Silence,
                "limit" => RecordingEnd::Limit,
                "failed" => RecordingEnd::Failed,
                _ => return Err("recorded stopped, silence, limit or failed".to_owned()),
            };
            vec![Input::RecordingEnded { end, length_ms: ms.parse().map_err(|_| "how many milliseconds?")? }]
        }
        ["answer", answer @ ..] => vec![Input::Answer(self::answer(answer)?)],
        _ => return Err("what is this?".to_owned()),
    })
}

fn answer(words: &[&str]) -> Result<Answer, String> {
    Ok(match words {
        ["mailbox", "none"] => Answer::Mailbox(None),
        ["mailbox", number, more @ ..] => Answer::Mailbox(Some(view(number, more)?)),
        ["pin-ok"] => Answer::PinOk { must_change: false },
        ["pin-ok", "must-change"] => Answer::PinOk { must_change: true },
        ["pin-wrong"] => Answer::PinWrong,
        ["back-off", seconds] => Answer::PinBackOff { seconds: seconds.parse().map_err(|_| "how many seconds?")? },
        ["messages", counts @ ..] => {
            let count =
                |key: &str| counts.iter().find_map(|w| w.strip_prefix(key)?.parse::<u8>().ok()).unwrap_or(0);
            let (new, old) = (count("new="), count("old="));
            Answer::Messages {
                new: (1..=new).map(message).collect(),
                old: (new + 1..=new + old).map(message).collect(),
            }
        }
        ["done"] => Answer::Done,
        ["pin-refused"] => Answer::PinRefused,
        ["failed"] => Answer::Failed,
        _ => return Err("which answer?".to_owned()),
    })
}

/// The lines that differ, each with the last equal line before.
fn difference(written: &str, played: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (written.lines().collect(), played.lines().collect());
    // Lengths of the longest common subsequence after each pair of lines.
    let mut common = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] =
                if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut text, mut before) = (0, 0, String::new(), None);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            before = Some(format!("{:>4}   {}\n", i + 1, a[i]));
            (i, j) = (i + 1, j + 1);
            continue;
        }
        text += &before.take().unwrap_or_default();
        if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            text += &format!("{:>4} - {}\n", i + 1, a[i]);
            i += 1;
        } else {
            text += &format!("     + {}\n", b[j]);
            j += 1;
        }
    }
    text
}
