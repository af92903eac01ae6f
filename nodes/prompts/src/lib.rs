//! The prompts: an embedded set, which a directory in Asterisk's layout overrides file by file. Read once, kept in
//! both laws of G.711, shared by all calls.

mod beep;
mod directory;
mod sound;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use include_dir::{Dir, include_dir};
use twinbox_rtp::{Codec, wav::WavError};

use crate::sound::Sound;

static SOUNDS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/sounds");

/// The language of the set that is always there; another one falls back to it prompt by prompt.
const BASE: &str = "en";

/// The name of the record tone, which is computed unless the directory has one.
const BEEP: &str = "beep";

/// Why the prompts could not be loaded. The texts name the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// Neither embedded nor in the directory.
    #[error(
        "there are no prompts in the language '{language}'; embedded is '{BASE}': choose that, or give a directory \
         that has a folder '{language}'"
    )]
    Language {
        /// The language that was asked for.
        language: String,
    },
    /// The directory is not there or not readable.
    #[error("the directory of prompts {}: {source}; correct the path, or leave it out for the embedded ones", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not one file in it overrides a prompt.
    #[error(
        "the directory of prompts {} has none that Twinbox plays (such as vm-intro.wav): give the folder that holds \
         vm-intro.wav and digits/, or the one above it that has a folder for the language",
        dir.display()
    )]
    Nothing {
        /// The directory.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("the prompt {}: {source}; make it readable or remove it, then the embedded one is played", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that should be a WAV is none that Twinbox can play.
    #[error("the prompt {}: {source}", path.display())]
    Wav {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and how to put it right.
        source: WavError,
    },
    /// A file without sound, cut in the middle of a sample, or longer than any prompt.
    #[error("the prompt {}: {problem}", path.display())]
    Sound {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and how to put it right.
        problem: &'static str,
    },
}

/// Where the prompts of a set come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// Prompts in all.
    pub total: usize,
    /// Those that the directory gave.
    pub overridden: usize,
    /// Names that the directory has only in formats that Twinbox does not read (gsm, g722, 16 kHz …); the embedded
    /// ones are played. Sorted.
    pub unreadable: Vec<String>,
}

/// A set of prompts. Clones share it.
#[derive(Debug, Clone)]
pub struct Prompts {
    sounds: Arc<HashMap<String, Sound>>,
    beep: Sound,
    origins: Origins,
}

impl Prompts {
    /// Loads the prompts of `language`, such as `en`. A directory overrides the embedded ones file by file: its
    /// folder of that name if it has one, otherwise itself. Files are named as Asterisk's are (`vm-intro.wav`,
    /// `digits/7.ulaw`); read are `.wav` (PCM 16 bits, µ-law, A-law), `.sln`, `.sln8`, `.ulaw` and `.alaw`, in this
    /// order if there are several, all mono, 8,000 Hz. `beep` overrides the record tone.
    ///
    /// Reads files; for the start of a process, not for a call.
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
        // `beep` is in the map from the first line on.
        let beep = sounds.get(BEEP).cloned().unwrap_or_default();
        Ok(Self { sounds: Arc::new(sounds), beep, origins })
    }

    /// A prompt by its Asterisk name (`vm-intro`, `digits/7`), as raw G.711. Cheap: shared, not copied.
    pub fn get(&self, name: &str, codec: Codec) -> Option<Bytes> {
        self.sounds.get(name).map(|sound| sound.get(codec))
    }

    /// The record tone, as raw G.711.
    pub fn beep(&self, codec: Codec) -> Bytes {
        self.beep.get(codec)
    }

    /// Which of these names have no prompt.
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

    /// Where they come from.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }
}

/// `en_US`, `en-GB` and the like are spoken by the embedded English.
fn speaks_base(language: &str) -> bool {
    language.split(['_', '-']).next() == Some(BASE)
}

/// Adds the embedded sounds of a language; false if there are none.
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
