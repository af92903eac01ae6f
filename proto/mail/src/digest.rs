//! Digests that recognize a mail which comes again, perhaps over another relay.

use blake3::Hasher;

use crate::structure::{Body, Part};

/// A hasher whose fields have their lengths in front, so that no two lists of fields hash the same bytes.
pub(crate) struct Digest(Hasher);

impl Digest {
    /// A digest for one purpose; those of different contexts never agree.
    pub(crate) fn new(context: &str) -> Self {
        Self(Hasher::new_derive_key(context))
    }

    /// Adds a field.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    /// The digest of all fields.
    pub(crate) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// The digest of a mail's body: types and decoded contents of its parts in order. Header fields of the mail itself do
/// not count: relays add some.
pub(crate) fn of_body(root: &Part) -> [u8; 32] {
    let mut digest = Digest::new("twinbox mail body digest 1");
    add(root, &mut digest);
    digest.finish()
}

fn add(part: &Part, digest: &mut Digest) {
    digest.field(part.kind.name.as_bytes());
    match &part.body {
        Body::Leaf(bytes) if part.kind.name.starts_with("text/") => digest.field(&normal_lines(bytes)),
        Body::Leaf(bytes) => digest.field(bytes),
        Body::Parts(parts) => {
            digest.field(&(parts.len() as u64).to_be_bytes());
            parts.iter().for_each(|part| add(part, digest));
        }
        Body::Message(message) => {
            for name in ["from", "subject", "date", "message-id"] {
                digest.field(message.fields.line(name).unwrap_or_default().as_bytes());
            }
            add(message, digest);
        }
    }
}

/// A relay may change line ends and white space at line ends, and add empty lines at the end.
fn normal_lines(text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len());
    for line in text.split(|&b| b == b'\n') {
        lines.extend_from_slice(line.trim_ascii_end());
        lines.push(b'\n');
    }
    lines.truncate(lines.trim_ascii_end().len());
    lines
}
