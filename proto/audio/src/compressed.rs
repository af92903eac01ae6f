//! MP3, M4A and AAC by the decoders of `symphonia`.
//!
//! Its readers are called directly: its search for a known mark could find one in a picture inside a tag. They do not
//! allocate by stated lengths; the loop here bounds the work that a forged table of contents causes.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use symphonia::{
    core::{
        codecs::audio::{AudioDecoder, AudioDecoderOptions},
        errors::Error,
        formats::{FormatOptions, FormatReader, TrackType},
        io::{MediaSource, MediaSourceStream, ReadOnlySource},
    },
    default::{
        formats::{AdtsReader, IsoMp4Reader, MpaReader},
        get_codecs,
    },
};

use crate::{AudioError, sink::Sink, upload::Recording};

/// Sound that a damaged file must have, in milliseconds.
const MIN_MS: u64 = 100;
/// Packets without sound for us, such as those of a video, at most.
const MAX_SILENT_PACKETS: u32 = 1_000_000;
/// Bytes of all packets at most, in lengths of the file: a table of contents can name the same bytes repeatedly.
const MAX_READ: usize = 4;

/// Kind of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Container {
    Mp3,
    M4a,
    /// AAC frames without a container.
    Aac,
}

impl Container {
    fn name(self) -> &'static str {
        match self {
            Self::Mp3 => "MP3",
            Self::M4a => "M4A",
            Self::Aac => "AAC",
        }
    }

    fn open(self, file: &[u8]) -> Result<Box<dyn FormatReader + '_>, Error> {
        let options = FormatOptions::default();
        Ok(match self {
            // Without seeking, the reader does not guess the length from the first frames.
            Self::Mp3 => Box::new(MpaReader::try_new(stream(ReadOnlySource::new(file)), options)?),
            Self::Aac => Box::new(AdtsReader::try_new(stream(ReadOnlySource::new(file)), options)?),
            Self::M4a if is_complete(file) => Box::new(IsoMp4Reader::try_new(stream(Cursor::new(file)), options)?),
            // With seeking, the reader skips a box that exceeds the file, although part of the sound is there.
            Self::M4a => Box::new(IsoMp4Reader::try_new(stream(ReadOnlySource::new(file)), options)?),
        })
    }
}

/// Whether no top-level box of an MP4 file exceeds the file.
fn is_complete(file: &[u8]) -> bool {
    let mut rest = file;
    while let Some(&[a, b, c, d, ..]) = rest.first_chunk::<8>() {
        let length = match u32::from_be_bytes([a, b, c, d]) {
            // The box extends to the end.
            0 => return true,
            1 => rest.get(8..16).and_then(|b| b.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes),
            length => u64::from(length),
        };
        // A box has at least its header.
        let next = usize::try_from(length).ok().and_then(|length| rest.get(length.max(8)..));
        let Some(next) = next else { return false };
        rest = next;
    }
    true
}

fn stream<'a>(source: impl MediaSource + 'a) -> MediaSourceStream<'a> {
    MediaSourceStream::new(Box::new(source), Default::default())
}

/// The sound of a file, at most `max_ms` milliseconds.
pub(crate) fn decode(container: Container, file: &[u8], max_ms: u64) -> Result<Recording, AudioError> {
    let found = container.name();
    // The decoder is not ours and the file is a stranger's: a panic costs this file, not the thread.
    catch_unwind(AssertUnwindSafe(|| Decoding::new(container, file, max_ms)?.run()))
        .unwrap_or_else(|_| Err(damaged(found, "the decoder failed")))
}

/// The decoding of one file.
struct Decoding<'a> {
    found: &'static str,
    max_ms: u64,
    reader: Box<dyn FormatReader + 'a>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// `None` before the first packet, which tells the rate.
    sink: Option<Sink>,
    /// Sample rate and number of channels of the first packet.
    shape: (u32, usize),
    interleaved: Vec<f32>,
    /// Bytes that packets may still have.
    readable: usize,
    silent_packets: u32,
}

impl<'a> Decoding<'a> {
    fn new(container: Container, file: &'a [u8], max_ms: u64) -> Result<Self, AudioError> {
        let found = container.name();
        let reader = container.open(file).map_err(|error| refusal(found, &error))?;
        let track = reader.first_track_known_codec(TrackType::Audio).ok_or(AudioError::Empty { found })?;
        let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio());
        let parameters = parameters.ok_or(AudioError::Empty { found })?;
        // The encoder's delay is cut below.
        let options = AudioDecoderOptions::default().gapless(false);
        let decoder = get_codecs().make_audio_decoder(parameters, &options);
        Ok(Self {
            found,
            max_ms,
            track: track.id,
            decoder: decoder.map_err(|error| refusal(found, &error))?,
            reader,
            sink: None,
            shape: (0, 0),
            interleaved: Vec::new(),
            readable: file.len().saturating_mul(MAX_READ),
            silent_packets: 0,
        })
    }

    fn run(mut self) -> Result<Recording, AudioError> {
        let damage = loop {
            match self.step() {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        match (self.sink, damage) {
            (Some(sink), Some(_)) if sink.length_ms() >= MIN_MS => Ok(sink.finish()),
            (_, Some(error)) => Err(error),
            (Some(sink), None) => Ok(sink.finish()),
            (None, None) => Err(AudioError::Empty { found: self.found }),
        }
    }

    /// Decodes a packet. Returns whether there are more, and room for them.
    fn step(&mut self) -> Result<bool, AudioError> {
        let found = self.found;
        let packet = self.reader.next_packet().map_err(|error| refusal(found, &error))?;
        let Some(packet) = packet else { return Ok(false) };
        let readable = self.readable.checked_sub(packet.data.len());
        self.readable = readable.ok_or_else(|| damaged(found, "it names the same data again and again"))?;
        if packet.track_id != self.track {
            return self.pass_silent_packet();
        }
        let sound = self.decoder.decode(&packet).map_err(|error| refusal(found, &error))?;
        let shape = (sound.spec().rate(), sound.num_planes());
        sound.copy_to_vec_interleaved(&mut self.interleaved);
        // The encoder's delay. The end in the header is ignored: it is wrong in files that were joined.
        let delay = (packet.trim_start.get() as usize).saturating_mul(shape.1);
        let samples = self.interleaved.get(delay..).unwrap_or_default();
        if samples.is_empty() {
            return self.pass_silent_packet();
        }
        if self.sink.is_none() {
            self.sink = Some(Sink::new(found, shape.0, shape.1, self.max_ms)?);
            self.shape = shape;
        }
        if self.shape != shape {
            return Err(damaged(found, "its sample rate or number of channels changes"));
        }
        Ok(self.sink.as_mut().is_some_and(|sink| sink.push(samples)))
    }

    fn pass_silent_packet(&mut self) -> Result<bool, AudioError> {
        self.silent_packets += 1;
        match self.silent_packets <= MAX_SILENT_PACKETS {
            true => Ok(true),
            false => Err(damaged(self.found, "it has hardly any sound")),
        }
    }
}

fn damaged(found: &'static str, reason: &str) -> AudioError {
    AudioError::Damaged { found, reason: reason.to_owned() }
}

fn refusal(found: &'static str, error: &Error) -> AudioError {
    match error {
        Error::Unsupported(reason) => AudioError::Feature { found, reason: (*reason).to_owned() },
        error => damaged(found, &error.to_string()),
    }
}
