//! Detection of a file's kind by its content. Names and media types of attachments are often wrong.

/// Kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// RIFF/WAVE.
    Wav,
    /// MPEG audio, layer III, without the tag before it.
    Mp3(&'a [u8]),
    /// AAC frames, each with an ADTS header, without the tag before them.
    Aac(&'a [u8]),
    /// ISO base media: MP4, M4A, QuickTime.
    Mp4,
    /// A kind without a decoder here, by name.
    Unsupported(&'static str),
    /// Anything else.
    Unknown,
}

/// Kinds without a decoder here: offset of the mark, mark, name.
const UNSUPPORTED: [(usize, &[u8], &str); 17] = [
    (0, b"fLaC", "FLAC"),
    (0, b"OggS", "Ogg (Opus, Vorbis)"),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (8, b"AIFF", "AIFF"),
    (8, b"AIFC", "AIFF"),
    (0, b".snd", "Sun AU"),
    (0, b"caff", "CAF"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"MThd", "MIDI"),
    (8, b"AVI ", "AVI"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
];

/// Tags before MP3 and AAC at most; a file has one, rarely two.
const MAX_TAGS: usize = 4;

impl<'a> Content<'a> {
    /// The kind of a file.
    pub(crate) fn of(file: &'a [u8]) -> Self {
        let has = |at: usize, mark: &[u8]| file.get(at..).is_some_and(|rest| rest.starts_with(mark));
        if (has(0, b"RIFF") || has(0, b"RF64")) && has(8, b"WAVE") {
            return Self::Wav;
        }
        if has(4, b"ftyp") {
            return Self::Mp4;
        }
        if let Some(&(_, _, name)) = UNSUPPORTED.iter().find(|(at, mark, _)| has(*at, mark)) {
            return Self::Unsupported(name);
        }
        let stream = without_tags(file);
        match stream.len() < file.len() && stream.starts_with(b"fLaC") {
            true => Self::Unsupported("FLAC"),
            false => mpeg(stream),
        }
    }
}

/// The file after its ID3v2 tags and the zeros after them.
fn without_tags(file: &[u8]) -> &[u8] {
    let mut rest = file;
    for _ in 0..MAX_TAGS {
        let Some(header) = rest.strip_prefix(b"ID3").and_then(<[u8]>::first_chunk::<7>) else { break };
        let [_, _, flags, length @ ..] = header;
        // Seven bits a byte, so that a length never looks like the start of a frame.
        let length = length.iter().fold(0_usize, |sum, byte| (sum << 7) | usize::from(byte & 0x7f));
        let footer = if flags & 0x10 != 0 { 10 } else { 0 };
        rest = rest.get(10 + length + footer..).unwrap_or_default();
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[zeros..];
    }
    rest
}

/// The kind of MPEG audio that a frame header states (ISO 11172-3, 13818-7).
fn mpeg(stream: &[u8]) -> Content<'_> {
    let Some(&[0xff, second, third]) = stream.first_chunk::<3>() else { return Content::Unknown };
    let (version, layer) = ((second >> 3) & 3, (second >> 1) & 3);
    let (bitrate, rate) = (third >> 4, (third >> 2) & 3);
    let header = second >= 0xe0 && version != 1 && bitrate != 15 && rate != 3;
    match layer {
        0 if second >> 4 == 0x0f && (third >> 2) & 15 < 13 => Content::Aac(stream),
        1 if header => Content::Mp3(stream),
        2 if header => Content::Unsupported("MPEG audio layer II"),
        _ => Content::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_recognized_by_content() {
        let cases: [(&[u8], Content<'_>); 14] = [
            (b"RIFF\0\0\0\0WAVEfmt ", Content::Wav),
            (b"RF64\0\0\0\0WAVEds64", Content::Wav),
            (b"RIFF\0\0\0\0AVI LIST", Content::Unsupported("AVI")),
            (b"\0\0\0\x20ftypM4A ", Content::Mp4),
            (b"\xff\xfb\x90\x64", Content::Mp3(b"\xff\xfb\x90\x64")),
            (b"\xff\xf1\x50\x80", Content::Aac(b"\xff\xf1\x50\x80")),
            (b"\xff\xfd\x90\x64", Content::Unsupported("MPEG audio layer II")),
            (b"fLaC\0\0\0\x22", Content::Unsupported("FLAC")),
            (b"OggS\0\x02", Content::Unsupported("Ogg (Opus, Vorbis)")),
            (b"\xff\xfe<\0h\0t\0m\0l\0", Content::Unknown),
            (b"\xff\xfb\xf0\x64", Content::Unknown),
            (b"Dear colleague", Content::Unknown),
            (b"", Content::Unknown),
            (b"ID3", Content::Unknown),
        ];
        for (file, kind) in cases {
            assert_eq!(Content::of(file), kind, "{file:?}");
        }
    }

    #[test]
    fn tags_before_the_sound_are_skipped() {
        let mut file = b"ID3\x04\0\0\0\0\x01\x02".to_vec();
        file.extend([b'x'; 130]);
        file.extend([0; 7]);
        let tagged = [&file[..], b"\xff\xfb\x90\x64"].concat();
        assert_eq!(Content::of(&tagged), Content::Mp3(b"\xff\xfb\x90\x64"));
        let twice = [&file[..], &tagged].concat();
        assert_eq!(Content::of(&twice), Content::Mp3(b"\xff\xfb\x90\x64"));
        assert_eq!(Content::of(&[&file[..], b"fLaC\0"].concat()), Content::Unsupported("FLAC"));
        assert_eq!(Content::of(b"ID3\x04\0\0\x7f\x7f\x7f\x7f\xff\xfb"), Content::Unknown, "the tag is cut");
    }
}
