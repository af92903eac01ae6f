//! The spool: `CONTEXT/MAILBOX/{unavail,busy,temp,greet}.*` and `CONTEXT/MAILBOX/FOLDER/msgNNNN.{txt,wav,…}`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use twinbox_rtp::{Codec, g711, wav::Wav};

/// Maximum size of an audio file, in bytes: more than two hours of linear audio.
const LARGEST: u64 = 128 << 20;

/// Audio in G.711.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audio {
    /// Companding law.
    pub codec: Codec,
    /// Samples, one byte each.
    pub bytes: Bytes,
}

/// A greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// `standard`, `busy`, `temporary` or `name`.
    pub kind: &'static str,
    /// Audio of the greeting.
    pub audio: Audio,
}

/// A message that can be imported; its audio is read later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Path of its files, without extension.
    pub base: PathBuf,
    /// `new`, `heard` or `saved`.
    pub state: &'static str,
    /// Time of the message, in milliseconds since 1970.
    pub received_ms: u64,
    /// Number of the caller; empty if unknown.
    pub caller: String,
    /// Name of the caller; empty if unknown.
    pub caller_name: String,
    /// Asterisk's id of the message; empty in old spools.
    pub msg_id: String,
}

/// A file that is not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Reason and remedy.
    pub why: String,
}

/// Content of a mailbox.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// Greetings of the mailbox.
    pub greetings: Vec<Greeting>,
    /// Messages, oldest first.
    pub messages: Vec<Message>,
    /// Files that are not imported.
    pub not_taken: Vec<SkippedFile>,
}

/// State of the messages in an Asterisk folder; `None` for folders without messages, `saved` for unknown folders.
fn state_of(folder: &str) -> Option<&'static str> {
    match folder {
        "INBOX" | "Urgent" => Some("new"),
        "Old" => Some("heard"),
        // Recordings in progress, deleted messages, and greeting folders of some releases.
        "tmp" | "Deleted" | "unavail" | "busy" | "temp" | "greet" | "Greetings" => None,
        _ => Some("saved"),
    }
}

/// Reads a mailbox, without the audio of messages. `law` is used for audio that is not G.711.
pub fn read(dir: &Path, law: Codec) -> io::Result<Mailbox> {
    let mut mailbox = Mailbox::default();
    for (file, kind) in [("unavail", "standard"), ("busy", "busy"), ("temp", "temporary"), ("greet", "name")] {
        let base = dir.join(file);
        match audio(&base, law) {
            Ok(Some(audio)) => mailbox.greetings.push(Greeting { kind, audio }),
            Ok(None) => {}
            Err(why) => mailbox.not_taken.push(SkippedFile { path: base, why }),
        }
    }
    let mut folders: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
    folders.sort_by_key(fs::DirEntry::file_name);
    for folder in folders {
        let name = folder.file_name().to_string_lossy().into_owned();
        // A link out of the spool is not followed.
        if let Some(state) = state_of(&name).filter(|_| folder.file_type().is_ok_and(|kind| kind.is_dir())) {
            messages(&folder.path(), state, &mut mailbox)?;
        }
    }
    mailbox.messages.sort_by(|a, b| (a.received_ms, &a.base).cmp(&(b.received_ms, &b.base)));
    Ok(mailbox)
}

fn messages(folder: &Path, state: &'static str, mailbox: &mut Mailbox) -> io::Result<()> {
    let mut stems: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let number = stem.strip_prefix("msg").unwrap_or_default();
        if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) {
            stems.push(folder.join(stem));
        }
    }
    stems.sort();
    stems.dedup();
    for base in stems {
        match message(&base, state) {
            Ok(message) => mailbox.messages.push(message),
            Err(why) => mailbox.not_taken.push(SkippedFile { path: base, why }),
        }
    }
    Ok(())
}

