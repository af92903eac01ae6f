//! Prompts of an administrator that replace those of the prompt set, on all nodes.

use std::fmt;

use twinbox_replication_core::{BlobRef, Edit, Key, Record};

use crate::{
    schema::{self, prompt as tag},
    value::{set_blob, set_bytes},
};

/// Name of a prompt: its language and its Asterisk name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromptKey {
    /// Such as `en`.
    pub language: String,
    /// Such as `vm-intro` or `digits/7`.
    pub name: String,
}

impl PromptKey {
    /// A prompt by language and name; `None` unless both are plain words. The name may contain folders.
    pub fn new(language: &str, name: &str) -> Option<Self> {
        let word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let fine = word(language) && name.len() <= 128 && name.split('/').all(word);
        fine.then(|| Self { language: language.to_owned(), name: name.to_owned() })
    }

    /// The key of its record.
    pub fn key(&self) -> Key {
        Key { table: schema::PROMPT, id: self.to_string().into_bytes() }
    }

    /// The prompt of a record's key; `None` for another key.
    pub fn of(key: &Key) -> Option<Self> {
        let text = (key.table == schema::PROMPT).then(|| std::str::from_utf8(&key.id).ok()).flatten()?;
        let (language, name) = text.split_once('/')?;
        Self::new(language, name)
    }
}

impl fmt::Display for PromptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.language, self.name)
    }
}

/// The WAV file in a prompt's record that replaces the set's, if any.
pub fn prompt_audio(record: &Record) -> Option<BlobRef> {
    record.register(tag::AUDIO).and_then(|(value, _)| value.blob().copied())
}

/// The edits of a prompt's record that replace the set's prompt by a WAV file.
pub fn set_prompt(wav: BlobRef) -> Vec<Edit> {
    vec![set_blob(tag::AUDIO, wav)]
}

/// The edits of a prompt's record that restore the prompt of the set.
pub fn clear_prompt() -> Vec<Edit> {
    vec![set_bytes(tag::AUDIO, Vec::new())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_names_have_plain_characters_only() {
        let key = PromptKey::new("en", "digits/7").unwrap();
        assert_eq!(PromptKey::of(&key.key()), Some(key));
        for (language, name) in [("", "a"), ("en", ""), ("en", "../a"), ("en", "a//b"), ("e/n", "a"), ("en", "ä")]
        {
            assert_eq!(PromptKey::new(language, name), None, "{language} {name}");
        }
    }
}
