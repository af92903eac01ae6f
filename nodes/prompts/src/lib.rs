//! The prompts: an embedded set. A directory in Asterisk's layout overrides it file by file. Loaded once, stored in
//! both laws of G.711, shared by all calls.

mod beep;
mod directory;
mod sound;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use include_dir::{Dir, include_dir};
use twinbox_rtp::{Codec, wav::WavError};

pub use crate::directory::LARGEST;
use crate::sound::Sound;

static SOUNDS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/sounds");

/// Language of the embedded set; other languages fall back to it prompt by prompt.
const BASE: &str = "en";

/// Name of the record tone, which is computed unless the directory contains it.
const BEEP: &str = "beep";

/// Error of loading prompts. The texts name the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The language is neither embedded nor in the directory.
    #[error(
        "no prompts for the language '{language}': use the embedded '{BASE}', or a directory with a folder \
         '{language}'"
    )]
    Language {
        /// The requested language.
        language: String,
    },
    /// The directory does not exist or is not readable.
    #[error("the prompt directory {}: {source}; correct the path, or omit it to use the embedded prompts", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// No file in the directory overrides a prompt.
    #[error(
        "the prompt directory {} has none that Twinbox plays (such as vm-intro.wav): give the folder that contains \
         vm-intro.wav and digits/, or its parent folder with one folder per language",
        dir.display()
    )]
    Nothing {
        /// The directory.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("the prompt {}: {source}; make it readable or remove it to use the embedded one", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Twinbox cannot play this WAV file.
    #[error("the prompt {}: {source}", path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// The fault and its remedy.
        source: WavError,
    },
    /// A file without audio, cut within a sample, or longer than any prompt.
    #[error("the prompt {}: {problem}", path.display())]
    Sound {
        /// The file.
        path: PathBuf,
        /// The fault and its remedy.
        problem: &'static str,
    },
}

/// Origins of the prompts of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// Number of prompts.
    pub total: usize,
    /// Number of prompts from the directory.
    pub overridden: usize,
    /// Names that the directory has only in formats that Twinbox does not read (gsm, g722, 16 kHz …), sorted; the
    /// embedded prompts are played instead.
    pub unreadable: Vec<String>,
}

/// A set of prompts. Clones share it.
#[derive(Debug, Clone)]
pub struct Prompts {
    sounds: Arc<HashMap<String, Sound>>,
    /// Prompts replaced while the process runs; see [`Prompts::replace`].
    replaced: Arc<RwLock<HashMap<String, Sound>>>,
    origins: Origins,
}

impl Prompts {
    /// Loads the prompts of `language`, such as `en`. A directory overrides the embedded prompts file by file: its
    /// folder named after the language, or else the directory itself. File names are Asterisk's (`vm-intro.wav`,
    /// `digits/7.ulaw`). Formats, by priority: `.wav` (PCM 16 bits, µ-law, A-law), `.sln`, `.sln8`, `.ulaw` and
    /// `.alaw`, all mono, 8,000 Hz. `beep` overrides the record tone.
    ///
    /// Reads files: for the start of a process, not during a call.
    pub fn load(dir: Option<&Path>, language: &str) -> Result<Self, PromptError> {
        let mut sounds = HashMap::from([(BEEP.to_owned(), Sound::from_samples(&beep::samples()))]);
        embedded(BASE, &mut sounds)?;
        let known = language == BASE || embedded(language, &mut sounds)?;
        let mut origins = Origins { total: sounds.len(), ..Origins::default() };
        let folder = dir.map(|dir| directory::folder(dir, language)).transpose()?;
        if !known && !folder.as_ref().is_some_and(|folder| folder.of_language) && !speaks_base(language) {
            return Err(PromptError::Language { language: language.to_owned() });
        }
        if let Some(folder) = folder {
            directory::override_with(&folder.path, &mut sounds, &mut origins)?;
        }
        Ok(Self { sounds: Arc::new(sounds), replaced: Arc::default(), origins })
    }

    /// Checks whether a WAV file can be played as a prompt; the error describes the fault.
    pub fn check(name: &str, wav: &[u8]) -> Result<(), PromptError> {
        read_wav(name, wav).map(|_| ())
    }

    /// Replaces a prompt of the set by a WAV file, in all clones, from the next play on; `None` restores the set's
    /// prompt.
    pub fn replace(&self, name: &str, wav: Option<&[u8]>) -> Result<(), PromptError> {
        let sound = wav.map(|wav| read_wav(name, wav)).transpose()?;
        let mut replaced = self.replaced.write().unwrap_or_else(PoisonError::into_inner);
        match sound {
            Some(sound) => replaced.insert(name.to_owned(), sound),
            None => replaced.remove(name),
        };
        Ok(())
    }

    /// Names of the prompts replaced by [`Self::replace`], sorted.
    pub fn replaced(&self) -> Vec<String> {
        let replaced = self.replaced.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> = replaced.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// A prompt by its Asterisk name (`vm-intro`, `digits/7`), as raw G.711. Cheap: shared, not copied.
    pub fn get(&self, name: &str, codec: Codec) -> Option<Bytes> {
        let replaced = self.replaced.read().unwrap_or_else(PoisonError::into_inner);
        // Only prompts of the set are played.
        let sound = self.sounds.get(name)?;
        Some(replaced.get(name).unwrap_or(sound).get(codec))
    }

    /// Prompts one after the other, as raw G.711; a name without a prompt is left out.
    pub fn say(&self, names: impl IntoIterator<Item = impl AsRef<str>>, codec: Codec) -> Vec<u8> {
        names.into_iter().filter_map(|name| self.get(name.as_ref(), codec)).flatten().collect()
    }

    /// The record tone, as raw G.711.
    pub fn beep(&self, codec: Codec) -> Bytes {
        // `load` always inserts the tone.
        self.get(BEEP, codec).unwrap_or_default()
    }

    /// The names in `required` that have no prompt.
    pub fn missing(&self, required: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<String> {
        let missing = required.into_iter().filter(|name| !self.sounds.contains_key(name.as_ref()));
        missing.map(|name| name.as_ref().to_owned()).collect()
    }

    /// The names of all prompts, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.sounds.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The origins of the prompts.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }
}

fn read_wav(name: &str, wav: &[u8]) -> Result<Sound, PromptError> {
    let path = Path::new(name);
    if wav.len() as u64 > LARGEST {
        let problem = "it is longer than any prompt (8 MiB at most): is it the right file?";
        return Err(PromptError::Sound { path: path.to_owned(), problem });
    }
    sound::read(sound::Format::Wav, wav, path)
}

/// Whether the embedded English covers the language: `en_US`, `en-GB` and similar.
fn speaks_base(language: &str) -> bool {
    language.split(['_', '-']).next() == Some(BASE)
}

/// Adds the embedded prompts of a language; false if there are none.
fn embedded(language: &str, sounds: &mut HashMap<String, Sound>) -> Result<bool, PromptError> {
    let Some(root) = SOUNDS.get_dir(language) else {
        return Ok(false);
    };
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        for file in folder.files() {
            let name = file.path().strip_prefix(root.path()).ok().map(|path| path.with_extension(""));
            if let Some(name) = name.as_deref().and_then(Path::to_str) {
                let sound = sound::read(sound::Format::Wav, file.contents(), file.path())?;
                sounds.insert(name.to_owned(), sound);
            }
        }
    }
    Ok(true)
}