fn message(base: &Path, state: &'static str) -> Result<Message, String> {
    let text = fs::read(with(base, "txt")).map_err(|e| format!("its .txt file cannot be read: {e}"))?;
    let text = String::from_utf8_lossy(&text);
    let value = |key: &str| {
        let mut lines = text.lines().filter(|line| !line.trim_start().starts_with(';'));
        lines.find_map(|line| {
            let (found, value) = line.split_once('=')?;
            (found.trim() == key).then(|| value.trim().to_owned())
        })
    };
    let seconds: u64 =
        value("origtime").and_then(|text| text.parse().ok()).ok_or("its .txt file has no time (origtime)")?;
    let (caller_name, caller) = caller(&value("callerid").unwrap_or_default());
    Ok(Message {
        base: base.to_owned(),
        state,
        received_ms: seconds.saturating_mul(1_000),
        caller,
        caller_name,
        msg_id: value("msg_id").unwrap_or_default(),
    })
}

/// Name and number of `"Name" <number>`, `number`, or neither.
fn caller(text: &str) -> (String, String) {
    let known = |text: &str| {
        let text = text.trim().trim_matches('"').trim();
        let unknown = ["unknown", "anonymous", "asterisk", "unavailable"].contains(&text.to_lowercase().as_str());
        if unknown { String::new() } else { text.chars().filter(|c| !c.is_control()).take(128).collect() }
    };
    match text.rsplit_once('<') {
        Some((name, number)) => (known(name), known(number.trim_end().trim_end_matches('>'))),
        None if text.chars().any(|c| c.is_ascii_digit()) && !text.contains('"') => (String::new(), known(text)),
        None => (known(text), String::new()),
    }
}

/// Extensions with their formats, in order of preference.
const READABLE: [(&str, Kind); 13] = [
    ("ulaw", Kind::Law(Codec::Pcmu)),
    ("ul", Kind::Law(Codec::Pcmu)),
    ("mu", Kind::Law(Codec::Pcmu)),
    ("ulw", Kind::Law(Codec::Pcmu)),
    ("pcm", Kind::Law(Codec::Pcmu)),
    ("alaw", Kind::Law(Codec::Pcma)),
    ("al", Kind::Law(Codec::Pcma)),
    ("alw", Kind::Law(Codec::Pcma)),
    ("wav", Kind::Wav),
    ("sln", Kind::Linear),
    ("raw", Kind::Linear),
    // In Asterisk these contain GSM; other writers use other formats.
    ("WAV", Kind::Wav),
    ("wav49", Kind::Wav),
];

/// Extensions that occur in spools and are not supported.
const UNREADABLE: [&str; 7] = ["gsm", "g722", "g729", "ogg", "sln16", "wav16", "siren7"];

#[derive(Clone, Copy)]
enum Kind {
    Law(Codec),
    Wav,
    Linear,
}

/// Audio of a greeting or message by the common name of its files; `None` if there is none. Error: reason why none
/// of the files is readable.
pub fn audio(base: &Path, law: Codec) -> Result<Option<Audio>, String> {
    let mut why = None;
    for (extension, kind) in READABLE {
        let path = with(base, extension);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!(".{extension} cannot be read: {error}")),
            Ok(meta) if !meta.is_file() => continue,
            Ok(meta) if meta.len() > LARGEST => return Err(format!(".{extension} is larger than any message")),
            Ok(_) => {}
        }
        let file = fs::read(&path).map_err(|error| format!(".{extension} cannot be read: {error}"))?;
        match decode(kind, file, law) {
            Ok(audio) if audio.bytes.is_empty() => why = Some(format!(".{extension} has no sound")),
            Ok(audio) => return Ok(Some(audio)),
            // Another format of the same audio may be readable.
            Err(error) => why = Some(format!(".{extension}: {error}")),
        }
    }
    let found: Vec<_> = UNREADABLE.into_iter().filter(|extension| with(base, extension).exists()).collect();
    if !found.is_empty() {
        why = Some(format!(
            "it exists only as .{}, which cannot be read: convert it with sox {}.{} -r 8000 -c 1 -b 16 {}.wav",
            found.join(", ."),
            base.display(),
            found.first().copied().unwrap_or_default(),
            base.display()
        ));
    }
    why.map_or(Ok(None), Err)
}

