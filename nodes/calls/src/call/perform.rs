//! Execution of the conversation's outputs.

use std::time::Duration;

use futures::FutureExt;
use twinbox_conversation::{Input as ConversationInput, Output, Prompt, Purpose, RecordingEnd};
use twinbox_mailstore::RecordingMeta;
use twinbox_media::{Clip, Codec, RecordSpec};

use super::{Call, after, store_queries, take::Take, transfer::Transfer};

/// Clip for an empty play: the conversation still gets its `PlayFinished`.
const NOTHING: Clip = Clip::Silence(20);

impl Call {
    pub(super) fn perform(&mut self, outputs: Vec<Output>) {
        self.note.note_outputs(&outputs);
        for output in outputs {
            match output {
                Output::Play(prompts) => self.play(prompts),
                Output::StopPlay => self.stop_play(),
                Output::SetTimer(ms) => self.timer = after(Duration::from_millis(ms)),
                Output::CancelTimer => self.timer = None,
                Output::Record { purpose, max_ms, end_silence_ms } => self.record(purpose, max_ms, end_silence_ms),
                Output::StopRecording => self.stop_record(),
                Output::DiscardRecording => {
                    if let Some(take) = self.take.take() {
                        self.parts.tasks.spawn(take.discard());
                    }
                }
                Output::Ask(question) => {
                    let take = match question {
                        twinbox_conversation::Question::FileMessage(_)
                        | twinbox_conversation::Question::KeepGreeting(..) => self.take.take(),
                        _ => None,
                    };
                    let source = self.caller.number.clone();
                    self.question = Some(store_queries::answer(self.parts.clone(), question, take, source).boxed());
                }
                Output::Transfer(to) => self.transfer = Some(Transfer::begin(self, &to)),
                // The loop notices the end of the conversation.
                Output::HangUp => self.stop_play(),
            }
        }
    }

    /// Codec of the call, or a default before the negotiation, when nothing is played.
    fn codec(&self) -> Codec {
        self.stream.map_or(Codec::Pcmu, |stream| stream.codec)
    }

    fn play(&mut self, prompts: Vec<Prompt>) {
        self.plays += 1;
        self.transfer = None;
        let stored = |p: &Prompt| matches!(p, Prompt::Audio(_) | Prompt::LastTake);
        if !prompts.iter().any(stored) {
            let clips = prompts.iter().filter_map(|p| self.clip(p)).collect();
            return self.play_now(clips);
        }
        // Audio on disk is loaded completely first, so that the play has no gaps.
        self.media.stop_play();
        let mut pieces = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            pieces.push(match prompt {
                Prompt::Audio(hash) => {
                    let (mailstore, codec) = (self.parts.deps.mailstore.clone(), self.codecs.get(&hash).copied());
                    let codec = codec.unwrap_or(self.codec());
                    async move {
                        match mailstore.blob(&hash).await {
                            Ok(data) => Some(Clip::Audio { codec, data }),
                            Err(error) => {
                                tracing::error!(%error, "stored audio cannot be read; it is not played");
                                None
                            }
                        }
                    }
                    .boxed()
                }
                Prompt::LastTake => {
                    let audio = self.take.as_ref().map(Take::audio);
                    async move {
                        let audio = audio?.await?;
                        Some(Clip::Audio { codec: audio.codec, data: audio.bytes })
                    }
                    .boxed()
                }
                other => std::future::ready(self.clip(&other)).boxed(),
            });
        }
        self.loading =
            Some(async move { futures::future::join_all(pieces).await.into_iter().flatten().collect() }.boxed());
    }

    /// Plays the audio loaded from disk, or reports it missing if none is available.
    pub(super) fn loaded(&mut self, clips: Vec<Clip>) {
        match clips.is_empty() {
            true => self.advance(ConversationInput::AudioMissing),
            false => self.play_now(clips),
        }
    }

    fn play_now(&mut self, mut clips: Vec<Clip>) {
        self.loading = None;
        if clips.is_empty() {
            clips.push(NOTHING);
        }
        self.media.play(self.plays, clips);
    }

    fn stop_play(&mut self) {
        self.plays += 1;
        self.loading = None;
        self.media.stop_play();
    }

    /// A prompt that is in memory.
    fn clip(&self, prompt: &Prompt) -> Option<Clip> {
        let (prompts, codec) = (&self.parts.deps.prompts, self.codec());
        match prompt {
            Prompt::Named(name) => match prompts.get(name, codec) {
                Some(data) => Some(Clip::Audio { codec, data }),
                None => {
                    tracing::warn!(prompt = %name, "prompt is missing from the prompt set; it is not played");
                    None
                }
            },
            Prompt::Beep => Some(Clip::Audio { codec, data: prompts.beep(codec) }),
            Prompt::Silence(ms) => Some(Clip::Silence(u32::try_from(*ms).unwrap_or(u32::MAX))),
            Prompt::Audio(_) | Prompt::LastTake => None,
        }
    }

    fn record(&mut self, purpose: Purpose, max_ms: u64, end_silence_ms: u64) {
        if self.stream.is_none() {
            return self.advance(ConversationInput::RecordingEnded { end: RecordingEnd::Failed, length_ms: 0 });
        }
        let (take, sink) = match purpose {
            Purpose::Message(mailbox) => {
                let meta = RecordingMeta {
                    mailbox,
                    caller: self.caller.number.clone(),
                    caller_name: self.caller.name.clone(),
                    codec: self.codec(),
                    call: self.id,
                };
                Take::message(&self.parts, meta, end_silence_ms > 0)
            }
            Purpose::Greeting(..) => Take::greeting(self.codec(), end_silence_ms > 0),
        };
        self.take = Some(take);
        self.stop_due = None;
        let silence = (end_silence_ms > 0).then(|| Duration::from_millis(end_silence_ms));
        self.media.record(RecordSpec { max: Duration::from_millis(max_ms), end_silence: silence, sink });
    }
}
