//! The administrator's own prompts: a directory in Asterisk's layout.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use twinbox_rtp::Codec;

use crate::{
    Origins, PromptError,
    sound::{self, Format, Sound},
};

/// Supported formats, best first.
const FORMATS: [(&str, Format); 5] = [
    ("wav", Format::Wav),
    ("sln", Format::Linear),
    ("sln8", Format::Linear),
    ("ulaw", Format::G711(Codec::Pcmu)),
    ("alaw", Format::G711(Codec::Pcma)),
];

/// Formats of prompt sets for Asterisk that are not supported.
const UNREADABLE: [&str; 8] = ["gsm", "g722", "g729", "sln16", "siren7", "siren14", "wav16", "WAV"];

/// Maximum file size, in bytes: eight minutes of linear audio. No prompt is larger.
pub const LARGEST: u64 = 8 << 20;

/// The folder to read.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// The folder is that of the language, not the directory itself.
    pub(crate) of_language: bool,
}

/// The folder of the language if the directory has one, else the directory itself.
pub(crate) fn folder(dir: &Path, language: &str) -> Result<Folder, PromptError> {
    fs::read_dir(dir).map_err(|source| PromptError::Directory { dir: dir.to_owned(), source })?;
    // A language is a name and must not lead out of the directory.
    let is_name =
        language.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') && !language.is_empty();
    let of_language = dir.join(language);
    Ok(if is_name && of_language.is_dir() {
        Folder { path: of_language, of_language: true }
    } else {
        Folder { path: dir.to_owned(), of_language: false }
    })
}

/// Replaces prompts of the set by those of the directory. Ignores other files of the directory: nothing plays them.
pub(crate) fn override_with(
    dir: &Path,
    sounds: &mut HashMap<String, Sound>,
    origins: &mut Origins,
) -> Result<(), PromptError> {
    for (name, sound) in sounds.iter_mut() {
        if let Some(own) = find(dir, name)? {
            *sound = own;
            origins.overridden += 1;
        } else if UNREADABLE.iter().any(|extension| dir.join(format!("{name}.{extension}")).exists()) {
            origins.unreadable.push(name.clone());
        }
    }
    origins.unreadable.sort();
    if origins.overridden == 0 {
        return Err(PromptError::Nothing { dir: dir.to_owned() });
    }
    if !origins.unreadable.is_empty() {
        tracing::warn!(
            directory = %dir.display(),
            prompts = ?origins.unreadable,
            "prompts in unsupported formats are ignored; convert them to .wav, mono, 8000 Hz"
        );
    }
    Ok(())
}

fn find(dir: &Path, name: &str) -> Result<Option<Sound>, PromptError> {
    for (extension, format) in FORMATS {
        let path = dir.join(format!("{name}.{extension}"));
        let file = match fs::metadata(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Ok(metadata) if metadata.len() > LARGEST => {
                let problem = "it is longer than any prompt (8 MiB at most): is it the right file?";
                return Err(PromptError::Sound { path, problem });
            }
            Ok(_) => fs::read(&path),
            Err(error) => Err(error),
        };
        let file = file.map_err(|source| PromptError::Read { path: path.clone(), source })?;
        return sound::read(format, &file, &path).map(Some);
    }
    Ok(None)
}