fn decode(kind: Kind, file: Vec<u8>, law: Codec) -> Result<Audio, String> {
    Ok(match kind {
        Kind::Law(codec) => Audio { codec, bytes: file.into() },
        Kind::Linear => {
            let samples: Vec<i16> =
                file.as_chunks::<2>().0.iter().map(|&bytes| i16::from_le_bytes(bytes)).collect();
            Audio { codec: law, bytes: g711::encode(law, &samples).into() }
        }
        Kind::Wav => {
            let wav = Wav::read(&file).map_err(|error| error.to_string())?;
            let codec = match wav.format {
                twinbox_rtp::wav::Format::G711(codec) => codec,
                twinbox_rtp::wav::Format::Pcm16 => law,
            };
            Audio { codec, bytes: wav.to_g711(codec).into() }
        }
    })
}

/// PIN that Asterisk stores next to a mailbox's folders (`secret.conf`).
pub fn pin(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join("secret.conf")).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "password").then(|| value.trim_start_matches('>').trim().to_owned())
    })
}

fn with(base: &Path, extension: &str) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_parsed_as_asterisk_writes_them() {
        for (text, name, number) in [
            ("\"Ada\" <1002>", "Ada", "1002"),
            ("Ada L <+15550100>", "Ada L", "+15550100"),
            ("1002", "", "1002"),
            ("Unknown", "", ""),
            ("\"\" <anonymous>", "", ""),
            ("Ada", "Ada", ""),
            ("", "", ""),
        ] {
            assert_eq!(caller(text), (name.to_owned(), number.to_owned()), "{text}");
        }
    }

    #[test]
    fn mailbox_is_read_and_unreadable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let text = |seconds: u64| format!("[message]\ncallerid=\"Ada\" <1002>\norigtime={seconds}\nmsg_id=x-1\n");
        put("unavail.ulaw", &[1; 800]);
        put("greet.gsm", &[2; 33]);
        put("INBOX/msg0001.txt", text(200).as_bytes());
        put("INBOX/msg0001.wav", &twinbox_rtp::wav::write_pcm16(&[100; 800]));
        put("INBOX/msg0001.gsm", &[2; 33]);
        put("INBOX/msg0000.txt", text(300).as_bytes());
        put("Old/msg0000.txt", text(100).as_bytes());
        put("Old/msg0000.alaw", &[3; 800]);
        put("Work/msg0000.txt", b"[message]\ncallerid=1\n");
        put("tmp/msg0000.txt", text(1).as_bytes());
        let mailbox = read(dir.path(), Codec::Pcmu).unwrap();
        assert_eq!(mailbox.greetings.len(), 1);
        assert_eq!((mailbox.greetings[0].kind, mailbox.greetings[0].audio.bytes.len()), ("standard", 800));
        let messages: Vec<_> = mailbox.messages.iter().map(|m| (m.received_ms, m.state)).collect();
        assert_eq!(messages, [(100_000, "heard"), (200_000, "new"), (300_000, "new")]);
        let why: Vec<_> = mailbox.not_taken.iter().map(|n| n.why.as_str()).collect();
        assert!(why.len() == 2 && why[0].contains(".gsm") && why[1].contains("origtime"), "{why:?}");
        assert_eq!(audio(&mailbox.messages[0].base, Codec::Pcmu).unwrap().unwrap().codec, Codec::Pcma);
        assert_eq!(audio(&mailbox.messages[1].base, Codec::Pcmu).unwrap().unwrap().bytes.len(), 800);
        assert_eq!(audio(&mailbox.messages[2].base, Codec::Pcmu), Ok(None));
    }
}
